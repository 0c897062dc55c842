"""Random readers, writers, hang-ups and failures over two processes: no read that begins after an invalidation is older."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.options import CacheOptions
from b1.clock import ManualClock
from b1.types import ASGIApp, Receive, Scope, Send
from tests.asgi.caching.test_shared import BlindStore, CountingStore
from tests.asgi.caching.world import World

OPTIONS = CacheOptions(ttl_s=5, vary="organization", tags=("rows",), stale_s=5, stale_if_error_s=20)
BODY = b'{"some": "text that pays to be compressed"},' * 40


class Rows:
    """The source of truth, and the handler that reads it slowly."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.version = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        version = self.version  # the SELECT
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)
        if self.random.random() < 0.05:
            raise RuntimeError("down")
        headers = [(b"content-type", b"application/json"), (b"x-version", b"%d" % version)]
        if self.random.random() < 0.05:
            headers.append((b"set-cookie", b"a=b"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})


class Trial:
    """Two processes, readers and a writer."""

    def __init__(self, store_kind: type[CountingStore], seed: int) -> None:
        self.random = Random(seed)
        self.clock = ManualClock()
        self.store = store_kind(self.clock)
        self.rows = Rows(self.random)
        app: ASGIApp = self.rows
        settings = ResponseCacheOptions(wait_s=1, pause_s=0.5)
        self.worlds = [World(OPTIONS, app=app, store=self.store, clock=self.clock, settings=settings) for _ in range(2)]
        self.invalidated = 0
        self.reads = self.stale = 0

    async def read(self) -> None:
        least = self.invalidated
        accept = self.random.choice([b"gzip", b"zstd", b"identity"])
        world = self.random.choice(self.worlds)
        try:
            reply = await world.get(self.random.choice("abc"), headers=[(b"accept-encoding", accept)])
        except RuntimeError:
            return
        self.reads += 1
        self.stale += int(reply.headers["x-version"]) < least

    async def reader(self, times: int) -> None:
        for _ in range(times):
            reading = asyncio.create_task(self.read())
            if self.random.random() < 0.05:
                await asyncio.sleep(0)
                reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            if not reading.cancelled() and reading.exception() is not None:
                raise reading.exception()  # type: ignore[misc]
            await asyncio.sleep(0)

    async def writer(self, readers: list[asyncio.Task[None]]) -> None:
        while not all(reader.done() for reader in readers):
            for _ in range(self.random.randrange(60)):
                await asyncio.sleep(0)
            self.clock.advance(self.random.random() * 2)
            self.rows.version += 1
            version = self.rows.version
            await self.store.invalidate(("rows",) if self.random.random() < 0.9 else None)
            self.invalidated = version

    async def run(self) -> None:
        readers = [asyncio.create_task(self.reader(200)) for _ in range(8)]
        writing = asyncio.create_task(self.writer(readers))
        await asyncio.gather(writing, *readers)
        for world in self.worlds:
            await world.responses.aclose()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("store_kind", [CountingStore, BlindStore])
async def test_no_read_after_an_invalidation_is_older(store_kind: Any, seed: int) -> None:
    trial = Trial(store_kind, seed)
    await trial.run()
    counts = [world.responses.counts for world in trial.worlds]
    hits, misses, collapsed, stored = (
        sum(getattr(count, name) for count in counts) for name in ("hits", "misses", "collapsed", "stored")
    )
    # How often the handler runs depends on the machine: the writer turns while readers wait in real time for each other's
    # leases. What it made is kept, but for a tenth that failed or has a cookie, and what was overtaken.
    assert (0, True, True) == (trial.stale, trial.reads > 1000, hits > 100)
    assert 2 * stored > misses - collapsed > 0 < collapsed
