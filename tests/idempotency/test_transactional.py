"""With Postgres: effect and record are one thing, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextvars
import json
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
from b1.idempotency import Attempt, IdempotencyOptions, ServiceOptions, TransactionOver, plain_transaction
from b1.link import Link, LinkOptions
from b1.store.base import Claim
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.units import MIB
from tests.idempotency.harness import World, effects, make_thing, post, records, until

IMPATIENT = IdempotencyOptions(transactional=True, wait_s=0.0)


async def test_same_same_other_payload(database: Database) -> None:
    app = World(database).handle(make_thing)
    first, second = await post(app, {"a": 1}), await post(app, {"a": 1})
    other = await post(app, {"a": 2})
    assert (first.status, first.replayed, first.json["id"]) == (201, False, 1)
    assert (second.status, second.replayed, second.body) == (201, True, first.body)
    assert second.headers["x-idempotency-replay"] == "true" and second.headers["x-original-timestamp"].endswith("Z")
    assert (other.status, other.code) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert await effects(database) == 1


async def test_a_flushed_store_changes_nothing(database: Database) -> None:
    first = await post(World(database).handle(make_thing), {"a": 1})
    after = World(database)
    app = after.handle(make_thing)
    again, other = await post(app, {"a": 1}), await post(app, {"a": 2}, headers=())
    assert (again.status, again.replayed, again.body) == (201, True, first.body)
    assert (other.status, other.code) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert (await effects(database), after.service.snapshot().replays) == (1, 1)


async def test_a_replay_from_postgres_warms_the_store(database: Database) -> None:
    await post(World(database).handle(make_thing), {"a": 1})
    runs = 0

    async def counting(attempt: Attempt, body: dict[str, Any]) -> Any:
        nonlocal runs
        runs += 1
        return await make_thing(attempt, body)

    app = World(database).handle(counting)
    assert [(await post(app, {"a": 1})).replayed for _ in range(3)] == [True] * 3
    assert runs == 1


async def test_the_mismatch_status_is_a_setting(database: Database) -> None:
    app = World(database, options=ServiceOptions(mismatch_status=422)).handle(make_thing)
    await post(app, {"a": 1})
    assert (await post(app, {"a": 2})).status == 422
    flushed = World(database, options=ServiceOptions(mismatch_status=422)).handle(make_thing)
    assert (await post(flushed, {"a": 2})).status == 422


async def test_20_concurrent_duplicates_have_one_effect(database: Database) -> None:
    world = World(database)
    app = world.handle(make_thing)
    replies = await asyncio.gather(*(post(app, {"a": 1}) for _ in range(20)))
    made = [reply for reply in replies if reply.status == 201]
    assert {reply.status for reply in replies} <= {201, 409} and len({reply.body for reply in made}) == 1
    assert {reply.code for reply in replies if reply.status == 409} <= {"IDEMPOTENCY_IN_FLIGHT"}
    # The owner and the four that may wait; the others are told to come back.
    assert len(made) == 5 and all("retry-after" in reply.headers for reply in replies if reply.status == 409)
    assert await effects(database) == 1
    assert (world.service.snapshot().in_flight, world.service.snapshot().waiting) == (0, 0)


async def test_duplicates_wait_without_a_connection(database: Database) -> None:
    world = World(database)
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('slow')")
            inside.set()
            await go_on.wait()
        return {"id": 1}

    app = world.handle(slow)
    requests = [asyncio.create_task(post(app, {"a": 1})) for _ in range(5)]
    await inside.wait()
    await until(lambda: world.service.snapshot().waiting == 4)
    assert database.snapshot().in_use == 1
    go_on.set()
    assert [reply.status for reply in await asyncio.gather(*requests)] == [201] * 5


async def test_two_processes_race_for_one_key(database: Database, other_database: Database) -> None:
    apps = [World(one, route=IMPATIENT).handle(make_thing) for one in (database, other_database)]
    for number in range(10):
        replies = await asyncio.gather(*(post(app, {"n": number}, f"k{number}") for app in apps for _ in range(2)))
        made = [reply for reply in replies if reply.status == 201]
        assert made and len({reply.body for reply in made}) == 1
        assert {reply.code for reply in replies if reply.status != 201} <= {"IDEMPOTENCY_IN_FLIGHT"}
    assert (await effects(database), await records(database)) == (10, 10)


async def test_a_rival_process_is_told_to_come_back_while_the_owner_works(
    database: Database, other_database: Database
) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(attempt: Attempt, body: dict[str, Any]) -> Any:
        made = await make_thing(attempt, body)
        inside.set()
        await go_on.wait()
        return made

    owner = asyncio.create_task(post(World(database).handle(slow)))
    await inside.wait()
    rival = await post(World(other_database).handle(make_thing))
    assert (rival.status, rival.code, rival.headers["retry-after"]) == (409, "IDEMPOTENCY_IN_FLIGHT", "1")
    assert other_database.snapshot().in_use == 0
    go_on.set()
    assert (await owner).status == 201
    assert await effects(database) == 1


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
    assert seen == [1] and "on_commit callback failed" in caplog.text


async def test_on_commit_is_dropped_with_its_effect(database: Database) -> None:
    called: list[str] = []

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            tx.on_commit(lambda: called.append("x"))
        raise HTTPException(404)

    await post(World(database).handle(handler))
    assert called == []


async def test_validation_errors_are_not_stored(database: Database) -> None:
    app = World(database).handle(make_thing)
    broken = await post(app, messages=[{"type": "http.request", "body": b"[1]", "more_body": False}])
    assert (broken.status, await records(database)) == (422, 0)
    assert (await post(app, {"a": 1})).status == 201


async def test_an_expired_row_is_taken_over(database: Database) -> None:
    first = await post(World(database).handle(make_thing), {"a": 1})
    await database.execute("UPDATE b1_idempotency SET expires_at = now() - interval '1 s'")
    second = await post(World(database).handle(make_thing), {"a": 2})
    assert (first.json["id"], second.status, second.json["id"], second.replayed) == (1, 201, 2, False)
    assert (await effects(database), await records(database)) == (2, 1)


async def test_expired_rows_are_purged_and_living_ones_kept(database: Database) -> None:
    world = World(database)
    app = world.handle(make_thing)
    for number in range(7):
        await post(app, {}, f"k{number}")
    await database.execute(
        "UPDATE b1_idempotency SET expires_at = now() - interval '1 s' WHERE scope_digest IN "
        "(SELECT scope_digest FROM b1_idempotency LIMIT 5)"
    )
    assert [await world.service.purge_expired(limit=3) for _ in range(3)] == [3, 2, 0]
    assert (await records(database), world.service.snapshot().purged) == (2, 5)


async def test_the_cleaner_runs_by_itself(database: Database) -> None:
    world = World(database, options=ServiceOptions(purge_interval_s=0.01))
    await post(world.handle(make_thing))
    await database.execute("UPDATE b1_idempotency SET expires_at = now() - interval '1 s'")
    await world.service.start()
    await until(lambda: world.service.snapshot().purged == 1)
    await world.service.aclose()


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

        async def execute(self, query: str, *args: Any) -> str:
            if query != statement or broken:
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
    postgres_url: str, database: Database, tmp_path: Path, after_commit: bool
) -> None:
    script = Path(__file__).with_name("doomed.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.idempotency.{script.stem}", postgres_url, str(tmp_path / "doomed"),
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


async def test_without_the_block_the_store_keeps_the_outcome(database: Database) -> None:
    runs = 0

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        nonlocal runs
        runs += 1
        return {"run": runs}

    app = World(database).handle(handler)
    replies = [await post(app) for _ in range(2)]
    assert [reply.json for reply in replies] == [{"run": 1}] * 2 and await records(database) == 0


async def test_the_row_says_who_and_when_and_what(database: Database) -> None:
    from b1.idempotency.record import Record, decode

    reply = await post(World(database).handle(make_thing), {"a": 1})
    row = await database.fetchrow("SELECT * FROM b1_idempotency")
    assert row is not None
    record = decode(row["record"])
    assert isinstance(record, Record)
    assert (row["organization"], row["status"], record.actor, record.entity) == ("1", 201, "ann", "1")
    assert json.loads(record.body) == reply.json
    assert 86_000 < (row["expires_at"] - row["created_at"]).total_seconds() < 86_500


async def test_connections_come_back_clean(database: Database) -> None:
    app = World(database).handle(make_thing)
    await asyncio.gather(*(post(app, {}, f"k{number}") for number in range(12)))
    waiting = await database.fetchval("SHOW lock_timeout")
    snapshot = database.snapshot()
    assert (waiting, snapshot.in_use, snapshot.counters.cancels) == ("0", 0, 0)


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
