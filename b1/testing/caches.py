"""The contract of the shared cache: `enter` with a read, `store_if_unchanged`, `invalidate`."""

from __future__ import annotations

import asyncio

from b1.store.base import CacheAnswer, CacheRead, CacheState, Charge
from b1.store.versions import compare
from b1.testing.harness import MINUTE_MS, StoreHarness, check

_KEY = "cache:1:k"
_TAGS = ("accounts:1", "plan")


async def _read(h: StoreHarness, lease_ms: int = 1000, *, tags: tuple[str, ...] = _TAGS) -> CacheAnswer:
    found = (await h.store.enter([], read=CacheRead(_KEY, tags, lease_ms))).cache
    assert found is not None
    return found


async def _keep(h: StoreHarness, value: bytes, vector: bytes, ttl_ms: int = MINUTE_MS) -> bool:
    return await h.store.store_if_unchanged(_KEY, value, tags=_TAGS, vector=vector, ttl_ms=ttl_ms)


@check
async def a_miss_makes_one_caller_the_loader(h: StoreHarness) -> None:
    answers = await asyncio.gather(*(_read(h) for _ in range(20)))
    states = [answer.state for answer in answers]
    assert (states.count(CacheState.LEASED), states.count(CacheState.LOADING)) == (1, 19)
    assert all(0 < answer.left_ms <= 1000 for answer in answers if answer.state is CacheState.LOADING)


@check
async def a_loaded_value_is_there_for_everybody_until_its_time_is_over(h: StoreHarness) -> None:
    value = bytes(range(256)) * 10
    begun = await _read(h)
    assert await _keep(h, value, begun.vector)
    found = await _read(h)
    assert (found.state, found.value, found.vector) == (CacheState.HIT, value, begun.vector)
    assert 0 < found.left_ms <= MINUTE_MS


@check
async def an_empty_value_is_a_value(h: StoreHarness) -> None:
    assert await _keep(h, b"", (await _read(h)).vector)
    found = await _read(h)
    assert (found.state, found.value) == (CacheState.HIT, b"")


@check
async def an_invalidation_makes_a_value_stale(h: StoreHarness) -> None:
    assert await _keep(h, b"old", (await _read(h)).vector)
    await h.store.invalidate(["something else", "plan"])
    found = await _read(h)
    assert (found.state, found.value) == (CacheState.LEASED, None)


@check
async def a_load_that_an_invalidation_overtook_is_not_kept(h: StoreHarness) -> None:
    begun = await _read(h)
    await h.store.invalidate(["accounts:1"])
    assert not await _keep(h, b"old", begun.vector)
    assert (await _read(h)).state is CacheState.LEASED


@check
async def a_reader_after_an_invalidation_does_not_wait_for_the_load_before_it(h: StoreHarness) -> None:
    await _read(h)
    await h.store.invalidate(["plan"])
    assert (await _read(h)).state is CacheState.LEASED
    assert (await _read(h)).state is CacheState.LOADING


@check
async def the_end_of_an_old_load_leaves_the_new_lease(h: StoreHarness) -> None:
    old = await _read(h)
    await h.store.invalidate(["plan"])
    new = await _read(h)
    assert not await _keep(h, b"old", old.vector)
    assert (await _read(h)).state is CacheState.LOADING
    assert await _keep(h, b"new", new.vector)
    assert (await _read(h)).value == b"new"


@check
async def everything_can_be_made_stale_at_once(h: StoreHarness) -> None:
    begun = await _read(h)
    assert await _keep(h, b"old", begun.vector)
    await h.store.invalidate(None)
    found = await _read(h)
    assert found.state is CacheState.LEASED
    assert found.vector != begun.vector
    assert not await _keep(h, b"old", begun.vector)


@check
async def a_tag_that_nobody_uses_changes_nothing(h: StoreHarness) -> None:
    assert await _keep(h, b"v", (await _read(h)).vector)
    await h.store.invalidate(["somebody else's"])
    await h.store.invalidate([])
    assert (await _read(h)).state is CacheState.HIT


@check
async def a_loader_that_gives_up_lets_the_next_one_load(h: StoreHarness) -> None:
    begun = await _read(h)
    assert not await h.store.store_if_unchanged(_KEY, None, tags=_TAGS, vector=begun.vector, ttl_ms=1)
    assert (await _read(h)).state is CacheState.LEASED


@check
async def a_read_without_a_lease_binds_nobody(h: StoreHarness) -> None:
    assert [(await _read(h, 0)).state for _ in range(2)] == [CacheState.MISS] * 2
    assert (await _read(h)).state is CacheState.LEASED


@check
async def a_copy_that_is_still_current_is_not_sent_again(h: StoreHarness) -> None:
    begun = await _read(h)
    assert await _keep(h, b"v", begun.vector)
    held = CacheRead(_KEY, _TAGS, 1000, held=begun.vector)
    current = (await h.store.enter([], read=held)).cache
    assert current == CacheAnswer(CacheState.CURRENT, None, 0, begun.vector)
    await h.store.invalidate(["plan"])
    moved = (await h.store.enter([], read=held)).cache
    assert moved is not None
    assert moved.state is CacheState.LEASED


@check
async def versions_can_be_asked_for_alone(h: StoreHarness) -> None:
    vectors = []
    for tags in ((), ("a",), ("unused",)):
        await h.store.invalidate(tags)
        found = (await h.store.enter([], read=CacheRead(None, ("a", "b")))).cache
        assert found is not None
        assert found.state is CacheState.MISS
        vectors.append(found.vector)
    assert vectors[0] != vectors[1] == vectors[2]


@check
async def a_request_spends_and_reads_in_one_call(h: StoreHarness) -> None:
    charge, read = Charge("limit:a:1", 2, MINUTE_MS), CacheRead(_KEY, _TAGS, 1000)
    first = await h.store.enter([charge], read=read)
    assert first.cache is not None
    assert (first.spent.allowed, first.cache.state) == (True, CacheState.LEASED)
    assert await _keep(h, b"v", first.cache.vector)
    second = await h.store.enter([charge], read=read)
    assert (second.spent.balances[0].remaining, second.cache and second.cache.value) == (0, b"v")
    refused = await h.store.enter([charge], read=read)
    assert (refused.spent.allowed, refused.cache) == (False, None)
    assert (await h.store.enter([Charge("limit:b:1", 2, MINUTE_MS)])).cache is None


@check
async def a_refused_request_takes_no_lease(h: StoreHarness) -> None:
    await h.store.enter([Charge("limit:a:1", 0, MINUTE_MS)], read=CacheRead(_KEY, _TAGS, 1000))
    assert (await _read(h)).state is CacheState.LEASED


@check
async def a_value_that_was_invalidated_softly_is_stale_and_somebody_loads_it(h: StoreHarness) -> None:
    assert await _keep(h, b"old", (await _read(h)).vector)
    await h.store.invalidate(["somebody else's"], soft=["plan"])
    first, second = await _read(h), await _read(h)
    assert (first.state, first.value, first.has_lease, first.fresh_ms) == (CacheState.STALE, b"old", True, 0)
    assert (second.state, second.value, second.has_lease) == (CacheState.STALE, b"old", False)
    assert 0 < first.left_ms <= MINUTE_MS
    assert await _keep(h, b"new", first.vector)
    assert (await _read(h)).value == b"new"


@check
async def a_stale_value_comes_without_the_lease_when_it_was_not_asked_for(h: StoreHarness) -> None:
    assert await _keep(h, b"old", (await _read(h)).vector)
    await h.store.invalidate([], soft=["plan"])
    found = await _read(h, 0)
    assert (found.state, found.has_lease) == (CacheState.STALE, False)
    assert (await _read(h)).has_lease


@check
async def a_value_that_was_invalidated_hard_is_not_served_stale(h: StoreHarness) -> None:
    assert await _keep(h, b"old", (await _read(h)).vector)
    await h.store.invalidate([], soft=["plan"])
    await h.store.invalidate(["accounts:1"])
    assert (await _read(h)).state is CacheState.LEASED


@check
async def a_tag_in_both_lists_is_invalidated_hard(h: StoreHarness) -> None:
    assert await _keep(h, b"old", (await _read(h)).vector)
    await h.store.invalidate(["plan"], soft=["plan", "accounts:1"])
    assert (await _read(h)).state is CacheState.LEASED


@check
async def so_many_soft_invalidations_are_never_none(h: StoreHarness) -> None:
    begun = await _read(h, 0)
    for _ in range(130):
        await h.store.invalidate([], soft=["plan"])
        assert (await _read(h, 0)).vector != begun.vector
    assert not await _keep(h, b"old", begun.vector)


@check
async def a_load_that_was_invalidated_softly_is_not_kept(h: StoreHarness) -> None:
    begun = await _read(h)
    await h.store.invalidate([], soft=["plan"])
    assert not await _keep(h, b"old", begun.vector)


@check
async def a_value_whose_fresh_time_is_over_is_stale_to_the_end_of_its_life(h: StoreHarness) -> None:
    begun = await _read(h)
    store = h.store.store_if_unchanged
    assert await store(_KEY, b"v", tags=_TAGS, vector=begun.vector, ttl_ms=MINUTE_MS, fresh_ms=10_000)
    fresh = await _read(h)
    assert (fresh.state, fresh.value) == (CacheState.HIT, b"v")
    assert 0 < fresh.fresh_ms <= 10_000 < fresh.left_ms
    assert await store(_KEY, b"v", tags=_TAGS, vector=begun.vector, ttl_ms=MINUTE_MS, fresh_ms=0)
    stale = await _read(h)
    assert (stale.state, stale.value, stale.has_lease) == (CacheState.STALE, b"v", True)


@check
async def what_was_invalidated_is_stale_here_at_once(h: StoreHarness) -> None:
    before = h.store.versions.vector(_TAGS)
    changes = h.store.versions.changes
    h.store.invalidate_here(["plan"])
    assert h.store.versions.changes > changes
    assert compare(before, h.store.versions.vector(_TAGS)) == "hard"
    before = h.store.versions.vector(_TAGS)
    h.store.invalidate_here([], soft=["accounts:1"])
    assert compare(before, h.store.versions.vector(_TAGS)) == "soft"
    before = h.store.versions.vector(_TAGS)
    h.store.invalidate_here(None)
    assert compare(before, h.store.versions.vector(_TAGS)) == "hard"
    await h.store.invalidate(None)
    assert (await _read(h)).state is CacheState.LEASED
