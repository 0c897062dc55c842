"""Credentials that change: used at the handshake, re-read, and sent again on the living connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from b1.link import Credentials, credentials, from_provider, from_url_file
from tests.link.conftest import MakeLink, until
from tests.servers import RedisServer

OwnRedis = Callable[[], RedisServer]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let credentials be renewed within a test's time."""
    monkeypatch.setattr(credentials, "_NEVER_SOONER_S", 0.05)
    monkeypatch.setattr(credentials, "_FILE_CHECK_S", 0.05)


async def test_a_token_is_renewed_before_it_ends_and_the_connection_stays(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    server.command("ACL", "SETUSER", "app", "on", ">token1", ">token2", "~*", "&*", "+@all")
    asked = 0

    async def source() -> Credentials:
        nonlocal asked
        asked += 1
        return Credentials(f"token{min(asked, 2)}", "app", valid_s=0.1)

    link = make_link(server.url, deadline_s=10, credentials=source)
    await link.start()
    assert await link.call("ACL", "WHOAMI") == b"app"
    await until(lambda: asked > 3)
    assert await link.call("PING") == b"PONG"
    # The second one was new, the later ones were the same again.
    assert (link.snapshot().credentials_sent, link.snapshot().connects) == (1, 1)


async def test_a_source_that_fails_is_asked_again_and_costs_nothing(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    server.command("ACL", "SETUSER", "app", "on", ">token1", ">token2", "~*", "&*", "+@all")
    answers = iter(["token1", "", "nonsense", "token2"])
    asked: list[str] = []

    async def source() -> Credentials:
        asked.append(next(answers, "token2"))
        if not asked[-1]:
            raise OSError("the token service is away")
        return Credentials(asked[-1], "app", valid_s=0.1)

    link = make_link(server.url, deadline_s=10, credentials=source)
    await link.start()
    await until(lambda: len(asked) >= 4)
    assert await link.call("ACL", "WHOAMI") == b"app"
    await until(lambda: link.snapshot().credentials_sent == 1)
    assert link.snapshot().connects == 1


async def test_a_password_in_a_file_is_read_again(make_link: MakeLink, own_redis: OwnRedis, tmp_path: Path) -> None:
    server = own_redis()
    server.command("CONFIG", "SET", "requirepass", "first")
    file = tmp_path / "redis-url"
    file.write_text(server.url.replace("redis://", "redis://:first@") + "\n")
    link = make_link(server.url, deadline_s=10, credentials=from_url_file(file))
    await link.start()
    assert await link.call("ACL", "SETUSER", "default", ">second p@ss") == b"OK"
    file.write_text(server.url.replace("redis://", "redis://default:second%20p%40ss@"))
    await until(lambda: link.snapshot().credentials_sent == 1)
    assert await link.call("PING") == b"PONG"
    await link.call("ACL", "SETUSER", "default", "<first")
    await link.call("CLIENT", "KILL", "ID", await link.call("CLIENT", "ID"), "SKIPME", "no")
    await until(lambda: link.snapshot().connects == 2 and link.is_up)
    assert await link.call("PING") == b"PONG"


async def test_a_provider_of_redis_py_will_do(make_link: MakeLink, own_redis: OwnRedis) -> None:
    from redis.credentials import UsernamePasswordCredentialProvider

    server = own_redis()
    server.command("ACL", "SETUSER", "app", "on", ">token", "~*", "&*", "+@all")
    provider = UsernamePasswordCredentialProvider("app", "token")
    link = make_link(server.url, deadline_s=10, credentials=from_provider(provider))
    await link.start()
    assert await link.call("ACL", "WHOAMI") == b"app"
    await asyncio.sleep(0.1)
    assert link.snapshot().credentials_sent == 0


def test_they_show_nowhere() -> None:
    assert "s3cret" not in repr(Credentials("s3cret", "app"))
