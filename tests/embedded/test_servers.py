"""The session's own servers do what their fixtures claim."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from blockbuster import BlockingError

from b1 import host
from tests.servers import PostgresServer, RedisServer


async def test_each_test_gets_an_empty_database_as_an_ordinary_role(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        found = await connection.fetchrow(
            "select (select count(*) from pg_tables where schemaname = 'public') as tables,"
            " (select rolsuper from pg_roles where rolname = current_user) as is_super"
        )
    finally:
        await connection.close()
    assert dict(found) == {"tables": 0, "is_super": False}


async def test_a_stopped_postgres_comes_back_at_the_same_address_with_its_data(
    own_postgres: Callable[[], PostgresServer],
) -> None:
    server = own_postgres()
    url = server.url
    server.execute("create table kept (n int)")
    server.stop()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncpg.connect(url)
    server.start()
    assert server.query("select count(*) from kept") == [{"count": 0}]


async def test_a_suspended_postgres_keeps_its_connections_and_answers_nothing(
    own_postgres: Callable[[], PostgresServer],
) -> None:
    server = own_postgres()
    connection = await asyncpg.connect(server.url)
    server.suspend()
    asking = asyncio.ensure_future(connection.fetchval("select 1"))
    done, _ = await asyncio.wait([asking], timeout=0.2)
    assert not done
    server.resume()
    assert await asking == 1
    await connection.close()


def test_the_redis_of_a_test_is_empty(redis_server: RedisServer) -> None:
    assert redis_server.command("DBSIZE") == b":0"
    redis_server.command("SET", "left", "behind")


def test_what_another_test_left_in_redis_is_gone(redis_server: RedisServer) -> None:
    assert redis_server.command("DBSIZE") == b":0"


def test_a_killed_redis_can_be_started_again(own_redis: Callable[[], RedisServer]) -> None:
    server = own_redis()
    server.kill()
    server.start()
    assert server.command("PING") == b"+PONG"


async def test_a_blocking_call_from_ours_fails(tmp_path: Path) -> None:
    await asyncio.to_thread(host.read_host, {}, root=tmp_path)  # off the loop it may
    with pytest.raises(BlockingError):
        host.read_host({}, root=tmp_path)
