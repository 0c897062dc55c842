"""A query that cancellation cannot reach, without a server."""

from __future__ import annotations

import asyncio
import gc

import pytest

from b1.db.running import Running


class Query:
    """Stands for asyncpg's coroutine: waits twice on futures that must never be cancelled."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answers: list[asyncio.Future[int]] = [loop.create_future(), loop.create_future()]

    async def run(self) -> int:
        await asyncio.sleep(0)
        return await self.answers[0] + await self.answers[1]

    def answer(self) -> None:
        for future in self.answers:
            future.set_result(21)


async def _until_waiting(query: Query) -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_it_returns_and_raises_what_the_coroutine_does() -> None:
    loop = asyncio.get_running_loop()
    query = Query()
    loop.call_soon(query.answer)
    running = Running(query.run(), loop)
    assert await running == 42
    assert not running.is_unfinished
    broken = Query()
    broken.answers[0].set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await Running(broken.run(), loop)


async def test_cancellation_ends_the_wait_and_not_the_query() -> None:
    query = Query()
    running = Running(query.run(), asyncio.get_running_loop())

    async def caller() -> int:
        return await running

    task = asyncio.create_task(caller())
    await _until_waiting(query)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running.is_unfinished
    assert not any(future.cancelled() for future in query.answers)
    query.answer()
    assert await running == 42


async def test_a_cancellation_that_comes_with_the_answer_leaves_a_query_that_can_be_finished() -> None:
    query = Query()
    running = Running(query.run(), asyncio.get_running_loop())

    async def caller() -> int:
        return await running

    task = asyncio.create_task(caller())
    await _until_waiting(query)
    query.answer()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await running == 42


async def test_an_interruption_raises_in_the_caller_alone() -> None:
    query = Query()
    running = Running(query.run(), asyncio.get_running_loop())

    async def caller() -> int:
        return await running

    task = asyncio.create_task(caller())
    await _until_waiting(query)
    running.interrupt(TimeoutError("over"))
    with pytest.raises(TimeoutError, match="over"):
        await task
    running.interrupt(TimeoutError("nobody hears this"))
    query.answer()
    assert await running == 42


async def test_a_discarded_query_ends_without_a_trace() -> None:
    query = Query()
    running = Running(query.run(), asyncio.get_running_loop())
    task = asyncio.create_task(_never(running))
    await _until_waiting(query)
    task.cancel()
    await asyncio.wait({task})
    query.answers[0].set_exception(ConnectionError("terminated"))
    running.discard()
    running.discard()
    assert not running.is_unfinished
    del running, query
    gc.collect()


async def _never(running: Running[int]) -> None:
    await running
