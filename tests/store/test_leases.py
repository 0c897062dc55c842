"""What is held at a time: accounted honestly, gone with its holder, counted by a successor while the old worker ends."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from b1.clock import ManualClock
from b1.store.base import Charge
from b1.store.leases import Leases
from b1.store.memory import MemoryStore
from b1.store.terms import Terms
from b1.testing import StoreHarness

MIB = 2**20
NOW_MS = 1_750_032_000_000
LEASE = Charge("lease:a:1", 2, 60_000, 1, False, "lease")


def _charge(number: int) -> Charge:
    return Charge(f"lease:a:{number:032x}", 2, 60_000, 1, False, "lease")


def test_accounted_bytes_are_real_bytes() -> None:
    leases, charges = Leases(2**30), [_charge(number) for number in range(2000)]
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number, charge in enumerate(charges):
            leases.take(charge, f"0123456789abcdef:{number}", NOW_MS)
        real_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.7 * leases.held_bytes <= real_bytes <= 1.1 * leases.held_bytes


def test_callers_who_came_and_went_leave_nothing() -> None:
    leases = Leases(2**30)
    tracemalloc.start()
    try:
        for number in range(200):
            leases.take(_charge(number), "holder", NOW_MS)
            leases.give_back(_charge(number).key, "holder")
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20_000):
            leases.take(_charge(number), "holder", NOW_MS)
            leases.give_back(_charge(number).key, "holder")
        gc.collect()
        grown_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert (len(leases), leases.held_bytes) == (0, 0)
    assert grown_bytes < 20_000


def test_holders_who_were_lost_make_room_for_others() -> None:
    leases = Leases(MIB)
    for number in range(400):
        leases.take(_charge(number), "lost", NOW_MS)
    for number in range(100):  # each looks at four keys
        leases.take(_charge(10_000 + number), "holder", NOW_MS + 60_000)
    assert len(leases) == 100


def test_units_of_a_holder_who_takes_again_count_once() -> None:
    leases = Leases(MIB)
    for units in (2, 1):
        leases.take(Charge("lease:a:1", 5, 60_000, units, False, "lease"), "holder", NOW_MS)
    assert leases.held("lease:a:1", NOW_MS) == 1
    leases.give_back("lease:a:1", "holder")
    assert leases.held("lease:a:1", NOW_MS) == 0


class TestHandOver:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return StoreHarness.clock_at_start()

    @pytest.fixture
    def old(self, clock: ManualClock) -> MemoryStore:
        return MemoryStore(4 * MIB, clock)

    @pytest.fixture
    def new(self, clock: ManualClock) -> MemoryStore:
        return MemoryStore(4 * MIB, clock)

    async def _pass(self, old: MemoryStore, new: MemoryStore, *, drain_ms: int = 0, last: bool = False) -> None:
        absorbed = await new.absorb((await old.export(MIB, last=last, drain_ms=drain_ms)).data)
        assert (absorbed.refused, absorbed.damaged, absorbed.unknown) == ("", 0, ())

    def _take(self, store: MemoryStore, holder: str) -> bool:
        return store.spend_now([LEASE], terms=Terms(holder=holder)).allowed

    async def test_what_a_draining_worker_holds_counts_against_its_successor(
        self, old: MemoryStore, new: MemoryStore
    ) -> None:
        assert self._take(old, "a:1")
        await self._pass(old, new, drain_ms=30_000)
        assert [self._take(new, holder) for holder in ("b:1", "b:2")] == [True, False]

    async def test_the_last_word_of_a_worker_ends_what_its_requests_held(
        self, old: MemoryStore, new: MemoryStore
    ) -> None:
        for holder in ("a:1", "a:2"):
            self._take(old, holder)
        await self._pass(old, new, drain_ms=30_000)
        assert not self._take(new, "b:1")
        await self._pass(old, new, last=True)
        assert [self._take(new, holder) for holder in ("b:1", "b:2", "b:3")] == [True, True, False]

    async def test_a_worker_that_dies_without_a_last_word_holds_nothing_after_its_drain(
        self, old: MemoryStore, new: MemoryStore, clock: ManualClock
    ) -> None:
        for holder in ("a:1", "a:2"):
            self._take(old, holder)
        await self._pass(old, new, drain_ms=10_000)
        clock.advance(9.9)
        assert not self._take(new, "b:1")
        clock.advance(0.2)
        assert self._take(new, "b:1")

    async def test_a_single_hand_over_at_the_end_passes_none_since_their_holders_have_ended(
        self, old: MemoryStore, new: MemoryStore
    ) -> None:
        for holder in ("a:1", "a:2"):
            self._take(old, holder)
        await self._pass(old, new, last=True)
        assert self._take(new, "b:1")
