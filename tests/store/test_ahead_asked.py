"""Questions that Redis was asked first count as spent while they are on their way: nothing is spent ahead beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from b1.limiter.decision import Decision
from tests.servers import RedisServer
from tests.store.test_ahead import ANN, PART, QUOTA, Process, process, until


@pytest.fixture
async def one(redis_url: str, tmp_path: Path) -> AsyncIterator[Process]:
    async with process(redis_url, tmp_path) as made:
        yield made


async def test_what_was_asked_first_and_is_not_answered_counts_as_spent(one: Process) -> None:
    await one.ask("mine")
    asked = [asyncio.ensure_future(one.limiter.check(("mine",), ANN)) for _ in range(QUOTA - 3)]
    soon: list[Decision | None] = []
    await asyncio.sleep(0)
    ahead = [one.limiter.check_now(("mine",), ANN) for _ in range(PART)]
    assert one.limiter.check_soon(("mine",), ANN, {}, soon.append) is True
    passed = [decision.allowed for decision in await asyncio.gather(*asked)]
    await until(lambda: len(soon) == 1)
    assert sum(passed) + sum(decision is not None for decision in (*ahead, *soon)) == QUOTA - 2
    assert ahead == [None] * PART
    assert not one.ahead.asked
    assert await one.passed(QUOTA) == 1


async def test_who_gives_up_a_question_leaves_nothing_behind(one: Process) -> None:
    await one.ask("mine")
    asked = [asyncio.ensure_future(one.limiter.check(("mine",), ANN)) for _ in range(50)]
    await asyncio.sleep(0)
    for question in asked:
        question.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert not one.ahead.asked
    assert await one.used() == 51


async def test_lost_data_is_noticed_in_the_answer_to_a_question_too(one: Process, redis_server: RedisServer) -> None:
    assert await one.passed(50) == 50
    await one.settled()
    redis_server.command("FLUSHALL")
    question = asyncio.ensure_future(one.limiter.check(("mine",), ANN))
    await asyncio.sleep(0)
    assert all(one.limiter.check_now(("mine",), ANN) is not None for _ in range(PART))
    assert (await question).allowed
    await one.paid()
    assert await one.used() >= 50 + 1 + PART - 1  # the reply that showed the loss counted its own unit before
