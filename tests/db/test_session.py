"""One connection and its slot: when a close is over, the backend is gone, and asyncpg opens no socket of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import asyncpg
import pytest

from b1.clock import SystemClock
from b1.db import Database, DatabaseOptions
from b1.db.opening import Opener
from b1.db.session import Session
from b1.slots import Slots
from tests.servers import PostgresServer


@pytest.fixture
def slots(slots_dir: Path) -> Iterator[Slots]:
    one = Slots(slots_dir, "pg", 3)
    one.open()
    yield one
    one.close()


@asynccontextmanager
async def _nobody(_: float) -> AsyncIterator[Session | None]:
    yield None


@pytest.fixture
def opener(postgres_url: str, slots_dir: Path) -> Opener:
    return Opener(DatabaseOptions(url=postgres_url, slots_dir=slots_dir), SystemClock(), _nobody)


async def test_after_a_close_the_backend_is_gone(
    postgres: PostgresServer, opener: Opener, slots: Slots, postgres_url: str
) -> None:
    outside = await asyncpg.connect(postgres_url)
    still_there = []
    for _ in range(30):
        slot = slots.take()
        assert slot is not None
        session = await opener.open(slot)
        await session.close()
        still_there.append(await outside.fetchval("select count(*) from pg_stat_activity where pid = $1", session.pid))
        assert slot.record.is_clean and not slot.is_taken
    await outside.close()
    assert still_there == [0] * 30


async def test_the_record_names_the_backend_while_it_lives(opener: Opener, slots: Slots) -> None:
    slot = slots.take()
    assert slot is not None
    session = await opener.open(slot)
    assert (slot.record.remote_id, slot.record.is_clean) == (session.pid, False)
    assert slots.records()[slot.index] == slot.record
    session.drop()
    again = slots.take()
    assert again is not None and again.record.is_clean  # a clean one is preferred
    assert slots.records()[slot.index].remote_id == session.pid


async def test_a_refused_attempt_leaves_the_slot_clean(slots: Slots, slots_dir: Path) -> None:
    nowhere = Opener(DatabaseOptions(url="postgresql://b1@127.0.0.1:1/b1", slots_dir=slots_dir), SystemClock(), _nobody)
    slot = slots.take()
    assert slot is not None
    with pytest.raises(OSError, match=r"refused|failed"):
        await nowhere.open(slot)
    assert slot.record.is_clean


async def test_an_attempt_without_an_answer_leaves_the_slot_in_doubt(slots: Slots, slots_dir: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # the kernel connects, nobody accepts: a frozen server
    port = silent.getsockname()[1]
    options = DatabaseOptions(url=f"postgresql://b1@127.0.0.1:{port}/b1", slots_dir=slots_dir, connect_timeout_s=0.05)
    slot = slots.take()
    assert slot is not None
    opener = Opener(options, SystemClock(), _nobody)
    for _ in range(2):  # the second waits for a sign of life before it would connect
        with pytest.raises(TimeoutError):
            await opener.open(slot)
        assert not slot.record.is_clean
    assert opener.resting == 0
    silent.close()


async def test_asyncpg_never_opens_a_socket_to_cancel(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = []

    async def record(**_: object) -> None:
        extra.append(True)

    monkeypatch.setattr("asyncpg.connect_utils._cancel", record)

    async def impatient(n: int) -> None:
        with anyio.move_on_after(0.005 * (n % 5)):
            async with database.acquire() as lease, lease.transaction():
                await lease.execute("select pg_sleep(0.02)")

    await asyncio.gather(*(impatient(n) for n in range(60)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(database.execute("select pg_sleep(60)"), 0.02)
    abandoned = asyncio.create_task(database.execute("select pg_sleep(60)"))
    await asyncio.sleep(0.02)
    abandoned.cancel()
    await asyncio.wait({abandoned})
    await database.aclose(deadline_s=0.01)
    assert extra == []
