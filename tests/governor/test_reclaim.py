"""Evicting is sliced by time and ordered by priority; collecting knows its pause; each step says what it returned."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from b1.clock import ManualClock
from b1.governor.collection import Collector
from b1.governor.reclaim import SLICE_S, Reclaimer, evict
from b1.units import KIB, MIB
from tests.governor.fakes import FakeMeter, Holder


async def at_once(call: Callable[[], Any]) -> Any:
    return call()


class SlowHolder(Holder):
    """Takes time for each entry that it drops, as freeing does."""

    def __init__(self, clock: ManualClock, *, entry_bytes: int, entry_s: float) -> None:
        super().__init__("slow", 64)
        self._clock, self._entry_bytes, self._entry_s = clock, entry_bytes, entry_s

    def reclaim(self, target_bytes: int) -> int:
        entries = -(-target_bytes // self._entry_bytes)
        self._clock.advance(entries * self._entry_s)
        return super().reclaim(entries * self._entry_bytes)


async def test_lower_priorities_are_emptied_first(clock: ManualClock) -> None:
    first, second, third = Holder("a", 1), Holder("b", 4), Holder("c", 5)
    evicted = await evict([first, second, third], 0.5, clock)
    assert (0, 0, 5 * MIB, 5 * MIB) == (first.held, second.held, third.held, evicted.given_bytes)


async def test_everything_is_taken_when_everything_is_asked_for(clock: ManualClock) -> None:
    holders = [Holder("a", 3), Holder("b", 7)]
    await evict(holders, 1.0, clock)
    assert [0, 0] == [holder.held for holder in holders]


@pytest.mark.parametrize(
    ("entry_bytes", "entry_s"), [(500, 2e-6), (1 * KIB, 1e-6), (64 * KIB, 20e-6), (1 * MIB, 300e-6)]
)
async def test_no_slice_holds_the_loop_for_two_milliseconds(
    clock: ManualClock, entry_bytes: int, entry_s: float
) -> None:
    holder = SlowHolder(clock, entry_bytes=entry_bytes, entry_s=entry_s)
    evicted = await evict([holder], 1.0, clock)
    assert (0, True) == (holder.held, evicted.longest_slice_s < SLICE_S)


async def test_the_loop_turns_between_slices(clock: ManualClock) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    holder = Holder("a", 64)
    await evict([holder], 1.0, clock)
    counting.cancel()
    assert turns >= len(holder.asked) > 5


async def test_a_holder_that_gives_nothing_is_passed_over(clock: ManualClock) -> None:
    class Miser(Holder):
        def reclaim(self, target_bytes: int) -> int:
            self.asked.append(target_bytes)
            return 0

    miser, second = Miser("miser", 10), Holder("second", 10)
    await evict([miser, second], 0.5, clock)
    assert (1, 0) == (len(miser.asked), second.held)


async def test_a_holder_that_fails_does_not_keep_the_others_from_giving(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Holder):
        def held_bytes(self) -> int:
            raise KeyError("held")

        def reclaim(self, target_bytes: int) -> int:
            raise KeyError("reclaim")

    second = Holder("second", 10)
    await evict([Broken("broken", 1), second], 0.5, clock)
    assert 5 * MIB == second.held
    assert {"broken"} == {record.__dict__["holder"] for record in caplog.records}


async def test_each_step_says_what_it_returned(clock: ManualClock) -> None:
    meter = FakeMeter(500)

    def trim() -> int:
        meter.used -= 30 * MIB
        return 1

    reclaimer = Reclaimer(
        clock, Collector(clock, pause_limit_s=0), read_used=meter.used_bytes, off_loop=at_once, trim=trim
    )
    reclaimer.register(Holder("cache", 40, meter=meter))
    reclaimed = await reclaimer.reclaim(0.5, level="high")
    assert {"evict": 20 * MIB, "collect": 0, "trim": 30 * MIB} == {
        step.name: step.returned_bytes for step in reclaimed.steps
    }
    assert (50 * MIB, 20 * MIB, 500 * MIB) == (
        reclaimed.returned_bytes,
        reclaimed.evicted_bytes,
        reclaimed.used_before_bytes,
    )


async def test_growth_in_one_step_does_not_hide_what_another_returned(clock: ManualClock) -> None:
    readings = [500, 600, 600, 570]
    reclaimer = Reclaimer(
        clock,
        Collector(clock, pause_limit_s=0),
        read_used=lambda: readings.pop(0) * MIB,
        off_loop=at_once,
        trim=lambda: 1,
    )
    assert 30 * MIB == (await reclaimer.reclaim(0.5, level="high")).returned_bytes


async def test_an_allocator_without_trim_ends_with_the_collection(clock: ManualClock) -> None:
    meter = FakeMeter()
    reclaimer = Reclaimer(
        clock, Collector(clock, pause_limit_s=0), read_used=meter.used_bytes, off_loop=at_once, trim=None
    )
    assert ["evict", "collect"] == [step.name for step in (await reclaimer.reclaim(0.5, level="high")).steps]


def collector(clock: ManualClock, blocks: list[int]) -> Collector:
    return Collector(clock, pause_limit_s=0.1, blocks=lambda: blocks[0])


def test_before_anything_was_measured_the_guess_is_80_ns_a_block(clock: ManualClock) -> None:
    assert 0.08 == pytest.approx(collector(clock, [1_000_000]).predicted_s())


def test_the_prediction_is_the_last_pause_and_what_came_since(clock: ManualClock) -> None:
    blocks = [500_000]
    one = collector(clock, blocks)
    one.learn(0.001)  # most of it was frozen
    blocks[0] = 1_000_000
    assert 0.041 == pytest.approx(one.predicted_s())


def test_the_rate_is_learned_from_two_pauses(clock: ManualClock) -> None:
    blocks = [500_000]
    one = collector(clock, blocks)
    one.learn(0.010)
    blocks[0] = 1_500_000
    one.learn(0.030)  # 20 ns a block on this machine
    blocks[0] = 2_500_000
    assert 0.050 == pytest.approx(one.predicted_s())


@pytest.mark.parametrize(("blocks", "is_full"), [(100_000, True), (1_249_000, True), (1_251_000, False)])
def test_a_full_collection_needs_an_acceptable_pause(clock: ManualClock, blocks: int, is_full: bool) -> None:
    generations: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        generations.append(info["generation"])

    gc.callbacks.append(note)
    try:
        collected = collector(clock, [blocks]).collect()
    finally:
        gc.callbacks.remove(note)
    assert is_full is collected.is_full
    assert (2 if is_full else 1) in generations


def test_full_collections_of_others_are_watched_until_the_end(clock: ManualClock) -> None:
    before = len(gc.callbacks)
    blocks = [500_000]
    one = collector(clock, blocks)
    one.start()
    gc.collect()
    one.stop()
    one.stop()
    assert (0.0, before) == (one.predicted_s(), len(gc.callbacks))
