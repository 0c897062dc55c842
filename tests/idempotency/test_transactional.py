"""With Postgres: one effect and one answer per key, in one process and in two."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from b1.db import Database
from b1.idempotency import Attempt, IdempotencyOptions, ServiceOptions
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
