"""Processes, backends, stores and answers that get lost: all or nothing, and a retry finds out."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException

from b1.db import Database
from b1.errors import DatabaseUnavailable, StoreUnavailable
from b1.idempotency import Attempt, IdempotencyOptions, ServiceOptions
from b1.link import Link, LinkOptions
from b1.store.base import Claim
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.units import MIB
from tests.idempotency.harness import World, effects, make_thing, post, records

IMPATIENT = IdempotencyOptions(transactional=True, wait_s=0.0)


async def test_a_backend_killed_in_mid_transaction_leaves_nothing(database: Database, other_database: Database) -> None:
    kill = True

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
            if kill:
                pid = await tx.fetchval("SELECT pg_backend_pid()")
                await asyncio.get_running_loop().create_task(terminate(pid), context=outside)
            await tx.execute("INSERT INTO effects VALUES ('y')")
        return {"id": 1}

    outside = contextvars.Context()

    async def terminate(pid: int) -> None:
        await other_database.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)

    app = World(database).handle(handler)
    reply = await post(app)
    assert (reply.status, reply.code) == (503, "DB_UNAVAILABLE")
    assert (await effects(other_database), await records(other_database)) == (0, 0)
    kill = False
    retry = await post(app)
    assert (retry.status, retry.replayed, await effects(other_database)) == (201, False, 2)


async def test_a_backend_killed_after_the_block_is_503_and_the_retry_runs(
    database: Database, other_database: Database
) -> None:
    kill = True

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
            pid = await tx.fetchval("SELECT pg_backend_pid()")
        if kill:
            await asyncio.get_running_loop().create_task(terminate(pid), context=outside)
        return {"id": 1}

    outside = contextvars.Context()

    async def terminate(pid: int) -> None:
        await other_database.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)

    app = World(database).handle(handler)
    reply = await post(app)
    assert (reply.status, reply.code, "retry-after" in reply.headers) == (503, "DB_UNAVAILABLE", True)
    assert (await effects(other_database), await records(other_database)) == (0, 0)
    kill = False
    assert ((await post(app)).status, await effects(other_database)) == (201, 1)


def lose_the_answer_to(database: Database, statement: str, *, arrives: bool) -> list[str]:
    """Break the next lease at `statement`, before or after the server carried it out; return what was broken."""
    broken: list[str] = []
    acquire = database.acquire

    class Breaking:
        def __init__(self, lease: Any) -> None:
            self._lease = lease

        def __getattr__(self, name: str) -> Any:
            return getattr(self._lease, name)

        async def execute_as(self, query: str, like: str) -> str:
            return await self.execute(query)

        async def execute(self, query: str, *args: Any) -> str:
            if not query.endswith(statement) or broken:
                return str(await self._lease.execute(query, *args))
            broken.append(query)
            await self._lease.execute(query if arrives else "ROLLBACK", *args)
            raise DatabaseUnavailable("the connection broke")

    @asynccontextmanager
    async def acquiring(**options: Any) -> AsyncIterator[Any]:
        async with acquire(**options) as lease:
            yield Breaking(lease)

    database.acquire = acquiring  # type: ignore[method-assign, assignment]
    return broken


async def test_a_commit_whose_answer_was_lost_is_found(database: Database) -> None:
    called: list[str] = []

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
            tx.on_commit(lambda: called.append("x"))
        return {"id": 1}

    broken = lose_the_answer_to(database, "COMMIT", arrives=True)
    app = World(database).handle(handler)
    replies = [await post(app) for _ in range(2)]
    assert broken and [(reply.status, reply.replayed) for reply in replies] == [(201, False), (201, True)]
    assert (await effects(database), called) == (1, ["x"])


async def test_a_commit_that_did_not_arrive_is_503_and_the_retry_runs(database: Database) -> None:
    broken = lose_the_answer_to(database, "COMMIT", arrives=False)
    app = World(database).handle(make_thing)
    reply = await post(app)
    assert broken and (reply.status, reply.code) == (503, "DB_UNAVAILABLE") and "retry-after" in reply.headers
    assert (await effects(database), await records(database)) == (0, 0)
    assert ((await post(app)).status, await effects(database)) == (201, 1)


@pytest.mark.real
@pytest.mark.parametrize("after_commit", [False, True])
async def test_a_process_killed_in_mid_request_leaves_all_or_nothing(
    shared_postgres_url: str, database: Database, tmp_path: Path, after_commit: bool
) -> None:
    script = Path(__file__).with_name("doomed.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.idempotency.{script.stem}", shared_postgres_url, str(tmp_path / "doomed"),
        "after" if after_commit else "before",
        cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert (await asyncio.wait_for(process.stdout.readline(), 30)).strip() == b"inside"
    process.kill()
    await process.communicate()
    reply = await post(World(database).handle(make_thing), {"a": 1})
    for _ in range(100):  # the server notices its client's end within client_connection_check_interval
        if reply.status != 409:
            break
        reply = await post(World(database).handle(make_thing), {"a": 1})
    assert (reply.status, reply.replayed) == (201, after_commit)
    assert (await effects(database), await records(database)) == (1, 1)


class Away(MemoryStore):
    """A store that is not there."""

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        raise StoreUnavailable

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        raise StoreUnavailable


async def test_postgres_alone_is_enough(database: Database) -> None:
    world = World(database)
    world = World(database, Away(MIB, world.clock))
    app = world.handle(make_thing)
    replies = [await post(app, {"a": 1}) for _ in range(3)]
    assert [reply.replayed for reply in replies] == [False, True, True] and len({reply.body for reply in replies}) == 1
    assert "idempotency-stored" not in replies[0].headers
    assert (await effects(database), world.service.snapshot().errors) == (1, 3)


async def test_a_dead_owners_claim_in_the_store_does_not_keep_the_retry_out(database: Database) -> None:
    world = World(database, route=IMPATIENT)
    store = world.store
    claimed: list[str] = []
    real = store.claim

    async def claim_and_die(key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        if not claimed:
            claimed.append(key)
            await real(key, fingerprint, lease_ms=lease_ms)
        return await real(key, fingerprint, lease_ms=lease_ms)

    store.claim = claim_and_die  # type: ignore[method-assign]
    app = world.handle(make_thing)
    replies = [await post(app, {"a": 1}) for _ in range(2)]
    assert [(reply.status, reply.replayed) for reply in replies] == [(201, False), (201, True)]
    assert (await effects(database), world.service.snapshot().takeovers) == (1, 2)


async def test_a_damaged_record_is_503_and_never_replayed(database: Database) -> None:
    await post(World(database).handle(make_thing))
    await database.execute("UPDATE b1_idempotency SET record = decode('01ff', 'hex')")
    reply = await post(World(database).handle(make_thing))
    assert (reply.status, reply.code) == (503, "STORE_UNAVAILABLE")
    assert await effects(database) == 1


async def test_redis_and_postgres_together(
    database: Database, redis_url: str, redis_server: Any, tmp_path: Path
) -> None:
    link = Link(LinkOptions(url=redis_url, slots_dir=tmp_path / "redis"))
    await link.start()
    try:
        world = World(database, RedisStore(link, "test"))
        app = world.handle(make_thing)
        replies = [await post(app, {"a": 1}) for _ in range(2)]
        redis_server.command("FLUSHALL")
        replies.append(await post(app, {"a": 1}))
        other = await post(app, {"a": 2})
    finally:
        await link.aclose()
    assert [reply.replayed for reply in replies] == [False, True, True] and len({reply.body for reply in replies}) == 1
    assert (other.code, await effects(database)) == ("IDEMPOTENCY_KEY_REUSED", 1)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_there_is_one_effect_and_one_answer(
    database: Database, other_database: Database, seed: int
) -> None:
    """Random handlers, clients that leave, flushed stores and two processes, on a few keys at once."""
    chance = random.Random(seed)

    async def moody(attempt: Attempt, body: dict[str, Any]) -> Any:
        mood = chance.choice(["fine", "fine", "before", "inside", "after", "busy"])
        if mood == "before":
            raise HTTPException(503)
        async with attempt.transaction() as tx:
            number = await tx.fetchval("SELECT count(*) FROM effects WHERE what = $1", body["key"])
            await tx.execute("INSERT INTO effects VALUES ($1)", body["key"])
            if mood == "inside":
                raise HTTPException(409)
            if mood == "busy":
                await asyncio.sleep(0.01)
        if mood == "after":
            raise HTTPException(500)
        return {"number": number, "luck": chance.random()}

    options = ServiceOptions(poll_s=0.005)
    route = IdempotencyOptions(transactional=True, wait_s=0.02)
    worlds = [World(one, route=route, options=options) for one in (database, other_database)]
    # A third one shares the first's connections and never its store: a process after a flush.
    worlds.append(World(database, route=route, options=options))
    apps = [world.handle(moody) for world in worlds]
    answers: dict[str, set[bytes]] = {}

    async def client(key: str) -> None:
        while True:
            request = asyncio.create_task(post(chance.choice(apps), {"key": key}, key))
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 0.01)
                request.cancel()
                await asyncio.wait({request})
                if request.cancelled():
                    continue
            reply = await request
            if reply.status == 201:
                answers.setdefault(key, set()).add(reply.body)
                return
            assert reply.status in (409, 500, 503)

    keys = [f"k{number}" for number in range(4)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(client(key) for key in keys for _ in range(4)))
    for world in worlds:
        await world.service.aclose()
    assert {key: len(bodies) for key, bodies in answers.items()} == dict.fromkeys(keys, 1)
    assert (await effects(database), await records(database)) == (4, 4)
    assert [database.snapshot().in_use, other_database.snapshot().in_use] == [0, 0]
