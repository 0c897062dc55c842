"""A database on slots of its own, and other processes that share them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from b1.db import Database, DatabaseOptions

MakeDatabase = Callable[..., Database]


async def until(condition: Callable[[], object], *, limit_s: float = 30.0) -> None:
    """Wait until `condition` holds; fail when it does not within `limit_s`."""
    with anyio.fail_after(limit_s):
        while not condition():
            await anyio.sleep(0.005)


class Neighbour:
    """Another process with a `Database` on the same slots (`neighbour.py`). Its lines are events."""

    def __init__(self, url: str, slots_dir: Path, *words: str) -> None:
        command = [sys.executable, "-m", "tests.db.neighbour", url, str(slots_dir), *words]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )

    def event(self) -> dict[str, Any]:
        """Return the next line, as it comes."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"the neighbour ended with {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    async def next_event(self) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(self.event)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ask it to end, and wait."""
        if self.process.poll() is None and self.process.stdin is not None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


@pytest.fixture
def slots_dir(tmp_path: Path) -> Path:
    return tmp_path / "b1-0" / "digest"


@pytest.fixture
def neighbours(slots_dir: Path) -> Iterator[Callable[..., Neighbour]]:
    """Start other processes on the same slots."""
    started: list[Neighbour] = []

    def start(url: str, *words: str) -> Neighbour:
        started.append(Neighbour(url, slots_dir, *words))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
async def make_database(slots_dir: Path, postgres_url: str) -> AsyncIterator[MakeDatabase]:
    """Make databases that are closed at the end, before `postgres_url` is dropped; `start` them yourself."""
    made: list[Database] = []

    def make(url: str, **options: Any) -> Database:
        made.append(Database(DatabaseOptions(url=url, slots_dir=slots_dir, **options)))
        return made[-1]

    yield make
    for database in made:
        await database.aclose(deadline_s=5)


@pytest.fixture
async def database(make_database: MakeDatabase, postgres_url: str) -> Database:
    """A started database of three connections, nobody else on its slots."""
    one = make_database(postgres_url)
    await one.start()
    return one
