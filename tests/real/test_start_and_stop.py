"""What stops a start, what does not, and that every stop is clean: exit code 0, no backend and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.real.client import Client
from tests.real.server import Started, migrate, run_b1
from tests.server.running import wait_for
from tests.servers import PostgresServer

pytestmark = pytest.mark.real

DEMO_BACKENDS = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name LIKE 'b1:%' AND datname = '{}'"
PRODUCTION = {
    "B1_ENV": "production",
    "AUTH_JWT_SECRET": "a secret of these tests, 32 characters or more",
    "ADMIN_TOKEN": "an admin token of these tests, 32 characters",
}


def backends(server: PostgresServer, url: str) -> int:
    return int(server.query(DEMO_BACKENDS.format(url.rpartition("/")[2]))[0]["n"])


class TestWrongSettings:
    @pytest.mark.parametrize(
        ("variables", "said"),
        [
            pytest.param(
                {"B1_MEMORY_LIMITT": "1GiB"}, ["B1_MEMORY_LIMITT", "did you mean B1_MEMORY_LIMIT?"], id="unknown"
            ),
            pytest.param({"B1_DB_CONNECTIONS": "many"}, ["B1_DB_CONNECTIONS", "'many'", "expected"], id="no number"),
            pytest.param({"B1_BODY_LIMIT": "10 apples"}, ["B1_BODY_LIMIT", "'10 apples'"], id="no size"),
            pytest.param({"B1_WORKERS": "4"}, ["B1_WORKERS", "leave it at 1"], id="four workers"),
            pytest.param({"DATABASE_URL": "mysql://u:hunter2@h/d"}, ["DATABASE_URL", "***"], id="no Postgres"),
            pytest.param({"PORT": "0"}, ["PORT", "1 to 65535"], id="no port"),
            pytest.param({"B1_ENV": "production"}, ["ADMIN_TOKEN is missing"], id="production without secrets"),
            pytest.param({**PRODUCTION, "B1_DEMO": "1"}, ["B1_DEMO=1 in production"], id="demo in production"),
            pytest.param({**PRODUCTION, "B1_LIMIT_SCALE": "9"}, ["B1_LIMIT_SCALE=9"], id="scaled limits in production"),
            pytest.param({**PRODUCTION, "CORS_ORIGINS": "*"}, ["CORS_ORIGINS"], id="every origin in production"),
        ],
    )
    def test_stop_the_start_and_say_what_is_wrong(self, variables: dict[str, str], said: list[str]) -> None:
        done = run_b1("run", **{"PORT": "1", **variables})
        assert done.returncode not in (0, None)
        assert [] == [words for words in said if words not in done.stderr], done.stderr
        assert "Traceback" not in done.stderr and "hunter2" not in done.stderr

    def test_stop_an_application_under_plain_uvicorn_too(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "uvicorn", "app.main:app", "--port", "1"],
            env={**os.environ, "B1_MEMRY_LIMIT": "1GiB"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert "B1_MEMRY_LIMIT" in done.stderr and "did you mean B1_MEMORY_LIMIT?" in done.stderr


class TestProduction:
    def test_only_the_probes_are_open_and_logs_are_json(self, tmp_path: Path) -> None:
        with Started(tmp_path, **PRODUCTION) as server:
            client, admin = server.client, Client(server.port, PRODUCTION["ADMIN_TOKEN"])
            assert [200] * 4 == [client.get(path).status for path in ("/live", "/ready", "/health", "/health/detailed")]
            closed = (
                "/metrics",
                "/v1/system/metrics/prometheus",
                "/internal/cache-stats",
                "/internal/idempotency-stats",
            )
            assert [401] * 4 == [client.get(path).status for path in closed]
            assert [200] * 4 == [admin.get(path).status for path in closed]
            assert client.get("/dashboard").status == 401
            assert all(line.startswith("{") for line in server.log.splitlines())
            assert all(secret not in server.log for secret in PRODUCTION.values() if len(secret) > 20)


class TestPostgresAwayAtTheStart:
    def test_the_server_starts_and_serves_when_it_comes(
        self, own_postgres: Callable[[], PostgresServer], tmp_path: Path
    ) -> None:
        postgres = own_postgres()
        migrate(postgres.url)
        postgres.stop()
        with Started(tmp_path, DATABASE_URL=postgres.url) as server:
            assert server.client.get("/live").status == 200
            refused = server.client.post("/auth/login", {"email": "user@example.com", "password": "changeme"})
            assert (refused.status, "retry-after" in refused.headers) == (503, True)
            postgres.start()
            login = {"email": "user@example.com", "password": "changeme"}
            wait_for(lambda: server.client.post("/auth/login", login).status == 200)

    def test_migrate_gives_up_after_a_while_and_lets_the_start_go_on(self) -> None:
        done = run_b1("migrate", "--wait", "0.5", DATABASE_URL="postgresql://b1@127.0.0.1:1/b1")
        assert (done.returncode, "going on without" in done.stderr) == (0, True)


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
    def test_each_signal_ends_with_code_0_and_leaves_nothing(
        self, number: signal.Signals, tmp_path: Path, postgres: PostgresServer, pantry_url: str
    ) -> None:
        with Started(tmp_path, DATABASE_URL=pantry_url, WEB_CONCURRENCY="4", B1_LIMIT_SCALE="1000") as server:
            family = psutil.Process(server.process.pid).children(recursive=True)
            assert len(family) == 1  # WEB_CONCURRENCY or not
            user = server.client.log_in()
            assert backends(postgres, pantry_url) >= 1
            with ThreadPoolExecutor(8) as pool:
                spent = [pool.submit(user.spend, str(uuid.uuid4())) for _ in range(8)]
                [one.result() for one in spent[:2]]
                server.send(number)
                # What was accepted is answered; only who comes too late finds nobody.
                results = [one.exception() or one.result().status for one in spent]
            assert server.process.wait(30) == 0, server.log
            assert ["stopped"] == [end["phase"] for end in server.endings()]
            assert "Traceback" not in server.log
        assert [one for one in results if one != 201 and not isinstance(one, ConnectionError)] == []
        assert not any(one.is_running() for one in family)
        assert backends(postgres, pantry_url) == 0
