"""The three ways in which an outcome is kept, behind one face: memory, Redis, and Postgres with the effect itself."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from b1.db import Database
from b1.idempotency import Attempt, IdempotencyOptions, ServiceOptions
from b1.link import Link, LinkOptions
from b1.store.base import Store
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.types import ASGIApp
from b1.units import MIB
from tests.idempotency.harness import World, effects
from tests.servers import RedisServer

MODES = ("memory", "redis", "transactional")


class AheadClock:
    """The machine's clocks, and as far ahead of them as a test wants."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def wall(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class Mode:
    """One way, with its servers. Worlds that it makes are processes that share store and database."""

    name: str
    store: Store
    clock: AheadClock
    database: Database | None = None
    redis: RedisServer | None = None
    effects_in_memory: int = 0
    worlds: list[World] = field(default_factory=list)

    def world(self, options: ServiceOptions | None = None, **route: Any) -> World:
        """Return a process whose one route has these options."""
        chosen = IdempotencyOptions(**{"transactional": self.database is not None, **route})
        made = World(self.database, self.store, route=chosen, options=options, body_limit_bytes=4096)
        self.worlds.append(made)
        return made

    def serve(self, options: ServiceOptions | None = None, **route: Any) -> ASGIApp:
        """Return the route that makes one effect and says which."""
        return self.world(options, **route).handle(self.make)

    async def make(self, attempt: Attempt, body: dict[str, Any]) -> dict[str, Any]:
        """Make one effect, the way that this mode asks for."""
        if self.database is None:
            self.effects_in_memory += 1
            return {"id": self.effects_in_memory, "body": body}
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
            number = await tx.fetchval("SELECT count(*) FROM effects")
        return {"id": number, "body": body}

    async def age(self, seconds: float) -> None:
        """Let so much time pass for what is kept: leases and records."""
        self.clock.ahead_s += seconds
        if self.database is not None:
            await self.database.execute(
                "UPDATE b1_idempotency SET expires_at = expires_at - make_interval(secs => $1)", seconds
            )

    async def effects(self) -> int:
        """Count the effects that are there."""
        return self.effects_in_memory if self.database is None else await effects(self.database)

    def keys(self) -> int:
        """Count the keys in the store, claims and records."""
        if self.redis is not None:
            return int(self.redis.command("DBSIZE")[1:])
        assert isinstance(self.store, MemoryStore)
        return len(self.store.claims)

    def has_left(self) -> bool:
        """Say whether no process of this mode runs, waits, or holds a body or a connection."""
        shots = [one.service.snapshot() for one in self.worlds]
        held = self.database.snapshot().in_use if self.database is not None else 0
        return held == 0 and all(shot.in_flight + shot.waiting + shot.spooled_bytes == 0 for shot in shots)


@asynccontextmanager
async def opened(name: str, database: Database | None, redis: RedisServer | None, folder: Path) -> AsyncIterator[Mode]:
    """Open a mode and close what it opened."""
    clock = AheadClock()
    if redis is None:
        yield Mode(name, MemoryStore(4 * MIB, clock), clock, database)
        return
    link = Link(LinkOptions(url=redis.url, slots_dir=folder))
    await link.start()
    try:
        store = RedisStore(link, "test", now_ms=lambda: int(clock.wall() * 1000))
        yield Mode(name, store, clock, database, redis)
    finally:
        await link.aclose()
