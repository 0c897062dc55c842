"""A worker's memory store and its successor: what passes, what the second word changes, and what bad bytes cannot do."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from b1.clock import ManualClock
from b1.store.base import CacheRead, CacheState, Charge, ClaimState, PenaltyRule
from b1.store.memory import MemoryStore
from b1.store.passing.frames import START, pack, unpack
from b1.testing import StoreHarness

MIB = 2**20
DAY_MS = 86_400_000
CHARGE = Charge("limit:a:1", 5, 60_000)
RULE = PenaltyRule(threshold=3, decay_ms=10_000, blocks_ms=(60_000, 300_000), forget_ms=600_000)
KEY = "idempotency:o:k"


@pytest.fixture
def clock() -> ManualClock:
    return StoreHarness.clock_at_start()


@pytest.fixture
def old(clock: ManualClock) -> MemoryStore:
    return MemoryStore(4 * MIB, clock)


@pytest.fixture
def new(clock: ManualClock) -> MemoryStore:
    return MemoryStore(4 * MIB, clock)


def _passed(store: MemoryStore, count: int, charge: Charge = CHARGE) -> int:
    return sum(store.spend_now([charge]).allowed for _ in range(count))


def _used(store: MemoryStore, key: str = "limit:a:1") -> int:
    return store.spend_now([Charge(key, 1, 60_000)], commit=False).balances[0].used


async def _claim(store: MemoryStore, key: str = KEY, *, lease_ms: int = 30_000) -> int:
    return (await store.claim(key, b"f", lease_ms=lease_ms)).fence


async def _state(store: MemoryStore, key: str = KEY) -> ClaimState:
    return (await store.claim(key, b"f", lease_ms=30_000)).state


async def _overlap(old: MemoryStore, new: MemoryStore, *, drain_ms: int = 0) -> None:
    await new.absorb((await old.export(8 * MIB, last=False, drain_ms=drain_ms)).data)


async def _last(old: MemoryStore, new: MemoryStore) -> None:
    absorbed = await new.absorb((await old.export(8 * MIB, last=True)).data)
    assert (absorbed.refused, absorbed.damaged) == ("", 0)


# Serial: all of it, once


async def test_all_counts_pass_in_one(old: MemoryStore, new: MemoryStore, clock: ManualClock) -> None:
    _passed(old, 3)
    old.penalise_now("penalty:1", RULE)
    await _claim(old, "idempotency:o:open")
    await old.finish(KEY, await _claim(old), b"r", ttl_ms=DAY_MS)
    await old.append("events:1", b"x", keep=10, keep_bytes=1000, ttl_ms=60_000)
    exported = await old.export(MIB, last=True)
    expected = {"windows": 1, "penalties": 1, "claims": 1, "records": 1, "entries": 1}
    assert (exported.passed, exported.left_out) == (expected, {})
    assert (await new.absorb(exported.data)).taken == expected


async def test_an_exhausted_quota_stays_exhausted_for_just_as_long(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    assert _passed(old, 9) == 5
    clock.advance(20)
    await _last(old, new)
    assert new.spend_now([CHARGE]) == old.spend_now([CHARGE])
    clock.advance(41)
    assert _passed(new, 9) == 5


@pytest.mark.parametrize("seed", range(5))
async def test_a_successor_answers_as_its_predecessor_would_have(seed: int, clock: ManualClock) -> None:
    chance = random.Random(seed)
    store, twin = MemoryStore(MIB, clock), MemoryStore(MIB, clock)
    charges = [Charge(f"limit:{name}:1", 6, window) for name in "abc" for window in (59_999, 60_000, 3_600_000)][::4]
    for step in range(200):
        clock.advance(chance.choice((0, 0.3, 2, 20, 700)))
        cost = chance.choice(charges)
        assert store.spend_now([cost]) == twin.spend_now([cost]), f"seed {seed}, step {step}"
        penalty = store.penalise_now("penalty:1", RULE, strikes=step % 2)
        assert penalty == twin.penalise_now("penalty:1", RULE, strikes=step % 2), f"seed {seed}, step {step}"
        if step % 20 == 0:
            successor = MemoryStore(MIB, clock)
            await _last(store, successor)
            store = successor


async def test_a_key_in_flight_is_in_flight_until_its_lease_ends(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    await _claim(old)
    clock.advance(10)
    await _last(old, new)
    found = await new.claim(KEY, b"f", lease_ms=1000)
    assert (found.state, found.retry_after_ms) == (ClaimState.IN_FLIGHT, 20_000)
    assert (await new.claim(KEY, b"other", lease_ms=1000)).state is ClaimState.MISMATCH
    clock.advance(20)
    assert await _state(new) is ClaimState.CLAIMED


async def test_a_finished_key_is_replayed_until_its_record_ends(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    await old.finish(KEY, await _claim(old), b"\x00\xff" * 1000, ttl_ms=50_000)
    await _last(old, new)
    assert (await new.claim(KEY, b"f", lease_ms=1000)).record == b"\x00\xff" * 1000
    clock.advance(50)
    assert await _state(new) is ClaimState.CLAIMED


async def test_a_block_lasts_as_long_as_it_was_said_to(old: MemoryStore, new: MemoryStore, clock: ManualClock) -> None:
    old.penalise_now("penalty:1", RULE, strikes=3)
    clock.advance(15)
    await _last(old, new)
    assert new.penalise_now("penalty:1", RULE, strikes=0) == (45_000, 0, 1)


async def test_ids_and_fences_go_on_growing(old: MemoryStore, new: MemoryStore, clock: ManualClock) -> None:
    fence = await _claim(old)
    entry_id = await old.append("events:1", b"a", keep=10, keep_bytes=1000, ttl_ms=60_000)
    clock._wall -= 3600  # the clock was set back, and would give both again
    await _last(old, new)
    assert await _claim(new, "idempotency:o:other") > fence
    newer = await new.append("events:1", b"b", keep=10, keep_bytes=1000, ttl_ms=60_000)
    assert newer > entry_id
    replay = await new.read_since("events:1", 0, limit=10)
    assert (replay.entries, replay.is_complete) == (((entry_id, b"a"), (newer, b"b")), True)


async def test_names_may_be_any_text(old: MemoryStore, new: MemoryStore) -> None:
    for name in ("events:\udce9", 'a"b\\c', "naïve \U0001f600", ""):
        await old.append(name, name.encode("utf-8", "surrogatepass"), keep=1, keep_bytes=10, ttl_ms=60_000)
        _passed(old, 1, Charge(f"limit:{name}:1", 5, 60_000))
    await _last(old, new)
    assert (len(new.streams), len(new.windows)) == (4, 4)


@pytest.mark.parametrize("jump_s", [-3600, 3600, -5])
async def test_a_wall_clock_that_is_set_meanwhile_frees_nobody(
    old: MemoryStore, new: MemoryStore, clock: ManualClock, jump_s: int
) -> None:
    _passed(old, 5)
    old.penalise_now("penalty:1", RULE, strikes=3)
    await _claim(old)
    exported = await old.export(MIB, last=True)
    clock.advance(10)
    clock._wall += jump_s
    await new.absorb(exported.data)
    assert not new.spend_now([CHARGE]).allowed
    assert new.penalise_now("penalty:1", RULE, strikes=0).blocked_ms >= 50_000
    clock.advance(19.9)
    assert await _state(new) is ClaimState.IN_FLIGHT
    clock.advance(42)
    assert _passed(new, 9) == 5


async def test_a_successor_after_another_boot_counts_the_time_in_between_by_the_wall(old: MemoryStore) -> None:
    _passed(old, 5)
    await _claim(old, lease_ms=30_000)
    exported = await old.export(MIB, last=True)
    booted = ManualClock(monotonic=7.0, wall=old.wall_us() / 1e6 + 20)
    new = MemoryStore(MIB, booted)
    await new.absorb(exported.data)
    assert not new.spend_now([CHARGE]).allowed
    assert (await new.claim(KEY, b"f", lease_ms=1000)).retry_after_ms == 10_000
    booted.advance(43)
    assert new.spend_now([CHARGE]).allowed


async def test_callers_who_share_a_window_go_on_sharing_it(clock: ManualClock) -> None:
    old, new = MemoryStore(2000, clock), MemoryStore(2000, clock)
    for number in range(600):
        _passed(old, 6, Charge(f"limit:public:{number:032x}", 5, 60_000))
    before = [old.spend_now([Charge(f"limit:public:{n:032x}", 5, 60_000)]).allowed for n in range(600)]
    await _last(old, new)
    after = [new.spend_now([Charge(f"limit:public:{n:032x}", 5, 60_000)]).allowed for n in range(600)]
    assert sum(before) == 0
    assert sum(after) <= 5 * 256  # what did not fit here: one quota for each shared window, not for each caller


# Handover: all of it, then what was done meanwhile


async def test_units_spent_meanwhile_are_added_once(old: MemoryStore, new: MemoryStore) -> None:
    _passed(old, 1)
    await _overlap(old, new)
    assert (_passed(old, 1), _passed(new, 1)) == (1, 1)
    await _last(old, new)
    assert _used(new) == 3
    assert _passed(new, 9) == 2


async def test_a_quota_that_was_exhausted_before_lets_nobody_pass_in_the_overlap(
    old: MemoryStore, new: MemoryStore
) -> None:
    _passed(old, 5)
    await _overlap(old, new)
    assert _passed(old, 9) + _passed(new, 9) == 0


@pytest.mark.parametrize("before", [0, 2, 4])
async def test_both_together_let_pass_what_was_left_at_most_twice(
    old: MemoryStore, new: MemoryStore, before: int
) -> None:
    _passed(old, before)
    await _overlap(old, new)
    assert _passed(old, 99) + _passed(new, 99) == 2 * (5 - before)
    await _last(old, new)
    assert _passed(new, 99) == 0
    assert _used(new) == 10 - before


async def test_units_given_back_meanwhile_are_not_passed(old: MemoryStore, new: MemoryStore) -> None:
    await _overlap(old, new)
    _passed(old, 3)
    old.refund_now([CHARGE])
    await _last(old, new)
    assert _used(new) == 2


async def test_what_is_spent_while_the_first_export_is_written_counts_once(clock: ManualClock) -> None:
    old, new = MemoryStore(32 * MIB, clock), MemoryStore(32 * MIB, clock)
    charges = [Charge(f"limit:{n % 5}:{n:032x}", 100, 60_000) for n in range(3000)]
    chance = random.Random(1)
    for charge in charges:
        old.spend_now([charge])
    spent = dict.fromkeys(range(3000), 1)

    async def spend_on() -> None:
        for _ in range(60):
            for number in chance.sample(range(3000), 20):
                old.spend_now([charges[number]])
                spent[number] += 1
            await asyncio.sleep(0)

    exported, _ = await asyncio.gather(old.export(8 * MIB, last=False), spend_on())
    await new.absorb(exported.data)
    await _last(old, new)
    assert {n: _used(new, charges[n].key) for n in spent} == spent


async def test_a_claim_that_is_finished_meanwhile_becomes_a_replay(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    fence = await _claim(old)
    await _overlap(old, new)
    assert await _state(new) is ClaimState.IN_FLIGHT
    await old.finish(KEY, fence, b"r", ttl_ms=DAY_MS)
    await _last(old, new)
    assert (await new.claim(KEY, b"f", lease_ms=1000)).record == b"r"


async def test_a_claim_that_is_released_meanwhile_is_free(old: MemoryStore, new: MemoryStore) -> None:
    fence = await _claim(old)
    await _overlap(old, new)
    await old.release(KEY, fence)
    await _last(old, new)
    assert await _claim(new) > fence


async def test_a_claim_is_held_for_as_long_as_its_owner_may_drain(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    fence = await _claim(old, lease_ms=1000)
    await _overlap(old, new, drain_ms=20_000)
    clock.advance(19.9)
    assert await _state(new) is ClaimState.IN_FLIGHT
    assert await old.finish(KEY, fence, b"late", ttl_ms=DAY_MS)
    await _last(old, new)
    assert (await new.claim(KEY, b"f", lease_ms=1000)).record == b"late"


async def test_a_key_that_was_taken_over_is_not_touched_by_its_old_owner(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    fence = await _claim(old, lease_ms=1000)
    await _overlap(old, new)
    clock.advance(2)
    clock._wall -= 3600
    taken = await _claim(new)
    assert taken > fence
    assert await old.finish(KEY, fence, b"stale", ttl_ms=DAY_MS)
    absorbed = await new.absorb((await old.export(MIB, last=True)).data)
    assert absorbed.own == 1
    assert await _state(new) is ClaimState.IN_FLIGHT
    assert not await new.finish(KEY, fence, b"stale", ttl_ms=DAY_MS)
    assert await new.finish(KEY, taken, b"mine", ttl_ms=DAY_MS)
    assert (await new.claim(KEY, b"f", lease_ms=1000)).record == b"mine"


async def test_no_fence_of_the_overlap_is_given_by_both(old: MemoryStore, new: MemoryStore, clock: ManualClock) -> None:
    await _claim(old)
    clock._wall -= 3600  # both count on from the last fence, one by one
    await _overlap(old, new, drain_ms=1000)
    mine = {await _claim(old, f"idempotency:o:{n}") for n in range(50)}
    theirs = {await _claim(new, f"idempotency:o:{n}") for n in range(50)}
    assert max(mine) < min(theirs)


async def test_strikes_meanwhile_add_up_and_the_longer_block_counts(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    for key in ("penalty:both", "penalty:old", "penalty:blocked"):
        old.penalise_now(key, RULE)
    await _overlap(old, new)
    for store in (old, new):
        store.penalise_now("penalty:both", PenaltyRule(threshold=10, decay_ms=10_000))
    old.penalise_now("penalty:old", RULE)
    old.penalise_now("penalty:blocked", RULE, strikes=2)
    await _last(old, new)
    looks = [new.penalise_now(f"penalty:{key}", RULE, strikes=0) for key in ("both", "old", "blocked")]
    assert looks == [(0, 3, 0), (0, 2, 0), (60_000, 0, 1)]


async def test_who_is_pardoned_meanwhile_is_pardoned(old: MemoryStore, new: MemoryStore) -> None:
    old.penalise_now("penalty:1", RULE, strikes=3)
    await _overlap(old, new)
    old.penalise_now("penalty:1", RULE, strikes=0, pardon=True)
    await _last(old, new)
    assert new.penalise_now("penalty:1", RULE, strikes=0) == (0, 0, 0)


async def _append(store: MemoryStore, data: bytes, *, keep: int = 100) -> int:
    return await store.append("events:1", data, keep=keep, keep_bytes=10_000, ttl_ms=60_000)


async def test_entries_appended_meanwhile_keep_their_ids_where_nobody_can_have_seen_later_ones(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    first = await _append(old, b"1")
    await _overlap(old, new, drain_ms=5000)
    clock.advance(1)
    second = await _append(old, b"2")
    await _last(old, new)
    third = await _append(new, b"3")
    assert third > second > first
    assert (await new.read_since("events:1", first, limit=9)) == (((second, b"2"), (third, b"3")), True)


@pytest.mark.parametrize("seen", ["nothing", "first", "old", "new"])
async def test_no_reader_misses_an_entry_whichever_worker_it_read_from(
    old: MemoryStore, new: MemoryStore, clock: ManualClock, seen: str
) -> None:
    ids = {"nothing": 0, "first": await _append(old, b"1")}
    await _overlap(old, new, drain_ms=5000)
    ids["new"] = await _append(new, b"new")
    clock.advance(1)
    ids["old"] = await _append(old, b"old")
    assert ids["new"] > ids["old"]
    await _last(old, new)
    replay = await new.read_since("events:1", ids[seen], limit=9)
    missed = {"nothing": {b"1", b"new", b"old"}, "first": {b"new", b"old"}, "old": {b"new"}, "new": {b"old"}}[seen]
    assert missed <= {entry.data for entry in replay.entries}
    assert replay.is_complete
    assert [entry.id for entry in replay.entries] == sorted(entry.id for entry in replay.entries)


async def test_a_reader_is_told_of_entries_that_were_dropped_meanwhile(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    first = await _append(old, b"1")
    await _overlap(old, new)
    for number in range(5):
        clock.advance(0.01)
        last = await _append(old, b"%d" % number, keep=2)
    await _last(old, new)
    assert not (await new.read_since("events:1", first, limit=9)).is_complete
    assert await new.read_since("events:1", last, limit=9) == ((), True)


async def test_a_value_that_was_loaded_under_the_predecessor_is_not_stored(old: MemoryStore, new: MemoryStore) -> None:
    read = CacheRead("cache:k", ("t",), lease_ms=1000)
    vector = (await old.enter([], read=read)).cache.vector  # type: ignore[union-attr]
    await _overlap(old, new)
    assert not await new.store_if_unchanged("cache:k", b"old", tags=("t",), vector=vector, ttl_ms=1000)


async def test_what_is_invalidated_meanwhile_is_stale_in_the_successor_too(old: MemoryStore, new: MemoryStore) -> None:
    await _overlap(old, new)
    read = CacheRead("cache:k", ("t",), lease_ms=1000)
    vector = (await new.enter([], read=read)).cache.vector  # type: ignore[union-attr]
    assert await new.store_if_unchanged("cache:k", b"v", tags=("t",), vector=vector, ttl_ms=1000)
    await old.invalidate(["t"])
    absorbed = await new.absorb((await old.export(MIB, last=True)).data)
    assert absorbed.tags == ("t",)
    assert (await new.enter([], read=read)).cache.state is CacheState.LEASED  # type: ignore[union-attr]


async def test_more_tags_than_are_kept_become_all_of_them(old: MemoryStore, new: MemoryStore) -> None:
    await _overlap(old, new)
    await old.invalidate([f"t{number}" for number in range(5000)])
    assert (await new.absorb((await old.export(MIB, last=True)).data)).tags is None


async def test_three_workers_in_a_row_count_as_one(clock: ManualClock) -> None:
    stores = [MemoryStore(MIB, clock) for _ in range(4)]
    passed = 0
    for old, new in itertools.pairwise(stores):
        passed += _passed(old, 1)
        await _overlap(old, new)
        clock.advance(1)
        passed += _passed(old, 1)
        await _last(old, new)
    assert passed + _passed(stores[-1], 9) == 5


async def test_a_first_export_that_was_cancelled_leaves_all_of_it_to_the_next(
    old: MemoryStore, new: MemoryStore, clock: ManualClock
) -> None:
    for number in range(600):
        _passed(old, 1, Charge(f"limit:{number % 4}:{number:032x}", 5, 60_000))
    first = asyncio.create_task(old.export(8 * MIB, last=False))
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    exported = await old.export(8 * MIB, last=True)
    assert exported.passed == {"windows": 600}


# The cap


async def test_an_export_keeps_to_its_cap_and_says_what_it_left_out(clock: ManualClock) -> None:
    old = MemoryStore(8 * MIB, clock)
    for number in range(4000):
        _passed(old, 1, Charge(f"limit:{number % 4}:{number:032x}", 5, 60_000))
    for number in range(300):
        await old.finish(key := f"idempotency:o:{number}", await _claim(old, key), b"r" * 500, ttl_ms=DAY_MS)
        await _claim(old, f"idempotency:open:{number}")
        old.penalise_now(f"penalty:{number}", RULE)
        await _append(old, b"e" * 100, keep=1000)
    for limit_bytes in (0, 2000, 20_000, 100_000, 300_000, MIB):
        exported = await old.export(limit_bytes, last=True)
        assert len(exported.data) <= max(limit_bytes, 500)
        absorbed = await (new := MemoryStore(8 * MIB, clock)).absorb(exported.data)
        assert (absorbed.taken, absorbed.left_out, absorbed.damaged) == (exported.passed, exported.left_out, 0)
        total = len(new.windows) + len(new.claims) + len(new.offences) + sum(exported.left_out.values())
        assert total + exported.passed.get("entries", 0) == 4000 + 300 + 300 + 300 + 100
    assert exported.left_out == {}


async def test_what_matters_most_goes_first(clock: ManualClock) -> None:
    old = MemoryStore(8 * MIB, clock)
    for number in range(3000):
        _passed(old, 1 if number != 1500 else 9, Charge(f"limit:{number % 4}:{number:032x}", 5, 60_000))
    for number in range(100):
        clock.advance(0.001)
        await old.finish(key := f"idempotency:o:{number}", await _claim(old, key), b"r" * 500, ttl_ms=DAY_MS)
    await _claim(old)
    old.penalise_now("penalty:1", RULE, strikes=3)
    exported = await old.export(40_000, last=True)
    new = MemoryStore(8 * MIB, clock)
    await new.absorb(exported.data)
    assert await _state(new) is ClaimState.IN_FLIGHT
    assert new.penalise_now("penalty:1", RULE, strikes=0).blocked_ms
    assert _used(new, f"limit:0:{1500:032x}") == 5
    assert exported.passed["windows"] > 50
    assert exported.passed["records"] > 10
    assert await _state(new, "idempotency:o:99") is ClaimState.FINISHED
    assert await _state(new, "idempotency:o:0") is ClaimState.CLAIMED


async def test_the_newest_part_of_a_ring_passes_and_readers_are_told(old: MemoryStore, new: MemoryStore) -> None:
    ids = [await _append(old, b"x" * 100) for _ in range(100)]
    await new.absorb((await old.export(6000, last=True)).data)
    replay = await new.read_since("events:1", 0, limit=200)
    held = [entry.id for entry in replay.entries]
    assert 10 < len(held) < 50
    assert held == ids[-len(held) :]
    assert not (await new.read_since("events:1", ids[0], limit=200)).is_complete
    assert (await new.read_since("events:1", held[0], limit=200)).is_complete


async def test_a_successor_without_room_says_so_and_keeps_to_its_bounds(old: MemoryStore, clock: ManualClock) -> None:
    for number in range(1000):
        _passed(old, 1, Charge(f"limit:{number % 4}:{number:032x}", 5, 60_000))
        await old.finish(key := f"idempotency:o:{number}", await _claim(old, key), b"r", ttl_ms=DAY_MS)
        old.penalise_now(f"penalty:{number}", RULE)
    small = MemoryStore(64 * 1024, clock)
    exported = await old.export(8 * MIB, last=True)
    absorbed = await small.absorb(exported.data)
    assert absorbed.no_room > 1000
    assert absorbed.no_room + sum(absorbed.taken.values()) == sum(exported.passed.values())
    assert small.snapshot().held_bytes <= 64 * 1024


async def test_units_that_are_noted_meanwhile_are_bounded_and_the_rest_is_counted(clock: ManualClock) -> None:
    old = MemoryStore(32 * MIB, clock)
    await old.export(MIB, last=False)
    for number in range(5000):
        _passed(old, 1, Charge(f"limit:{number % 4}:{number:032x}", 5, 60_000))
    exported = await old.export(8 * MIB, last=True)
    assert (exported.passed["windows"], exported.left_out["windows"]) == (4096, 904)


# The bytes


async def _full(store: MemoryStore) -> bytes:
    for number in range(600):
        _passed(store, 1, Charge(f"limit:a:{number}", 5, 60_000))
        await store.finish(key := f"idempotency:o:{number}", await _claim(store, key), b"r" * 100, ttl_ms=DAY_MS)
    return (await store.export(8 * MIB, last=True)).data


async def test_the_same_hand_over_is_taken_once(old: MemoryStore, new: MemoryStore, clock: ManualClock) -> None:
    _passed(old, 2)
    data = (await old.export(MIB, last=True)).data
    await new.absorb(data)
    assert (await new.absorb(data)).refused == "it was taken before"
    grandchild = MemoryStore(MIB, clock)
    await _last(new, grandchild)
    assert (await grandchild.absorb(data)).refused == "it was taken before"
    assert _used(grandchild) == 2


@pytest.mark.parametrize("data", [b"", b"b1-pas", b"\x80\x04garbage", b"b1-pass", b"b1-pass\x02whatever", START])
async def test_what_is_no_hand_over_is_refused_and_changes_nothing(new: MemoryStore, data: bytes) -> None:
    _passed(new, 2)
    before = new.snapshot()
    assert (await new.absorb(data)).refused
    assert new.snapshot() == before


async def test_a_later_major_version_is_refused_by_name(old: MemoryStore, new: MemoryStore) -> None:
    data = bytearray((await old.export(MIB, last=True)).data)
    data[len(START) - 1] = 2
    assert (await new.absorb(bytes(data))).refused == "format 2, this version reads 1"


async def test_a_torn_hand_over_gives_what_is_whole(old: MemoryStore, clock: ManualClock) -> None:
    data = await _full(old)
    taken = []
    for length in range(len(data) - 1, 300, -len(data) // 40):
        new = MemoryStore(MIB, clock)
        _passed(new, 2, Charge("limit:mine:1", 5, 60_000))
        absorbed = await new.absorb(data[:length])
        assert absorbed.damaged
        assert _used(new, "limit:mine:1") == 2
        taken.append(sum(absorbed.taken.values()))
    assert taken == sorted(taken, reverse=True)
    assert taken[0] > 1000


@pytest.mark.parametrize("seed", range(30))
async def test_damage_costs_the_frames_it_is_in(seed: int, clock: ManualClock) -> None:
    chance = random.Random(seed)
    data = bytearray(await _full(MemoryStore(4 * MIB, clock)))
    for _ in range(chance.choice((1, 3, 30))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    new = MemoryStore(4 * MIB, clock)
    _passed(new, 2, Charge("limit:mine:1", 5, 60_000))
    absorbed = await new.absorb(bytes(data))
    assert absorbed.refused or absorbed.damaged
    assert _used(new, "limit:mine:1") == 2
    assert all(_used(new, f"limit:a:{number}") <= 1 for number in range(600))


WRONG: list[dict[str, object]] = [
    {"k": ["a"], "w": [60_000], "n": [1], "t": ["1"]},
    {"k": ["a"], "w": [0], "n": [1], "t": [1]},
    {"k": ["a"], "w": [60_000], "n": [99], "t": [1]},
    {"k": ["a", "b"], "w": [60_000], "n": [1], "t": [1]},
    {"k": [1], "w": [60_000], "n": [1], "t": [1]},
    {"k": "a"},
    {},
]


@pytest.mark.parametrize("kind", ["wins", "clms", "pens", "ring", "debt", "tags"])
async def test_frames_that_do_not_add_up_are_damage_and_nothing_else(
    old: MemoryStore, new: MemoryStore, kind: str
) -> None:
    _passed(old, 2)
    frames = list(unpack((await old.export(MIB, last=True)).data))
    whole = [pack(frame.kind, frame.fields, bytes(frame.blob)) for frame in frames if frame is not None]
    wrong = [pack(kind, {**fields, "o": [["a", 1]], "stream": "s"}, bytes(16)) for fields in WRONG]
    absorbed = await new.absorb(b"".join([START, whole[0], *wrong, *whole[1:]]))
    assert absorbed.damaged == (len(WRONG) if kind not in ("tags", "debt") else 0)
    assert absorbed.taken["windows"] == 1
    assert _used(new) == 2


async def test_what_a_later_minor_version_adds_is_skipped(old: MemoryStore, new: MemoryStore) -> None:
    _passed(old, 2)
    frames = [frame for frame in unpack((await old.export(MIB, last=True)).data) if frame is not None]
    more = [pack(frame.kind, {**frame.fields, "later": {"a": [1]}}, bytes(frame.blob)) for frame in frames]
    absorbed = await new.absorb(b"".join([START, more[0], pack("new!", {"x": 1}, b"y"), *more[1:]]))
    assert (absorbed.unknown, absorbed.damaged, absorbed.taken) == (("new!",), 0, {"windows": 1})


async def test_other_parts_may_leave_something_too(old: MemoryStore, new: MemoryStore) -> None:
    exported = await old.export(MIB, last=False, extras={"cache.tags": b"\x00any", "empty": b""})
    assert (await new.absorb(exported.data)).extras == {"cache.tags": b"\x00any", "empty": b""}


async def test_a_serving_loop_turns_while_a_large_hand_over_is_taken(clock: ManualClock) -> None:
    old, new = MemoryStore(32 * MIB, clock), MemoryStore(32 * MIB, clock)
    for number in range(8000):
        _passed(old, 1, Charge(f"limit:{number % 4}:{number:032x}", 5, 60_000))
    turns: list[int] = []

    async def count_turns() -> None:
        while True:
            turns.append(len(new.windows))
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    await new.absorb((await old.export(8 * MIB, last=True)).data)
    counting.cancel()
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= 256
