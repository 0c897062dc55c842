"""At the high watermark the governor takes from what it was introduced to."""

import gc

from b1.cache import L1
from b1.clock import ManualClock
from b1.governor import Governor, Level
from b1.plan import WATERMARKS

MIB = 1024**2


def governor(clock: ManualClock, readings: list[int]) -> Governor:
    return Governor(
        clock,
        limit_bytes=100 * MIB,
        marks=WATERMARKS,
        interval_s=0.5,
        read_used=lambda: readings.pop(0) if len(readings) > 1 else readings[0],
    )


def filled_cache(clock: ManualClock) -> L1:
    l1 = L1(10 * MIB, clock)
    for number in range(64):
        l1.put(f"k{number}", b"x" * 10_000, 10_000, ttl_s=60, versions=())
    return l1


async def test_half_of_the_cache_is_evicted_at_the_high_watermark(clock: ManualClock) -> None:
    l1 = filled_cache(clock)
    one = governor(clock, [85 * MIB, 85 * MIB, 85 * MIB, 60 * MIB])
    one.register(l1)
    before = l1.held_bytes()
    assert Level.NORMAL is await one.sample()
    assert before == l1.held_bytes()
    assert Level.SEVERE is await one.sample()
    assert l1.held_bytes() <= before // 2
    snapshot = one.snapshot()
    assert (snapshot.reclaims, snapshot.reclaimed_bytes) == (1, 25 * MIB)


async def test_the_same_level_reclaims_again_only_after_a_while(clock: ManualClock) -> None:
    one = governor(clock, [82 * MIB])
    for _ in range(5):
        await one.sample()
    assert one.snapshot().reclaims == 1
    clock.advance(31)
    await one.sample()
    assert one.snapshot().reclaims == 2


async def test_lower_priorities_are_emptied_first(clock: ManualClock) -> None:
    emptied: list[str] = []

    class Holder:
        def __init__(self, name: str, priority: int) -> None:
            self.name, self.priority = name, priority

        def held_bytes(self) -> int:
            return 1000

        def reclaim(self, target_bytes: int) -> int:
            emptied.append(self.name)
            return target_bytes

    one = governor(clock, [50 * MIB])
    one.register(Holder("last", 90))
    one.register(Holder("first", 5))
    await one.reclaim()
    assert emptied == ["first", "last"]


async def test_the_real_memory_of_this_process_is_read(clock: ManualClock) -> None:
    one = Governor(clock, limit_bytes=100 * MIB, marks=WATERMARKS, interval_s=0.5)
    one.start()
    try:
        assert one.snapshot().used_bytes > 10 * MIB
    finally:
        await one.aclose()
        gc.collect()
