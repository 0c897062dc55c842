"""One effect per key and one answer for it, whatever is killed, frozen or emptied meanwhile.

The accidents are the benchmark's own run, shortened; benchmarks/idempotency_kill.py makes the long one.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.real.client import EXPENSE, Answer, Client
from tests.real.points import linger
from tests.real.server import Started

pytestmark = pytest.mark.real

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "idempotency_kill.py"
LIMIT_S = 280
FEWEST_ACCIDENTS = 4
DUPLICATES = 1000
AT_ONCE = 20
COME_BACK = {(409, "IDEMPOTENCY_IN_FLIGHT"), (503, "OVERLOADED")}
LINGER_S = 1.0
SAMPLE_S = 0.005
MOST_CONNECTIONS_OF_ONE_KEY = 1
IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = $1 AND application_name LIKE 'b1:%' AND state LIKE 'idle in transaction%'
"""


def survived(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the benchmark and return what it found."""
    found = folder / "found.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *arguments, "--json", str(found)],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert found.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    result: dict[str, Any] = json.loads(found.read_text())
    assert [] == result["broken"], done.stdout[-6000:]
    return result


@pytest.mark.timeout(LIMIT_S + 10)
def test_whatever_is_killed_there_is_one_row_and_one_answer_per_key(tmp_path: Path) -> None:
    """All sixteen kinds of accident happen where the machine has time for them, the deaths at named points among them."""
    found = survived(tmp_path, "--keys", "256", "--accidents", "16", "--seed", "1", "--seconds", "35")
    counts = found["verdict"]
    assert counts["orders"] == counts["rows"] == counts["records"] == counts["told"]
    assert FEWEST_ACCIDENTS <= sum(found["accidents"].values())


@pytest.mark.timeout(LIMIT_S + 10)
def test_without_redis_too(tmp_path: Path) -> None:
    found = survived(tmp_path, "--keys", "60", "--accidents", "3", "--seed", "2", "--seconds", "20", "--no-redis")
    counts = found["verdict"]
    assert counts["orders"] == counts["rows"] == counts["records"] == counts["told"]


@pytest.fixture
def doomed(tmp_path: Path, pantry_url: str, module_redis: Any) -> Iterator[Started]:
    variables = {
        "DATABASE_URL": pantry_url,
        "REDIS_URL": module_redis.url,
        "B1_LIMIT_SCALE": "1000",
        "DOOMED_FOLDER": str(tmp_path),
    }
    with Started(tmp_path / "server", "tests.real.doomed:app", **variables) as server:
        yield server


async def test_1000_duplicates_at_once_have_one_effect_and_hold_one_connection(
    doomed: Started, pantry_url: str, tmp_path: Path
) -> None:
    """Admission may turn most of them away before their key is looked at: that is an answer too, and they come back."""
    user = await asyncio.to_thread(doomed.client.log_in)
    await asyncio.to_thread(user.spend, "warm")
    lingering = linger(tmp_path, LINGER_S)
    data = _request(user, "the-one")
    seen, first = await _while_sampling(pantry_url, _ask_all(doomed.port, data, DUPLICATES))
    lingering.unlink()
    assert {(201, None)} <= _kinds(first) <= {(201, None), *COME_BACK}, _kinds(first)
    assert all("retry-after" in answer.headers for answer in first if answer.status != 201)
    assert (DUPLICATES, MOST_CONNECTIONS_OF_ONE_KEY) == (len(first), max(seen))
    made = [answer for answer in first if answer.status == 201]
    async with asyncio.timeout(LIMIT_S):
        while len(made) < DUPLICATES:
            again = await _ask_all(doomed.port, data, min(AT_ONCE, DUPLICATES - len(made)))
            assert _kinds(again) <= {(201, None), *COME_BACK}
            made += [answer for answer in again if answer.status == 201]
    assert 1 == sum(answer.headers.get("idempotent-replayed") is None for answer in made)
    assert 1 == len({answer.body for answer in made})
    assert 2 == await _count(pantry_url, "SELECT count(*) FROM expenses")


def _kinds(answers: list[Answer]) -> set[tuple[int, str | None]]:
    return {(answer.status, answer.code) for answer in answers}


def _request(user: Client, key: str) -> bytes:
    body = json.dumps(EXPENSE).encode()
    fields = {
        **user.headers,
        "Host": "x",
        "Idempotency-Key": key,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /v1/finance/expenses HTTP/1.1\r\n{head}\r\n".encode() + body


async def _ask_all(port: int, data: bytes, times: int) -> list[Answer]:
    async def ask() -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            return Answer.parse(await reader.read())
        finally:
            writer.close()

    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*(ask() for _ in range(times)))


async def _while_sampling(url: str, work: Any) -> tuple[list[int], Any]:
    """Run `work` and return how many open transactions Postgres saw meanwhile, look by look."""
    connection = await asyncpg.connect(url)
    try:
        database = await connection.fetchval("SELECT current_database()")
        working = asyncio.ensure_future(work)
        seen: list[int] = []
        while not working.done():
            seen.append(await connection.fetchval(IN_TRANSACTION, database))
            await asyncio.sleep(SAMPLE_S)
        return seen, await working
    finally:
        await connection.close()


async def _count(url: str, statement: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(statement))
    finally:
        await connection.close()
