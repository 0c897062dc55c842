"""One timer ends all the work that is late, and only that."""

import asyncio

import pytest

from b1.asgi.deadlines import Deadlines, Watch


async def work(deadlines: Deadlines, limit_s: float, watches: list[Watch]) -> str:
    watch = deadlines.begin(limit_s)
    watches.append(watch)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if watch.has_expired and watch.take_back():
            return "expired"
        raise
    finally:
        deadlines.end(watch)
    return "done"


async def test_each_work_ends_at_its_own_time() -> None:
    deadlines, watches = Deadlines(), []
    late = asyncio.create_task(work(deadlines, 30.0, watches))
    early = [asyncio.create_task(work(deadlines, 0.01, watches)) for _ in range(20)]
    assert ["expired"] * 20 == await asyncio.gather(*early)
    assert not late.done()
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert "<Deadlines watched=0>" == repr(deadlines)


async def test_a_cancellation_from_outside_is_not_the_deadline() -> None:
    deadlines, watches = Deadlines(), []
    task = asyncio.create_task(work(deadlines, 30.0, watches))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not watches[0].has_expired


async def test_both_at_once_is_the_cancellation() -> None:
    deadlines, watches = Deadlines(), []
    task = asyncio.create_task(work(deadlines, 30.0, watches))
    await asyncio.sleep(0)
    watches[0].expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_has_ended_in_time_is_left_alone() -> None:
    deadlines = Deadlines()
    watch = deadlines.begin(0.01)
    deadlines.end(watch)
    deadlines.end(watch)
    late, watches = asyncio.create_task(work(deadlines, 0.02, found := [])), found
    assert "expired" == await late
    assert [True] == [one.has_expired for one in watches]
    assert not watch.has_expired
