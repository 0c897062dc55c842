"""One hash at a time, a bounded queue, and an end that leaves no thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from argon2 import PasswordHasher

from app.auth.passwords import NOBODYS_HASH, Passwords
from b1 import Overloaded

HASH = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash("changeme")


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    checker = Passwords(queue_limit=2)
    checker.start()
    yield checker
    await checker.aclose()


@pytest.mark.parametrize(
    ("stored", "password", "expected"),
    [
        (HASH, "changeme", True),
        (HASH, "Changeme", False),
        (HASH, "change\0me", False),
        (NOBODYS_HASH, "changeme", False),
        ("no hash at all", "changeme", False),
    ],
)
async def test_only_its_own_password_matches(passwords: Passwords, stored: str, password: str, expected: bool) -> None:
    async with passwords.turn():
        assert await passwords.match(stored, password) is expected


def test_nobodys_hash_costs_what_every_other_one_costs() -> None:
    assert NOBODYS_HASH.split("$")[1:4] == HASH.split("$")[1:4]


async def test_turns_are_taken_one_by_one(passwords: Passwords) -> None:
    inside, most = 0, 0

    async def log_in() -> None:
        nonlocal inside, most
        async with passwords.turn():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(log_in(), log_in())

    assert most == 1


async def test_whoever_finds_the_queue_full_is_refused_at_once_and_told_when_to_come_back(passwords: Passwords) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with passwords.turn():
            entered.set()
            await leave.wait()

    holders = [asyncio.create_task(hold()) for _ in range(2)]
    await entered.wait()
    await asyncio.sleep(0)

    with pytest.raises(Overloaded) as refused:
        async with passwords.turn():
            pass

    leave.set()
    await asyncio.gather(*holders)
    assert (refused.value.status, refused.value.retry_after) == (503, 2.0)
    assert repr(passwords) == "<Passwords waiting=0 checked=0 refused=1>"


async def test_a_wait_has_an_end() -> None:
    checker = Passwords(wait_s=0.01)
    checker.start()

    async with checker.turn():
        with pytest.raises(Overloaded):
            async with checker.turn():
                pass

    assert (checker.snapshot().waiting, checker.snapshot().refused) == (0, 1)
    await checker.aclose()


async def test_giving_up_while_waiting_frees_the_place(passwords: Passwords) -> None:
    async with passwords.turn():
        waiting = asyncio.create_task(passwords.turn().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        assert passwords.snapshot().waiting == 1


async def test_closing_ends_the_thread() -> None:
    checker = Passwords()
    checker.start()
    async with checker.turn():
        await checker.match(HASH, "changeme")

    await checker.aclose()

    assert not [one.name for one in threading.enumerate() if one.name.startswith("pantry-passwords")]
