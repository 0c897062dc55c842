"""A stored answer lies packed in the process: clients get the same bytes, and who takes zstd gets them as they lie."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from b1.asgi.caching.holding import Bodies
from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.stored import SharedPairs, StoredAnswer
from b1.asgi.options import CacheOptions
from b1.cache.packing.holding import HoldOptions, with_crc
from b1.cache.packing.zstandard import Zstd
from b1.store.memory import MemoryStore
from b1.units import MIB
from tests.asgi.caching.test_compression import JSON, OPTIONS, TEXT, accepting, decoded, world
from tests.asgi.caching.world import Lines, SharedStore, World

ALL = (b"", b"gzip", b"zstd", b"gzip;q=0.5, zstd", b"zstd;q=0.5, gzip", b"identity", b"br")


def lying(made: World) -> Any:
    """Return what the map has of the one answer, as it lies there."""
    (key,) = made.responses.l1.sample(10)
    found = made.l1.find(key)
    assert found is not None
    return found


@pytest.mark.parametrize("first", ALL)
async def test_each_client_gets_its_own_whoever_came_first(first: bytes) -> None:
    made = world()
    replies = [await made.get(**accepting(accept)) for accept in (first, *ALL, *reversed(ALL))]
    assert ({TEXT}, 1) == ({decoded(reply) for reply in replies}, made.runs)
    assert [len(reply.body) for reply in replies] == [int(reply.headers["content-length"]) for reply in replies]
    assert 3 == len({(reply.headers.get("content-encoding"), reply.headers["etag"]) for reply in replies})
    assert lying(made).meta.frame is not None
    assert len(lying(made).value) < len(TEXT) / 3


async def test_who_takes_zstd_gets_the_bytes_as_they_lie_there() -> None:
    made = world()
    await made.get()
    reply = await made.get(**accepting(b"zstd"))
    assert reply.body in lying(made).value
    assert (0, 0) == (made.responses.maker.compressor.done, made.responses.l1.holding().unpacked)


async def test_gzip_is_made_once_and_nothing_is_unpacked_for_it() -> None:
    made = world()
    await made.get()
    replies = [await made.get(**accepting(b"gzip")) for _ in range(10)]
    assert {TEXT} == {decoded(reply) for reply in replies}
    assert (1, 1) == (made.responses.maker.compressor.done, made.responses.l1.holding().unpacked)


async def test_a_304_unpacks_nothing() -> None:
    made = world()
    tag = (await made.get()).headers["etag"].encode()
    statuses = [(await made.get(headers=[(b"if-none-match", tag)])).status for _ in range(3)]
    assert ([304] * 3, 0) == (statuses, made.responses.l1.holding().unpacked)


async def test_head_is_answered_from_a_packed_one() -> None:
    made = world()
    await made.get()
    reply = await made.get(method="HEAD")
    assert (b"", str(len(TEXT))) == (reply.body, reply.headers["content-length"])


async def test_a_route_that_must_not_compress_is_packed_and_sends_what_the_handler_made() -> None:
    made = world(options=CacheOptions(ttl_s=60, vary="organization", compress=False))
    replies = [await made.get(**accepting(b"zstd, gzip")) for _ in range(3)]
    assert [TEXT] * 3 == [reply.body for reply in replies]
    assert [None] * 3 == [reply.headers.get("content-encoding") for reply in replies]
    assert lying(made).meta.frame is not None


async def test_what_the_handler_encoded_is_left_alone() -> None:
    body = Zstd().compress(TEXT, 3)
    made = world([JSON, (b"content-encoding", b"zstd")], body=body)
    replies = [await made.get(**accepting(b"zstd")) for _ in range(3)]
    assert ([body] * 3, None) == ([reply.body for reply in replies], lying(made).meta.frame)


async def test_packing_can_be_switched_off() -> None:
    made = World(OPTIONS, settings=ResponseCacheOptions(hold=HoldOptions(enabled=False)))
    made.handler.body, made.handler.headers = TEXT, [JSON]
    await made.get()
    assert (TEXT, TEXT) == ((await made.get()).body, lying(made).value)


async def test_a_much_read_answer_is_not_unpacked_each_time() -> None:
    made = world()
    replies = [await made.get() for _ in range(30)]
    held = made.responses.snapshot().held
    assert {TEXT} == {reply.body for reply in replies}
    assert (8, 1, 1) == (held.unpacked, held.ready_entries, held.packed_entries)


def damaged(made: World, data: bytes) -> None:
    found, (key,) = lying(made), made.responses.l1.sample(10)
    versions = made.l1.built_on(key)
    assert versions is not None
    made.l1.put(key, data, ttl_s=60, versions=versions, meta=found.meta)


@pytest.mark.parametrize("length", [-5, 9, 3, 0])
async def test_a_damaged_answer_is_made_again(length: int) -> None:
    made = world()
    await made.get()
    damaged(made, lying(made).value[:length])
    assert ([TEXT] * 2, 2) == ([(await made.get()).body for _ in range(2)], made.runs)
    assert 1 == made.responses.snapshot().held.damaged


BOMB = with_crc(Zstd().compress(bytes(32 * MIB), 3))


async def test_a_bomb_with_the_right_checksum_is_not_unpacked_and_gone() -> None:
    made = world()
    await made.get()
    damaged(made, BOMB)
    await made.get()
    assert (TEXT, 2) == ((await made.get()).body, made.runs)


@pytest.mark.parametrize("accept", [b"", b"gzip"])
async def test_what_turns_out_to_be_damaged_when_it_is_unpacked_is_a_miss(accept: bytes) -> None:
    made = world()
    await made.get()
    damaged(made, BOMB)
    asked = (b"cache-control", b"max-age=3600")  # such a request is not answered by the shortest way
    reply = await made.get(headers=[(b"accept-encoding", accept), asked])
    counts = made.responses.counts
    assert (200, TEXT, 2, 0, 2) == (reply.status, decoded(reply), made.runs, counts.hits, counts.misses)
    assert 1 == made.responses.snapshot().held.damaged


async def test_a_variant_that_was_made_of_an_older_answer_does_not_take_the_newer_ones_place() -> None:
    made = world(options=CacheOptions(ttl_s=60, vary="organization", obey_no_cache=True))
    await made.get()
    compressor, gate, begun = made.responses.maker.compressor, asyncio.Event(), asyncio.Event()
    compress = compressor.compress

    async def slowly(body: bytes, encoding: bytes) -> bytes | None:
        begun.set()
        await gate.wait()
        return await compress(body, encoding)

    compressor.compress = slowly  # type: ignore[method-assign]
    asking = asyncio.create_task(made.get(**accepting(b"gzip")))
    await begun.wait()
    made.handler.body = newer = TEXT.replace(b"text", b"word")
    await made.get(headers=[(b"cache-control", b"no-cache")])
    gate.set()
    assert TEXT == decoded(await asking)
    assert ([newer] * 2, 2) == ([decoded(await made.get(**accepting(one))) for one in (b"", b"gzip")], made.runs)


async def test_a_ready_form_that_is_dropped_is_no_eviction() -> None:
    made = world(options=CacheOptions(ttl_s=60, vary="organization", obey_no_cache=True))
    for _ in range(12):
        await made.get()
    assert 1 == made.responses.l1.holding().ready_entries
    await made.get(headers=[(b"cache-control", b"no-cache")])
    assert (0, 0) == (made.responses.l1.holding().ready_entries, sum(made.l1.evictions.values()))


async def test_those_who_wait_for_one_run_get_their_own_encodings() -> None:
    made = world()
    made.handler.gate = asyncio.Event()
    asking = [asyncio.create_task(made.get(**accepting(accept))) for accept in ALL]
    await made.handler.begun.wait()
    await asyncio.sleep(0)
    made.handler.gate.set()
    replies = await asyncio.gather(*asking)
    assert ({TEXT}, 1) == ({decoded(reply) for reply in replies}, made.runs)


async def test_an_invalidated_answer_is_gone_packed_and_ready() -> None:
    made = World(CacheOptions(ttl_s=60, vary="organization", tags=("ledger",)))
    made.handler.body, made.handler.headers = TEXT, [JSON]
    for _ in range(12):
        await made.get()
    made.handler.body = TEXT.replace(b"text", b"word")
    made.l1.invalidate(("ledger",))
    assert [made.handler.body] * 12 == [(await made.get()).body for _ in range(12)]
    assert 2 == made.runs


@pytest.mark.parametrize("first", [b"", b"gzip", b"zstd"])
async def test_what_comes_from_the_shared_store_is_kept_as_it_came(first: bytes) -> None:
    one = world()
    store = SharedStore(16 * MIB, one.clock)
    one, two = (World(OPTIONS, store=store, clock=one.clock) for _ in range(2))
    one.handler.body, one.handler.headers = TEXT, [JSON]
    await one.get(**accepting(first))
    await one.settle()
    replies = [await two.get(**accepting(accept)) for accept in (b"", *ALL)]
    assert ({TEXT}, 0, 1) == ({decoded(reply) for reply in replies}, two.runs, two.responses.counts.shared_hits)
    assert lying(two).meta.frame is not None


async def test_a_stale_answer_is_served_from_its_frame() -> None:
    made = world(options=CacheOptions(ttl_s=60, vary="organization", stale_s=30, stale_if_error_s=300))
    await made.get()
    made.clock.advance(65)
    assert TEXT == (await made.get()).body
    await made.settle()
    made.clock.advance(120)
    made.handler.error = RuntimeError("down")
    with pytest.raises(RuntimeError):
        await made.get()
    assert TEXT == (await made.get()).body  # in the place of the failure


@pytest.mark.parametrize("is_newer_ready", [False, True])
async def test_what_was_found_before_a_newer_answer_came_stays_what_it_was(is_newer_ready: bool) -> None:
    made = World(CacheOptions(ttl_s=60, vary="organization", tags=("ledger",)))
    made.handler.body, made.handler.headers = TEXT, [JSON]
    await made.get()
    older = made.responses.l1.find(made.responses.l1.sample(1)[0])
    assert older is not None
    made.l1.invalidate(("ledger",))
    made.handler.body = newer = TEXT.replace(b"text", b"word")
    for _ in range(12 if is_newer_ready else 2):
        await made.get()
    assert {TEXT} == {older.value[0 : len(TEXT)] for _ in range(20)}
    assert {newer} == {(await made.get()).body for _ in range(20)}


async def test_small_answers_stay_as_they_are() -> None:
    made = world(body=b'{"ok":true}')
    await made.get()
    assert (b'{"ok":true}', None) == (lying(made).value, lying(made).meta.frame)


async def test_bodies_say_their_length_and_nothing_of_what_is_in_them() -> None:
    made = world()
    await made.get()
    found = made.responses.l1.find(made.responses.l1.sample(1)[0])
    assert found is not None and isinstance(found.value, Bodies)
    assert (len(found.value), TEXT, TEXT[5:9]) == (found.meta.whole_bytes, found.value[0 : len(TEXT)], found.value[5:9])
    assert "repeats" not in repr(found.value)


def headers(number: int) -> Lines:
    return [(b"content-type", b"application/json"), (b"x-number", b"%d" % number)]


def test_headers_are_shared_from_the_second_answer_on_and_accounted_before() -> None:
    pairs = SharedPairs()
    commons = [pairs.common(list(headers(1))) for _ in range(4)]
    assert ([False, True, True, True], 2) == ([one.is_shared for one in commons], len(set(map(id, commons))))
    assert commons[0].held_bytes() > 300 and commons[1].held_bytes() == 0
    alone = [pairs.common(list(headers(number))) for number in range(2, 3000)]
    assert not any(one.is_shared for one in alone)
    assert len(pairs._commons) <= 1024


def test_a_variant_is_put_together_as_it_is_sent() -> None:
    answer = StoredAnswer(200, [(b"content-type", b"text/plain"), (b"vary", b"accept")], is_compressible=True)
    answer.add(b"identity", b'"a"', 10)
    answer.add(b"gzip", b'"a-gzip"', 5)
    for variant in answer.variants.values():
        assert variant.lines == b"".join(b"%b: %b\r\n" % pair for pair in variant.head)
        assert variant.not_modified == [(b"vary", b"accept"), (b"etag", variant.etag)]
    copied = answer.copy()
    copied.add(b"zstd", b'"a-zstd"', 4)
    assert ([b"identity", b"gzip"], 15, 19) == (list(answer.variants), answer.whole_bytes, copied.whole_bytes)
    assert copied.held_bytes() > answer.held_bytes()


async def test_an_answer_in_memory_alone_is_packed_too() -> None:
    made = world()
    made = World(OPTIONS, store=MemoryStore(16 * MIB, made.clock), clock=made.clock)
    made.handler.body, made.handler.headers = TEXT, [JSON]
    await made.get()
    assert (TEXT, 1) == ((await made.get()).body, made.responses.snapshot().held.packed_entries)


async def test_an_answer_that_was_found_is_gone_with_who_found_it_and_not_when_the_collector_comes() -> None:
    made = world()
    await made.get()
    (key,) = made.responses.l1.sample(10)
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            found = made.responses.l1.find(key)
            assert found is not None
            assert isinstance(found.value, Bodies)
            assert found.value[0 : len(TEXT)] == TEXT
        del found
        assert gc.collect() == 0
    finally:
        gc.enable()
