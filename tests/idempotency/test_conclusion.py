"""How effect and record are concluded together: in how many messages, against whom, and with which values."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import HTTPException

from b1.db import Database
from b1.idempotency import Attempt, IdempotencyOptions, queries
from b1.idempotency.fingerprint import Keyed
from b1.idempotency.record import Record, encode
from b1.types import Principal
from tests.idempotency.harness import World, effects, make_thing, post, records, until

IMPATIENT = IdempotencyOptions(transactional=True, wait_s=0.0)


class Listening:
    """A database whose leases note what is sent on them."""

    def __init__(self, database: Database) -> None:
        self.sent: list[str] = []
        self._database = database

    @asynccontextmanager
    async def acquire(self, **options: Any) -> AsyncIterator[Any]:
        async with self._database.acquire(**options) as lease:
            yield _Heard(lease, self.sent)


class _Heard:
    def __init__(self, lease: Any, sent: list[str]) -> None:
        self._lease = lease
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._lease, name)

        async def call(query: str, *rest: Any) -> Any:
            self._sent.append(query)
            return await method(query, *rest)

        return call


async def one_insert(attempt: Attempt, body: dict[str, Any]) -> Any:
    async with attempt.transaction() as tx:
        await tx.execute("INSERT INTO effects VALUES ('x')")
    return {"id": 1, "body": body}


async def test_a_first_use_takes_as_many_messages_as_a_plain_transaction(database: Database) -> None:
    listening = Listening(database)
    reply = await post(World(listening).handle(one_insert))  # type: ignore[arg-type]
    begin, effect, conclude = listening.sent
    assert reply.status == 201
    assert begin.startswith("BEGIN; ") and effect.startswith("INSERT INTO effects") and conclude.endswith("; COMMIT")


async def test_the_handlers_statements_have_the_sessions_own_lock_timeout(database: Database) -> None:
    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            return {"id": await tx.fetchval("SHOW lock_timeout")}

    assert (await post(World(database).handle(handler))).json == {"id": "0"}


async def test_a_large_record_is_committed_and_replayed(database: Database) -> None:
    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
        return {"id": 1, "text": "".join(chr(33 + i * i % 89) + str(i) for i in range(12_000))}

    first, again = [await post(World(database).handle(handler)) for _ in range(2)]
    assert len(first.body) > 50_000
    assert (again.status, again.replayed, again.body) == (201, True, first.body)
    assert await effects(database) == 1


@pytest.mark.parametrize("organization", ["'); DROP TABLE effects; --", "\\'", "ä €", "$1", ""])
async def test_no_organization_is_more_than_a_value(database: Database, organization: str) -> None:
    who = Principal(actor="ann", organization=organization)
    first, again = [await post(World(database).handle(make_thing), principal=who) for _ in range(2)]
    assert (first.status, again.replayed, await effects(database)) == (201, True, 1)
    assert await database.fetchval("SELECT organization FROM b1_idempotency") == organization


async def test_a_refusal_over_an_expired_row_replaces_it(database: Database) -> None:
    async def refusing(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
            raise HTTPException(404)

    await post(World(database).handle(make_thing), {"a": 1})
    await database.execute("UPDATE b1_idempotency SET expires_at = now() - interval '1 s'")
    first, again = [await post(World(database).handle(refusing), {"a": 2}) for _ in range(2)]
    assert [(first.status, first.replayed), (again.status, again.replayed)] == [(404, False), (404, True)]
    assert (await effects(database), await records(database)) == (1, 1)


async def test_1000_duplicates_have_one_effect_and_hold_one_connection(database: Database) -> None:
    world = World(database, route=IdempotencyOptions(transactional=True, wait_s=20.0))
    has_begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(attempt: Attempt, body: dict[str, Any]) -> Any:
        made = await make_thing(attempt, body)
        has_begun.set()
        await go_on.wait()
        return made

    app = world.handle(slow)
    requests = [asyncio.create_task(post(app, {"a": 1})) for _ in range(1000)]
    await until(lambda: world.service.snapshot().conflicts == 995 and world.service.snapshot().waiting == 4)
    await until(has_begun.is_set)
    assert (database.snapshot().in_use, database.snapshot().waiting) == (1, 0)
    go_on.set()
    replies = await asyncio.gather(*requests)
    made = [reply for reply in replies if reply.status == 201]
    refused = [reply for reply in replies if reply.code == "IDEMPOTENCY_IN_FLIGHT" and "retry-after" in reply.headers]
    assert (len(made), len(refused)) == (5, 995)
    later = [await post(app, {"a": 1}) for _ in range(20)]
    assert {reply.body for reply in [*made, *later]} == {made[0].body} and all(reply.replayed for reply in later)
    assert await effects(database) == 1


class TestAgainstTheVersionBefore:
    """It inserts its claim first and takes no advisory lock; two versions overlap while a worker is replaced."""

    @pytest.mark.parametrize("commits", [True, False])
    async def test_its_open_claim_decides(self, database: Database, other_database: Database, commits: bool) -> None:
        claimed, answer = asyncio.Event(), asyncio.Event()
        elsewhere = encode(
            Record(status=201, headers=((b"content-type", b"text/plain"),), body=b"first", original_ms=1)
        )
        seen: list[Keyed] = []

        async def other_version() -> None:
            async with other_database.acquire() as lease:
                await lease.execute("BEGIN")
                keyed = seen[0]
                await lease.execute(
                    queries.INSERT, keyed.digest, keyed.organization, keyed.fingerprint, 201, elsewhere, 60.0
                )
                claimed.set()
                await answer.wait()
                await lease.execute("COMMIT" if commits else "ROLLBACK")

        async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
            async with attempt.transaction() as tx:
                await tx.execute("INSERT INTO effects VALUES ('x')")
            seen.append(attempt._keyed)
            others.append(asyncio.get_running_loop().create_task(other_version(), context=contextvars.Context()))
            await claimed.wait()
            asyncio.get_running_loop().call_later(0.05, answer.set)
            return {"id": 1}

        others: list[asyncio.Task[None]] = []
        world = World(database, route=IMPATIENT)
        reply = await post(world.handle(handler))
        await others[0]
        assert (reply.status, reply.replayed) == (201, commits)
        assert (await effects(database), await records(database)) == (0 if commits else 1, 1)
        again = await post(world.handle(make_thing))
        assert (again.replayed, again.body) == (True, reply.body)
        assert database.snapshot().in_use == 0
