"""Two processes over one store: an answer is made once, read in one trip, and never older than an invalidation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.options import CacheOptions
from b1.clock import ManualClock
from b1.errors import StoreUnavailable
from b1.link import Link, LinkOptions
from b1.store.base import CacheRead, CacheState, Entered
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.types import ASGIApp, Receive, Scope, Send
from b1.units import MIB
from tests.asgi.caching.world import ORGANIZATION, SharedStore, World, status_of
from tests.asgi.raw import ANN, call, inside


class CountingStore(SharedStore):
    """Counts trips; may be told to fail."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(16 * MIB, clock)
        self.reads: list[CacheRead] = []
        self.is_away = False

    async def enter(self, charges: Any, *, read: CacheRead | None = None, terms: Any = None) -> Entered:
        if self.is_away:
            raise StoreUnavailable
        assert read is not None
        self.reads.append(read)
        return await super().enter(charges, read=read, terms=terms)


class Pair:
    """Two worlds of one application and one store."""

    def __init__(
        self, options: CacheOptions = ORGANIZATION, *, store_kind: type[CountingStore] | None = None, **settings: Any
    ) -> None:
        self.clock = ManualClock()
        self.store = (store_kind or CountingStore)(self.clock)
        chosen = ResponseCacheOptions(**settings)
        self.one, self.two = (World(options, store=self.store, clock=self.clock, settings=chosen) for _ in range(2))

    async def settle(self) -> None:
        await self.one.settle()
        await self.two.settle()


async def test_an_answer_is_made_once_and_read_in_one_trip() -> None:
    pair = Pair()
    first = await pair.one.get()
    await pair.settle()
    pair.store.reads.clear()
    pair.clock.advance(10)
    second, third = await pair.two.get(), await pair.two.get()
    assert (1, 0, 1) == (pair.one.runs, pair.two.runs, len(pair.store.reads))
    assert ["b1; hit; ttl=3590; detail=l2", "b1; hit; ttl=3590; detail=l1"] == [status_of(second), status_of(third)]
    differing = {"cache-status", "age"}
    assert {k: v for k, v in first.headers.items() if k not in differing} == {
        k: v for k, v in third.headers.items() if k not in differing
    }
    assert ("10", first.body) == (second.headers["age"], second.body)


async def test_its_age_goes_on_where_it_was() -> None:
    pair = Pair()
    pair.one.handler.headers = [(b"age", b"100")]
    await pair.one.get()
    await pair.settle()
    pair.clock.advance(7)
    assert "107" == (await pair.two.get()).headers["age"]


async def test_an_invalidation_reaches_both_copies() -> None:
    pair = Pair()
    await pair.one.get()
    await pair.settle()
    await pair.two.get()
    await pair.store.invalidate(("ledger:1",))
    for world in (pair.one, pair.two):
        world.handler.body = b"new"
        assert b"new" == (await world.get()).body
        await pair.settle()


async def test_an_answer_that_an_invalidation_overtook_goes_nowhere() -> None:
    pair = Pair()
    pair.one.handler.gate = asyncio.Event()
    running = asyncio.create_task(pair.one.get())
    await pair.one.handler.begun.wait()
    await pair.store.invalidate(("ledger:1",))
    pair.one.handler.gate.set()
    await running
    await pair.settle()
    pair.two.handler.body = b"new"
    assert (b"new", 1) == ((await pair.two.get()).body, pair.two.runs)


async def test_while_one_process_runs_the_handler_the_other_waits_for_it() -> None:
    pair = Pair()
    pair.one.handler.gate = asyncio.Event()
    running = asyncio.create_task(pair.one.get())
    await pair.one.handler.begun.wait()
    waiting = [asyncio.create_task(pair.two.get()) for _ in range(5)]
    await asyncio.sleep(0.02)
    pair.one.handler.gate.set()
    replies = await asyncio.gather(running, *waiting)
    assert (1, 0, {b"ok"}) == (pair.one.runs, pair.two.runs, {reply.body for reply in replies})


async def test_it_does_not_wait_longer_than_it_should() -> None:
    pair = Pair(lease_ms=30)
    pair.one.handler.gate = asyncio.Event()
    running = asyncio.create_task(pair.one.get())
    await pair.one.handler.begun.wait()
    waiting = asyncio.create_task(pair.two.get())
    await asyncio.sleep(0)
    pair.clock.advance(1)  # the lease is over
    assert (200, 1) == ((await waiting).status, pair.two.runs)
    pair.one.handler.gate.set()
    await running


@pytest.mark.parametrize("header", [(b"cache-control", b"no-store"), (b"set-cookie", b"a=b")])
async def test_a_run_that_made_nothing_gives_its_lease_up(header: tuple[bytes, bytes]) -> None:
    pair = Pair()
    pair.one.handler.headers = [header]
    await pair.one.get()
    await pair.settle()
    await pair.two.get()
    assert (1, 1) == (pair.one.runs, pair.two.runs)


async def test_a_run_that_failed_gives_its_lease_up() -> None:
    pair = Pair()
    pair.one.handler.error = RuntimeError("down")
    with pytest.raises(RuntimeError):
        await pair.one.get()
    await pair.settle()
    assert (200, 1) == ((await pair.two.get()).status, pair.two.runs)


async def test_without_the_store_each_goes_on_alone() -> None:
    pair = Pair()
    pair.store.is_away = True
    assert [b"ok", b"ok"] == [(await world.get()).body for world in (pair.one, pair.two)]
    assert "b1; hit" == status_of(await pair.one.get())[:7]


async def test_a_damaged_entry_is_none() -> None:
    pair = Pair()
    await pair.one.get()
    await pair.settle()
    entries = pair.store.entries._entries  # the store's bytes, as a broken server would give them
    for key, entry in list(entries.items()):
        entries[key] = entry._replace(value=entry.value[:-1])
    assert (b"ok", 1, 1) == ((await pair.two.get()).body, pair.two.runs, pair.two.responses.counts.damaged)


async def test_the_body_of_another_organisation_is_never_read_under_our_key() -> None:
    pair = Pair()
    await pair.one.get()
    await pair.settle()
    entries = pair.store.entries._entries
    (stolen,) = entries.values()
    pair.two.handler.body = b"own"

    async def lying(charges: Any, *, read: CacheRead | None = None, terms: Any = None) -> Entered:
        entered = await MemoryStore.enter(pair.store, charges, read=read, terms=terms)
        assert entered.cache is not None
        return entered._replace(cache=entered.cache._replace(state=CacheState.HIT, value=stolen.value))

    pair.store.enter = lying  # type: ignore[method-assign]
    assert b"own" == (await pair.two.get("/another")).body


async def test_a_stale_copy_of_the_other_process_is_refreshed_by_one() -> None:
    pair = Pair(CacheOptions(ttl_s=60, vary="organization", stale_s=30))
    await pair.one.get()
    await pair.settle()
    pair.clock.advance(61)
    pair.one.handler.body = pair.two.handler.body = b"new"
    replies = [await pair.two.get(), await pair.one.get()]
    await pair.settle()
    assert [b"ok", b"ok"] == [reply.body for reply in replies]
    assert 2 == pair.one.runs + pair.two.runs
    assert b"new" == (await pair.two.get()).body


class TestTheLimitersTrip:
    """The limiter reads for the cache on its own trip; `context.cached` is the answer."""

    def build(self, pair: Pair, principal: Any = ANN) -> ASGIApp:
        world = pair.two
        asked: list[CacheRead | None] = []
        self.asked = asked

        async def limiter(scope: Scope, receive: Receive, send: Send) -> None:
            context = scope["b1"]
            read = world.responses.read_for(context, scope)
            asked.append(read)
            if read is not None:
                answer = (await MemoryStore.enter(pair.store, (), read=read)).cache
                scope["b1"] = _WithAnswer(context, answer)
            await world.layer(scope, receive, send)

        return inside(limiter, principal=principal, options=world.options)

    async def test_it_serves_a_hit_without_another_trip(self) -> None:
        pair = Pair()
        await pair.one.get()
        await pair.settle()
        pair.store.reads.clear()
        reply = await call(self.build(pair), "/x")
        assert ("b1; hit; ttl=3600; detail=l2", 0, 0) == (status_of(reply), pair.two.runs, len(pair.store.reads))

    async def test_it_makes_the_request_the_loader(self) -> None:
        pair = Pair()
        await call(self.build(pair), "/x")
        await pair.settle()
        assert (1, 0) == (pair.two.runs, len(pair.store.reads))
        assert "b1; hit; ttl=3600; detail=l2" == status_of(await pair.one.get())

    async def test_it_reads_nothing_for_what_is_here(self) -> None:
        pair = Pair()
        app = self.build(pair)
        await call(app, "/x")
        await call(app, "/x")
        assert [True, False] == [read is not None for read in self.asked]

    async def test_it_reads_nothing_for_others(self) -> None:
        pair = Pair()
        for principal, method, headers in (
            (None, "GET", ()), (ANN, "POST", ()), (ANN, "HEAD", ()), (ANN, "GET", ((b"range", b"bytes=0-1"),)),
        ):  # fmt: skip
            await call(self.build(pair, principal), "/x", method, headers=headers)
            assert [None] == self.asked

    async def test_it_asks_nothing_for_whom_the_route_does_not_allow(self) -> None:
        pair = Pair(CacheOptions(ttl_s=60, allow=lambda _: False))
        assert 403 == (await call(self.build(pair), "/x")).status
        assert [None] == self.asked

    async def test_an_invalidation_after_the_trip_keeps_the_older_copy_out(self) -> None:
        pair = Pair()
        await pair.one.get()
        await pair.settle()
        world = pair.two

        async def limiter(scope: Scope, receive: Receive, send: Send) -> None:
            context = scope["b1"]
            read = world.responses.read_for(context, scope)
            answer = (await MemoryStore.enter(pair.store, (), read=read)).cache
            await pair.store.invalidate(("ledger:1",))
            scope["b1"] = _WithAnswer(context, answer)
            await world.layer(scope, receive, send)

        await call(inside(limiter, principal=ANN, options=world.options), "/x")
        assert 0 == len(world.l1)


class _WithAnswer:
    """The context as it will be when the limiter's layer writes `cached`."""

    def __init__(self, context: Any, answer: Any) -> None:
        self.__dict__.update(
            {name: getattr(context, name) for name in type(context).__slots__ if hasattr(context, name)}
        )
        self.cached = answer


class BlindVersions:
    """What a process knows of versions when nobody tells it."""

    is_exact = False
    changes = 0

    def vector(self, tags: Sequence[str]) -> bytes:
        return b"blind"


class BlindStore(CountingStore):
    """A server that does not push in order."""

    versions = BlindVersions()  # type: ignore[assignment]


class TestWithoutOrder:
    """Each use of a copy is validated by a trip then, and the copy is not sent again."""

    async def test_a_copy_is_validated_and_not_sent_again(self) -> None:
        pair = Pair(store_kind=BlindStore)
        await pair.one.get()
        await pair.settle()
        assert "b1; hit; ttl=3600; detail=l1" == status_of(await pair.one.get())
        assert [False, True] == [read.held is not None for read in pair.store.reads]

    async def test_an_invalidation_elsewhere_is_seen_at_the_next_use(self) -> None:
        pair = Pair(store_kind=BlindStore)
        await pair.one.get()
        await pair.settle()
        await pair.store.invalidate(("ledger:1",))
        pair.one.handler.body = b"new"
        assert b"new" == (await pair.one.get()).body

    async def test_who_comes_after_an_invalidation_elsewhere_does_not_join_the_run_before_it(self) -> None:
        pair = Pair(store_kind=BlindStore)
        pair.one.handler.gate = asyncio.Event()
        before = asyncio.create_task(pair.one.get())
        await pair.one.handler.begun.wait()
        await pair.store.invalidate(("ledger:1",))
        pair.one.handler.begun.clear()
        after = asyncio.create_task(pair.one.get())
        await pair.one.handler.begun.wait()
        assert 2 == pair.one.runs
        pair.one.handler.gate.set()
        await asyncio.gather(before, after)


async def test_a_real_redis_holds_an_answer_for_another_process(redis_url: str, tmp_path: Path) -> None:
    """One trip for the other process; an invalidation by one is seen by the other."""
    links = [Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / name)) for name in ("one", "two")]
    for link in links:
        await link.start()
    stores: list[Any] = [RedisStore(link, "answers") for link in links]
    worlds = [World(store=store) for store in stores]
    try:
        first = await worlds[0].get()
        await asyncio.gather(*worlds[0].responses._writing)
        second = await worlds[1].get()
        assert (first.body, 0) == (second.body, worlds[1].runs)
        await stores[0].invalidate(("ledger:1",))
        worlds[1].handler.body = b"new"
        assert b"new" == (await worlds[1].get()).body
    finally:
        for world in worlds:
            await world.responses.aclose()
        for link in links:
            await link.aclose()
