"""The how-to's example: one charge and one payment per key, whatever happens between its three steps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from b1.db import Database
from b1.idempotency import Attempt, IdempotencyOptions
from b1.types import ASGIApp
from tests.idempotency import payment_example as example
from tests.idempotency.harness import ANN, BOB, World, post, until

PAGE = Path(__file__).parents[2] / "docs/how-to/idempotent-effects-outside-postgres.md"


class Lost(Exception):
    """The worker ended here."""


class Provider:
    """Knows a repeat by its key, as providers do; `after` happens when the charge was made."""

    def __init__(self) -> None:
        self.charges: dict[str, str] = {}
        self.calls = 0
        self.after: Callable[[], None] = lambda: None
        self.declines = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def charge(self, amount_cents: int, *, key: str) -> str:
        self.calls += 1
        await self.gate.wait()
        if self.declines:
            raise example.Declined
        self.charges.setdefault(key, f"ch_{len(self.charges) + 1}")
        self.after()
        return self.charges[key]


class Bench:
    """The example behind a route, with places where a worker can be lost."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.provider = Provider()
        self.lost_at = ""

    def worker(self) -> ASGIApp:
        """Another process: of the one before only Postgres is left."""
        return World(self.database, route=IdempotencyOptions(required=True, wait_s=15.0)).handle(self._pay)

    async def _pay(self, attempt: Attempt, body: dict[str, Any]) -> dict[str, Any]:
        answer = await example.pay(attempt, self, self.provider, body["amount"])
        self._pass("after the effect")
        return answer

    async def fetchrow(self, query: str, *args: Any) -> Any:
        self._pass("before the first step")
        row = await self.database.fetchrow(query, *args)
        self._pass("before the call")
        return row

    async def execute(self, query: str, *args: Any) -> str:
        self._pass("before the second point")
        tag = await self.database.execute(query, *args)
        self._pass("after the second point")
        return tag

    def _pass(self, place: str) -> None:
        if place == self.lost_at:
            raise Lost(place)

    async def left(self) -> tuple[int, int, int]:
        """Count charges at the provider, payments here, and steps that wait for somebody."""
        payments = await self.database.fetchval("SELECT count(*) FROM payments")
        steps = await self.database.fetchval("SELECT count(*) FROM payment_steps")
        return len(self.provider.charges), int(payments), int(steps)


@pytest.fixture
async def bench(database: Database) -> Bench:
    await database.execute(example.SCHEMA)
    return Bench(database)


async def test_one_request_is_one_charge_and_one_payment(bench: Bench) -> None:
    app = bench.worker()
    first, again = await post(app, {"amount": 500}), await post(app, {"amount": 500})
    assert (first.status, first.json["charge"], again.replayed, again.body) == (201, "ch_1", True, first.body)
    assert (await bench.left(), bench.provider.calls) == ((1, 1, 0), 1)


PLACES = {
    "before the first step": 1,
    "before the call": 1,
    "in the call": 2,
    "before the second point": 2,
    "after the second point": 1,
    "after the effect": 1,
}


@pytest.mark.parametrize(("place", "calls"), PLACES.items(), ids=PLACES.keys())
async def test_wherever_a_worker_is_lost_the_retry_ends_it(bench: Bench, place: str, calls: int) -> None:
    bench.lost_at = place
    if place == "in the call":

        def lose() -> None:
            raise Lost

        bench.provider.after = lose
    with pytest.raises(Lost):
        await post(bench.worker(), {"amount": 500})
    bench.lost_at, bench.provider.after = "", lambda: None
    retry = await post(bench.worker(), {"amount": 500})
    assert (retry.status, retry.replayed, retry.json["charge"]) == (201, False, "ch_1")
    assert (await bench.left(), bench.provider.calls) == ((1, 1, 0), calls)


async def test_a_declined_payment_is_final_and_leaves_no_step(bench: Bench) -> None:
    bench.provider.declines = True
    app = bench.worker()
    replies = [await post(app, {"amount": 500}) for _ in range(2)]
    assert [(reply.status, reply.replayed) for reply in replies] == [(402, False), (402, True)]
    assert (await bench.left(), bench.provider.calls) == ((0, 0, 0), 1)


async def test_no_connection_is_held_during_the_call(bench: Bench) -> None:
    bench.provider.gate.clear()
    app = bench.worker()
    request = asyncio.create_task(post(app, {"amount": 500}))
    await until(lambda: bench.provider.calls == 1)
    assert bench.database.snapshot().in_use == 0
    bench.provider.gate.set()
    assert (await request).status == 201


async def test_two_keys_are_two_charges_and_two_actors_too(bench: Bench) -> None:
    app = bench.worker()
    for key, who in (("a", ANN), ("b", ANN), ("a", BOB)):
        assert (await post(app, {"amount": 500}, key, principal=who)).status == 201
    assert await bench.left() == (3, 3, 0)


async def test_the_derived_key_is_a_uuid_of_this_request_and_step_alone(bench: Bench) -> None:
    seen: list[tuple[str, str]] = []

    async def handler(attempt: Attempt, body: dict[str, Any]) -> dict[str, Any]:
        seen.append((attempt.key_for("charge"), attempt.key_for("mail")))
        raise Lost

    for key, amount in (("a", 1), ("a", 1), ("b", 1), ("a", 2)):
        with pytest.raises(Lost):
            await post(World(bench.database).handle(handler), {"amount": amount}, key)
    assert seen[0] == seen[1] and len({one for pair in seen for one in pair}) == 6
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one) for pair in seen for one in pair)


def test_the_page_shows_the_example() -> None:
    source = Path(example.__file__).read_text()
    shown = source.partition("# [example]\n")[2].partition("# [end]")[0]
    assert f"```python\n{shown.strip()}\n```" in PAGE.read_text()
