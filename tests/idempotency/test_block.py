"""The handler's block: what it makes is kept or undone with the answer."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from fastapi import HTTPException

from b1.db import Database
from b1.idempotency import Attempt, TransactionOver, plain_transaction
from tests.idempotency.harness import World, effects, make_thing, post, records


async def test_nothing_is_visible_before_the_answer_is_known(database: Database) -> None:
    seen: list[int] = []

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        made = await make_thing(attempt, body)
        # Another task: this one holds the lease.
        seen.append(await asyncio.get_running_loop().create_task(effects(database), context=outside))
        return made

    outside = contextvars.Context()
    await post(World(database).handle(handler))
    assert (seen, await effects(database)) == ([0], 1)


async def test_a_failure_after_the_block_leaves_nothing(database: Database) -> None:
    fail = True

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        made = await make_thing(attempt, body)
        if fail:
            raise ValueError("after the block")
        return made

    world = World(database)
    app = world.handle(handler)
    with pytest.raises(ValueError, match="after the block"):
        await post(app)
    assert (await effects(database), await records(database)) == (0, 0)
    fail = False
    retry = await post(app)
    assert (retry.status, retry.replayed, await effects(database)) == (201, False, 1)


@pytest.mark.parametrize("status", [500, 503, 401, 403, 408, 409, 425, 429])
async def test_a_passing_refusal_is_undone_and_not_stored(database: Database, status: int) -> None:
    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        await make_thing(attempt, body)
        raise HTTPException(status)

    app = World(database).handle(handler)
    replies = [await post(app) for _ in range(2)]
    assert [(reply.status, reply.replayed) for reply in replies] == [(status, False)] * 2
    assert (await effects(database), await records(database)) == (0, 0)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("status", [400, 404, 410, 422])
async def test_a_refusal_of_the_handler_is_undone_and_stored(database: Database, status: int, inside: bool) -> None:
    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
            if inside:
                raise HTTPException(status, "no such property")
        raise HTTPException(status, "no such property")

    first = await post(World(database).handle(handler))
    again = await post(World(database).handle(make_thing))
    assert (first.status, first.replayed) == (status, False)
    assert (again.status, again.replayed, again.body) == (status, True, first.body)
    assert (await effects(database), await records(database)) == (0, 1)


async def test_an_error_of_postgres_can_be_answered(database: Database) -> None:
    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        import asyncpg

        try:
            async with attempt.transaction() as tx:
                await tx.execute("INSERT INTO effects VALUES (NULL)")
        except asyncpg.NotNullViolationError:
            raise HTTPException(422, "what is missing") from None

    app = World(database).handle(handler)
    assert [(reply.status, reply.replayed) for reply in (await post(app), await post(app))] == [
        (422, False),
        (422, True),
    ]


async def test_a_swallowed_error_is_never_a_success(database: Database) -> None:
    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        import asyncpg

        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
            try:
                await tx.execute("INSERT INTO effects VALUES (NULL)")
            except asyncpg.NotNullViolationError:
                pass
        return {"id": 1}

    world = World(database)
    reply = await post(world.handle(handler))
    assert (reply.status, reply.code) == (500, "INTERNAL_ERROR")
    assert (await effects(database), await records(database)) == (0, 0)
    assert world.service.snapshot().in_flight == 0


async def test_a_savepoint_undoes_its_own_statements_alone(database: Database) -> None:
    called: list[str] = []

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('kept')")
            tx.on_commit(lambda: called.append("kept"))
            try:
                async with tx.savepoint():
                    await tx.execute("INSERT INTO effects VALUES ('undone')")
                    tx.on_commit(lambda: called.append("undone"))
                    raise LookupError
            except LookupError:
                pass
        return {"id": 1}

    assert (await post(World(database).handle(handler))).status == 201
    assert (await database.fetchval("SELECT string_agg(what, ',') FROM effects"), called) == ("kept", ["kept"])


async def test_blocks_of_one_request_share_the_transaction(database: Database) -> None:
    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('a')")
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('b')")
            assert await tx.fetchval("SELECT count(*) FROM effects") == 2
        return {"id": 1}

    assert (await post(World(database).handle(handler))).status == 201
    assert await effects(database) == 2


async def test_a_later_block_that_fails_undoes_itself_alone(database: Database) -> None:
    called: list[str] = []

    async def put(attempt: Attempt, what: str, *, fail: bool = False) -> None:
        try:
            async with attempt.transaction() as tx:
                await tx.execute("INSERT INTO effects VALUES ($1)", what)
                tx.on_commit(lambda: called.append(what))
                if fail:
                    raise LookupError
        except LookupError:
            pass

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        await put(attempt, "first", fail=body["first_fails"])
        await put(attempt, "second", fail=True)
        await put(attempt, "third")
        return {"id": 1}

    app = World(database).handle(handler)
    assert (await post(app, {"first_fails": False}, "a")).status == 201
    assert (await post(app, {"first_fails": True}, "b")).status == 201
    kept = await database.fetchval("SELECT string_agg(what, ' ') FROM effects")
    assert (kept, called) == ("first third third", ["first", "third", "third"])


async def test_on_commit_runs_after_the_commit_and_its_errors_are_logged(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    async def look() -> None:
        seen.append(await effects(database))

    def fail() -> None:
        raise ValueError("callback")

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('x')")
            tx.on_commit(fail)
            tx.on_commit(look)
        return {"id": 1}

    app = World(database).handle(handler)
    assert [(await post(app)).status for _ in range(2)] == [201, 201]
    assert seen == [1] and "a callback behind a commit failed" in caplog.text


async def test_on_commit_is_dropped_with_its_effect(database: Database) -> None:
    called: list[str] = []

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            tx.on_commit(lambda: called.append("x"))
        raise HTTPException(404)

    await post(World(database).handle(handler))
    assert called == []


async def test_without_the_block_the_store_keeps_the_outcome(database: Database) -> None:
    runs = 0

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        nonlocal runs
        runs += 1
        return {"run": runs}

    app = World(database).handle(handler)
    replies = [await post(app) for _ in range(2)]
    assert [reply.json for reply in replies] == [{"run": 1}] * 2 and await records(database) == 0


@pytest.mark.parametrize("fail", [False, True])
async def test_without_a_key_the_block_is_the_transaction(database: Database, fail: bool) -> None:
    seen: list[int] = []

    async def look() -> None:
        seen.append(await effects(database))

    try:
        async with plain_transaction(database) as tx:
            tx.on_commit(look)
            await tx.execute("INSERT INTO effects VALUES ('x')")
            if fail:
                raise LookupError
    except LookupError:
        pass
    assert (await effects(database), seen, database.snapshot().in_use) == ((0, [], 0) if fail else (1, [1], 0))
    with pytest.raises(TransactionOver):
        await tx.execute("SELECT 1")
