"""The contract of replay rings: `append`, `read_since`."""

from __future__ import annotations

import asyncio

from b1.testing.harness import MINUTE_MS, StoreHarness, check

_RING = "events:1"


async def _add(h: StoreHarness, data: bytes, *, keep: int = 100, keep_bytes: int = 10_000) -> int:
    return await h.store.append(_RING, data, keep=keep, keep_bytes=keep_bytes, ttl_ms=MINUTE_MS)


@check
async def entries_come_back_in_order_after_the_one_that_was_seen(h: StoreHarness) -> None:
    ids = [await _add(h, data) for data in (b"a", b"\x00\xff", b"")]
    everything = await h.store.read_since(_RING, 0, limit=10)
    assert everything.entries == tuple(zip(ids, (b"a", b"\x00\xff", b""), strict=True))
    assert everything.is_complete
    rest = await h.store.read_since(_RING, ids[0], limit=10)
    assert (rest.entries, rest.is_complete) == (everything.entries[1:], True)
    end = await h.store.read_since(_RING, ids[2], limit=10)
    assert (end.entries, end.is_complete) == ((), True)


@check
async def ids_grow_when_many_append_at_once(h: StoreHarness) -> None:
    ids = await asyncio.gather(*(_add(h, b"x") for _ in range(50)))
    assert len(set(ids)) == 50
    replay = await h.store.read_since(_RING, 0, limit=100)
    assert [entry.id for entry in replay.entries] == sorted(ids)


@check
async def a_read_returns_no_more_than_was_asked_for(h: StoreHarness) -> None:
    ids = [await _add(h, b"x") for _ in range(5)]
    replay = await h.store.read_since(_RING, ids[0], limit=2)
    assert [entry.id for entry in replay.entries] == ids[1:3]


@check
async def the_oldest_go_first_and_who_missed_them_is_told(h: StoreHarness) -> None:
    ids = [await _add(h, b"x", keep=3) for _ in range(5)]
    assert [entry.id for entry in (await h.store.read_since(_RING, 0, limit=10)).entries] == ids[2:]
    assert not (await h.store.read_since(_RING, ids[0], limit=10)).is_complete
    assert (await h.store.read_since(_RING, ids[1], limit=10)).is_complete


@check
async def a_ring_is_bounded_in_bytes_and_keeps_the_newest(h: StoreHarness) -> None:
    ids = [await _add(h, b"x" * 100, keep_bytes=250) for _ in range(4)]
    assert [entry.id for entry in (await h.store.read_since(_RING, 0, limit=10)).entries] == ids[2:]
    huge = await _add(h, b"x" * 1000, keep_bytes=250)
    assert [entry.id for entry in (await h.store.read_since(_RING, 0, limit=10)).entries] == [huge]


@check
async def nobody_knows_what_a_ring_held_that_is_gone(h: StoreHarness) -> None:
    assert await h.store.read_since(_RING, 0, limit=10) == ((), True)
    assert await h.store.read_since(_RING, 12345, limit=10) == ((), False)
