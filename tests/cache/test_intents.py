"""Intents on a real Postgres: none is lost between a commit and its invalidation, whatever dies in between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fastapi import HTTPException

from b1.cache.intents import queries
from b1.cache.intents.intents import Intents
from b1.clock import SystemClock
from b1.db import Database
from b1.errors import ConfigurationError, StoreUnavailable
from b1.idempotency import Attempt, Transaction, plain_transaction
from b1.link import Link, LinkOptions
from b1.store.base import CacheRead, CacheState
from b1.store.redis import RedisStore
from tests.cache.intending import RULES, Applied, database_at, intents_on, rows, until
from tests.idempotency.harness import MIGRATION, World, post
from tests.servers import PostgresServer

UPDATE = "UPDATE things SET n = n + 1 WHERE id = $1 RETURNING n"


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> Iterator[str]:
    """One database for the module's many small tests; each finds its tables empty."""
    with postgres.database() as one:
        yield one


@pytest.fixture
async def database(url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with database_at(url, tmp_path / "slots") as one:
        await one.execute("TRUNCATE b1_cache_intents; UPDATE things SET n = 0")
        yield one


@pytest.fixture
def applied() -> Applied:
    return Applied()


class TestOneWrite:
    @pytest.mark.parametrize("kind", ["plain", "lease"])
    async def test_it_is_applied_behind_the_commit_and_its_row_goes(
        self, kind: str, database: Database, applied: Applied
    ) -> None:
        async with intents_on(database, applied) as intents:
            if kind == "plain":
                async with plain_transaction(database) as tx:
                    await intents.changed(tx, "thing.updated", id=1)
                    assert applied.calls == []
            else:
                async with database.acquire() as lease, lease.transaction() as watched:
                    await intents.changed(watched, "thing.updated", id=1)
                    assert applied.calls == []
            assert applied.calls == [(("thing:1",), ("list",))]
            await until(lambda: intents.snapshot().undeleted == 0)
            assert await rows(database) == 0
            now = intents.snapshot()
        assert (now.is_durable, now.recorded, now.applied, now.replayed, now.failed) == (True, 1, 1, 0, 0)

    async def test_it_rides_on_the_writes_own_statement(self, database: Database, applied: Applied) -> None:
        async with intents_on(database, applied, linger_s=3600.0) as intents:
            await intents.replay()  # so that it knows of the table
            async with plain_transaction(database) as tx:
                assert await intents.changing(tx, "thing.updated", id=1).fetchval(UPDATE, 1) == 1
                assert await tx.fetchval("SELECT count(*) FROM b1_cache_intents") == 1
            async with plain_transaction(database) as tx:
                query = (
                    "WITH one AS (SELECT id FROM things WHERE id = $1) UPDATE things SET n = 9 WHERE id IN (TABLE one)"
                )
                assert await intents.changing(tx, "thing.updated", id=2).execute(query, 2) == "UPDATE 1"
            assert await rows(database) == 2
            assert applied.tags == {"thing:1", "thing:2", "list"}

    @pytest.mark.parametrize("query", ["-- why\nUPDATE things SET n = 5", "UPDATE things SET n = 5"])
    async def test_a_statement_that_cannot_carry_it_has_it_beside(
        self, query: str, database: Database, applied: Applied
    ) -> None:
        async with intents_on(database, applied) as intents, plain_transaction(database) as tx:
            assert await intents.changing(tx, "thing.updated", id=1).execute(query) == "UPDATE 2"
            assert await tx.fetchval("SELECT count(*) FROM b1_cache_intents") == 1

    @pytest.mark.parametrize("riding", [False, True])
    async def test_a_write_that_is_rolled_back_leaves_nothing_and_invalidates_nothing(
        self, riding: bool, database: Database, applied: Applied
    ) -> None:
        async def write(intents: Intents) -> None:
            async with plain_transaction(database) as tx:
                if riding:
                    await intents.changing(tx, "thing.updated", id=1).execute("UPDATE things SET n = 5")
                else:
                    await intents.changed(tx, "thing.updated", id=1)
                raise ZeroDivisionError

        async with intents_on(database, applied) as intents:
            with pytest.raises(ZeroDivisionError):
                await write(intents)
            assert (await rows(database), applied.calls) == (0, [])

    async def test_a_savepoint_that_is_undone_takes_its_intent_along(
        self, database: Database, applied: Applied
    ) -> None:
        async def undone(intents: Intents, tx: Transaction) -> None:
            async with tx.savepoint():
                await intents.changed(tx, "thing.updated", id=1)
                raise ZeroDivisionError

        async with intents_on(database, applied) as intents:
            async with plain_transaction(database) as tx:
                with pytest.raises(ZeroDivisionError):
                    await undone(intents, tx)
                await intents.changed(tx, "thing.updated", id=2)
            assert applied.calls == [(("thing:2",), ("list",))]

    async def test_a_write_that_names_nonsense_is_rolled_back(self, database: Database, applied: Applied) -> None:
        async def write(intents: Intents) -> None:
            async with plain_transaction(database) as tx:
                await tx.execute("UPDATE things SET n = 5")
                await intents.changed(tx, "thing.moved", id=1)

        async with intents_on(database, applied) as intents:
            with pytest.raises(ValueError, match="no rule is about"):
                await write(intents)
        assert await database.fetchval("SELECT max(n) FROM things") == 0

    async def test_a_lease_that_cannot_say_when_it_commits_is_refused(
        self, database: Database, applied: Applied
    ) -> None:
        async with intents_on(database, applied) as intents, database.acquire() as lease:
            if hasattr(lease, "on_commit"):
                return
            with pytest.raises(ConfigurationError, match="cannot say when it is committed"):
                await intents.changed(lease, "thing.updated", id=1)

    async def test_what_fails_behind_a_commit_does_not_fail_the_write(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fails() -> None:
            raise ZeroDivisionError

        calls: list[str] = []
        async with database.acquire() as lease, lease.transaction() as watched:
            watched.on_commit(fails)
            watched.on_commit(lambda: calls.append("next"))
            await watched.execute("UPDATE things SET n = 3")
        assert (calls, await database.fetchval("SELECT max(n) FROM things")) == (["next"], 3)
        assert "a callback behind a commit failed" in caplog.text

    async def test_without_a_transaction_it_is_applied_at_once(self, database: Database, applied: Applied) -> None:
        async with intents_on(database, applied) as intents:
            await intents.changed(None, "thing.updated", id=1)
            assert applied.calls == [(("thing:1",), ("list",))]
            assert await rows(database) == 0

    async def test_the_writer_waits_for_the_other_processes_but_not_for_long(
        self, database: Database, applied: Applied
    ) -> None:
        applied.gate.clear()
        async with intents_on(database, applied, wait_s=0.01) as intents:
            async with plain_transaction(database) as tx:
                await intents.changed(tx, "thing.updated", id=1)
            assert (intents.snapshot().unfinished, intents.snapshot().applied) == (1, 0)
            applied.gate.set()
            await until(lambda: intents.snapshot().applied == 1)


class TestAKeyedRequest:
    async def test_effect_record_and_intent_commit_together_and_a_replay_invalidates_nothing(
        self, database: Database, applied: Applied
    ) -> None:
        await database.execute(MIGRATION.read_text())
        async with intents_on(database, applied, linger_s=3600.0) as intents:

            async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
                async with attempt.transaction() as tx:
                    await intents.changing(tx, "thing.updated", id=1).execute(
                        "UPDATE things SET n = n + 1 WHERE id = 1"
                    )
                assert applied.calls == []  # the block's end is not the commit
                return {"id": 1}

            app = World(database).handle(handler)
            first = await post(app, {"a": 1})
            assert applied.calls == [(("thing:1",), ("list",))]
            assert await rows(database) == 1
            again = await post(app, {"a": 1})
        assert (first.status, again.status, again.replayed) == (201, 201, True)
        assert (len(applied.calls), await database.fetchval("SELECT n FROM things WHERE id = 1")) == (1, 1)

    async def test_a_refused_request_leaves_no_intent(self, database: Database, applied: Applied) -> None:
        await database.execute(MIGRATION.read_text())
        async with intents_on(database, applied) as intents:

            async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
                async with attempt.transaction() as tx:
                    await intents.changed(tx, "thing.updated", id=1)
                raise HTTPException(422)

            assert (await post(World(database).handle(handler), {"a": 2}, "other")).status == 422
            assert (applied.calls, await rows(database)) == ([], 0)


class TestWithoutTheTable:
    async def test_a_write_does_not_fail_before_the_migration_and_is_durable_after_it(
        self, postgres_url: str, tmp_path: Path, applied: Applied
    ) -> None:
        async with (
            database_at(postgres_url, tmp_path / "slots", migrated=False) as database,
            intents_on(database, applied, replay_every_s=0.0) as intents,
        ):
            async with plain_transaction(database) as tx:
                assert await intents.changing(tx, "thing.updated", id=1).fetchval(UPDATE, 1) == 1
            assert intents.snapshot().is_durable is False
            assert applied.tags == {"thing:1", "list"}
            async with database_at(postgres_url, tmp_path / "others"):
                pass  # it migrates
            async with plain_transaction(database) as tx:
                await intents.changed(tx, "thing.updated", id=2)
            assert intents.snapshot().recorded == 1

    async def test_without_postgres_it_is_applied_and_nothing_else(self, applied: Applied) -> None:
        async with intents_on(None, applied) as intents:
            await intents.changed(None, "thing.updated", id=1)
            assert await intents.caught_up(0.0)
            assert applied.tags == {"thing:1", "list"}
            assert intents.snapshot().is_durable is False


class TestReplay:
    @pytest.mark.parametrize("moment", ["written", "committed", "applied"])
    async def test_a_worker_that_is_killed_loses_no_invalidation(
        self, moment: str, postgres_url: str, tmp_path: Path, applied: Applied
    ) -> None:
        await _kill_behind(moment, postgres_url, tmp_path)
        async with database_at(postgres_url, tmp_path / "slots") as database:
            is_committed = moment != "written"
            if not is_committed:  # the server notices the dead client within its connection check
                await until(lambda: _nobody_else(database))
            assert await database.fetchval("SELECT n FROM things WHERE id = 1") == (1 if is_committed else 0)
            assert await rows(database) == (1 if is_committed else 0)
            async with intents_on(database, applied) as intents:
                assert await intents.caught_up(10.0)
                assert applied.calls == ([(("thing:1",), ("list",))] if is_committed else [])
                await until(lambda: _no_rows(database))
                assert intents.snapshot().replayed == (1 if is_committed else 0)

    async def test_what_a_killed_worker_made_stale_leaves_redis_too(
        self, url: str, database: Database, redis_url: str, tmp_path: Path
    ) -> None:
        link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "redis"))
        await link.start()
        store = RedisStore(link, "intents")
        read = CacheRead("cache:1:thing", ("thing:1",), lease_ms=5000)
        try:
            loaded = (await store.enter([], read=read)).cache
            assert loaded is not None and loaded.state is CacheState.LEASED
            await store.store_if_unchanged(
                "cache:1:thing", b"old", tags=read.tags, vector=loaded.vector, ttl_ms=600_000
            )
            await _kill_behind("committed", url, tmp_path)
            before = (await store.enter([], read=read)).cache
            assert before is not None and before.value == b"old"  # committed, and nobody said so

            async def apply(hard: Sequence[str], soft: Sequence[str]) -> None:
                await store.invalidate(hard, soft=soft)

            intents = Intents(RULES, apply, SystemClock(), database=database)
            await intents.start()
            assert await intents.caught_up(10.0)
            after = (await store.enter([], read=read)).cache
            await intents.aclose()
            assert after is not None and after.state is CacheState.LEASED
        finally:
            await link.aclose()

    async def test_any_instance_replays_what_has_grown_old(self, database: Database, applied: Applied) -> None:
        async with intents_on(database, applied, replay_after_s=0.2) as intents:
            assert await intents.caught_up(10.0)
            await _leave(database, "a")
            await until(lambda: intents.snapshot().replayed == 1)
            assert applied.tags == {"a"}

    async def test_a_young_row_is_left_to_its_writer(self, database: Database, applied: Applied) -> None:
        async with intents_on(database, applied, replay_after_s=3600.0) as intents:
            assert await intents.caught_up(10.0)  # the first look takes all
            await _leave(database, "a")
            await until(lambda: intents.snapshot().replays >= 4)
            assert (applied.calls, await rows(database)) == ([], 1)

    async def test_a_great_many_rows_go_in_batches_each_one_call(self, database: Database, applied: Applied) -> None:
        await _leave(database, *(f"t{number}" for number in range(95)))
        async with intents_on(database, applied, batch=20) as intents:
            await until(lambda: intents.snapshot().replayed == 95)
            await until(lambda: _no_rows(database))
        assert (len(applied.calls), len(applied.tags)) == (5, 95)

    async def test_two_instances_share_the_work_and_skip_each_others_rows(
        self, database: Database, url: str, tmp_path: Path
    ) -> None:
        await _leave(database, *(f"t{number}" for number in range(60)))
        first, second = Applied(), Applied()
        async with (
            database_at(url, tmp_path / "others") as other,
            intents_on(database, first, batch=10),
            intents_on(other, second, batch=10),
        ):
            await until(lambda: _no_rows(database))
        assert first.tags | second.tags == {f"t{number}" for number in range(60)}
        assert first.tags & second.tags == set()

    async def test_while_the_store_is_away_rows_are_kept_and_replayed_on_its_return(
        self, database: Database, applied: Applied
    ) -> None:
        applied.is_shared = False
        async with intents_on(database, applied, replay_after_s=0.0) as intents:
            async with plain_transaction(database) as tx:
                await intents.changed(tx, "thing.updated", id=1)
            assert applied.calls == [(("thing:1",), ("list",))]  # here it has taken effect
            assert (await rows(database), intents.snapshot().failed) == (1, 1)
            applied.is_shared = True
            await until(lambda: _no_rows(database))
            assert (len(applied.calls), intents.snapshot().replayed) == (2, 1)

    async def test_an_application_that_fails_is_tried_again(self, database: Database, applied: Applied) -> None:
        applied.error = StoreUnavailable()
        async with intents_on(database, applied, replay_after_s=0.0, taken_s=0.0) as intents:
            async with plain_transaction(database) as tx:
                await intents.changed(tx, "thing.updated", id=1)
            assert intents.snapshot().failed >= 1
            applied.error = None
            await until(lambda: _no_rows(database))

    async def test_a_database_that_is_away_does_not_end_the_round(
        self, database: Database, applied: Applied, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with intents_on(database, applied, replay_after_s=0.0) as intents:
            await intents.replay()
            with monkeypatch.context() as patch:
                patch.setattr(queries, "TAKE", "SELECT 1/0")
                await until(lambda: intents.snapshot().errors >= 2)
            await _leave(database, "a")
            await until(lambda: applied.tags == {"a"})


class TestTheEnd:
    async def test_a_stop_deletes_the_rows_of_what_was_applied(self, database: Database, applied: Applied) -> None:
        async with intents_on(database, applied, linger_s=3600.0) as intents:
            async with plain_transaction(database) as tx:
                await intents.changed(tx, "thing.updated", id=1)
            assert intents.snapshot().undeleted == 1
        assert await rows(database) == 0

    async def test_a_stop_deletes_more_than_one_batch(self, database: Database, applied: Applied) -> None:
        async with intents_on(database, applied, linger_s=3600.0, batch=2) as intents:
            for _ in range(5):
                async with plain_transaction(database) as tx:
                    await intents.changed(tx, "thing.updated", id=1)
        assert await rows(database) == 0

    async def test_a_stop_leaves_the_row_of_what_hangs(self, database: Database, applied: Applied) -> None:
        applied.gate.clear()
        async with intents_on(database, applied, wait_s=0.0, flush_s=0.01) as intents:
            async with plain_transaction(database) as tx:
                await intents.changed(tx, "thing.updated", id=1)
            await intents.aclose()
        assert await rows(database) == 1

    async def test_a_row_waits_for_the_purge_of_its_surrogate_keys_and_not_for_ever(
        self, database: Database, applied: Applied
    ) -> None:
        class Purging:
            put_keys: list[tuple[tuple[str, ...], bool]] = []  # noqa: RUF012 - one per test
            is_delivered = False

            def put(self, keys: Any, *, soft: bool = False) -> int:
                self.put_keys.append((tuple(keys), soft))
                return len(self.put_keys)

            def is_settled(self, mark: int) -> bool:
                return self.is_delivered

        purging = Purging()
        made = {"purge": purging, "surrogates": lambda tags: [f"s-{tag}" for tag in tags]}
        async with intents_on(database, applied, made=made) as intents:
            async with plain_transaction(database) as tx:
                await intents.changed(tx, "thing.updated", id=1)
            assert purging.put_keys == [(("s-thing:1", "s-list"), False)]
            replays = intents.snapshot().replays
            await until(lambda: intents.snapshot().replays >= replays + 2)
            assert await rows(database) == 1
            purging.is_delivered = True
            await until(lambda: _no_rows(database))
            purging.is_delivered = False
        async with intents_on(database, applied, made=made, purge_s=0.0) as intents:
            async with plain_transaction(database) as tx:
                await intents.changed(tx, "thing.updated", id=1)
            await until(lambda: _no_rows(database))


class TestRiding:
    @pytest.mark.parametrize(
        ("query", "begins"),
        [
            ("UPDATE t SET a = $1", "WITH b1_intent AS (INSERT"),
            ("  insert into t values ($1)", "WITH b1_intent AS (INSERT"),
            ("with x as (select 1) delete from t", "WITH b1_intent AS (INSERT"),
            ("WITH RECURSIVE x AS (SELECT 1) SELECT * FROM x", "WITH RECURSIVE b1_intent AS (INSERT"),
        ],
    )
    def test_the_insert_stands_in_front(self, query: str, begins: str) -> None:
        ridden = queries.riding(query, 1)
        assert ridden is not None
        assert ridden.startswith(begins)
        assert "$2::uuid" in ridden

    @pytest.mark.parametrize(
        "query", ["-- c\nUPDATE t", "/* */ SELECT 1", "CALL f()", "MERGE INTO t", "TABLE t", "SELECTED"]
    )
    def test_what_cannot_carry_it_is_left_alone(self, query: str) -> None:
        assert queries.riding(query, 0) is None


async def _kill_behind(moment: str, url: str, folder: Path) -> None:
    """Have another process write as far as `moment`, and kill it there."""
    command = [sys.executable, "-m", "tests.cache.intending", url, str(folder / "doomed"), moment, "1"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert child.stdout is not None
    try:
        assert await asyncio.to_thread(child.stdout.readline) == "inside\n"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


async def _leave(database: Database, *tags: str) -> None:
    """Leave rows as a worker does that died behind its commit."""
    values = "SELECT gen_random_uuid(), ARRAY[tag], 'dead' FROM unnest($1::text[]) tag"
    query = f"INSERT INTO b1_cache_intents (id, tags, instance) {values}"
    await database.execute(query, list(tags))


async def _no_rows(database: Database) -> bool:
    return await rows(database) == 0


async def _nobody_else(database: Database) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL"
    return bool(await database.fetchval(query) == 1)


def test_asyncpg_knows_the_ids_that_we_make() -> None:
    from uuid import uuid4

    one = uuid4()
    assert {one} == {asyncpg.pgproto.pgproto.UUID(str(one))}
