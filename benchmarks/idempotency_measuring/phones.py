"""Clients that repeat a key until they have an answer, as phones in a tunnel do, and the journal of what they were told.

Nothing here knows what the server does. A phone is sometimes patient and sometimes gives up after a few milliseconds, hangs
up as soon as it has sent, loses its connection in mid-body, or sends the same request several times at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from idempotency_measuring.wire import Answer, NoAnswer, ask, leave, request

PATIENT_S = 40.0
PAUSE_S = (0.02, 0.25)
_LOOK_S = 0.02
COME_BACK = frozenset({408, 425, 429})
IN_FLIGHT = "IDEMPOTENCY_IN_FLIGHT"
BASE_CENTS = 1000


@dataclass(slots=True)
class Order:
    """One thing that shall happen once: a user, a key, an amount; and what became of it.

    Attributes:
        number: in the run; no two orders have the same, and it is the expense's description.
        begun_s: when each attempt was made (monotonic).
        final_s: when the first final answer came; None: never.
        finals: all final answers, duplicates' included.
        heard: what came back, and when.
    """

    number: int
    user: int
    key: str
    begun_s: list[float] = field(default_factory=list)
    final_s: float | None = None
    finals: list[Answer] = field(default_factory=list)
    heard: list[tuple[float, str]] = field(default_factory=list)

    @property
    def amount_cents(self) -> int:
        return BASE_CENTS + self.number

    def expense(self, run: str, *, amount_cents: int | None = None) -> dict[str, Any]:
        """Return what is asked for."""
        return {
            "propertyId": 1, "category": "maintenance", "amountCents": amount_cents or self.amount_cents,
            "currency": "INR", "description": f"{run}:{self.number}", "expenseDate": "2025-12-13T10:00:00Z",
            "paymentMode": "cash",
        }  # fmt: skip


def orders(count: int, users: int) -> list[Order]:
    """Return `count` orders. Users share their keys: each key is used by all of them, for different things."""
    return [Order(number, number % users, f"order-{number // users}") for number in range(count)]


class Phones:
    """All clients of one run.

    Args:
        tokens: one per user.
        run: what this run's expenses are called.

    Attributes:
        allowed: orders with a lower number may begin.
        is_over: no further order begins.
        is_abandoned: nobody waits any more.
    """

    def __init__(self, port: int, tokens: Sequence[str], run: str, chance: random.Random) -> None:
        self.heard: Counter[str] = Counter()
        self.finished = 0
        self.allowed = 0
        self.is_over = False
        self.is_abandoned = False
        self._port = port
        self._tokens = tokens
        self._run = run
        self._chance = chance

    async def place(self, orders: Sequence[Order], at_once: int) -> None:
        """Place every order that comes up before `is_over` is set, and see each one to its end."""
        queue = iter(orders)

        async def phone() -> None:
            for order in queue:
                while order.number >= self.allowed and not self.is_over:
                    await asyncio.sleep(_LOOK_S)
                if self.is_over:
                    return
                await self._insist(order)
                self.finished += 1

        await asyncio.gather(*(phone() for _ in range(at_once)))

    async def repeat(self, orders: Sequence[Order], at_once: int) -> list[Answer]:
        """Ask once more for each order, patiently, and return the answers in the same order."""
        limit = asyncio.Semaphore(at_once)

        async def one(order: Order) -> Answer:
            async with limit:
                return await self._patiently(self._bytes(order))

        return list(await asyncio.gather(*(one(order) for order in orders)))

    async def misuse(self, orders: Sequence[Order]) -> list[Answer]:
        """Send each order's key with another amount."""
        wrong = [self._bytes(order, order.amount_cents + 1) for order in orders]
        return [await self._patiently(data) for data in wrong]

    def _bytes(self, order: Order, amount_cents: int | None = None) -> bytes:
        return request(self._tokens[order.user], order.key, order.expense(self._run, amount_cents=amount_cents))

    async def _patiently(self, data: bytes) -> Answer:
        while True:
            try:
                answer = await ask(self._port, data, PATIENT_S)
            except NoAnswer:
                await asyncio.sleep(PAUSE_S[1])
                continue
            if is_final(answer):
                return answer
            await asyncio.sleep(PAUSE_S[1])

    async def _insist(self, order: Order) -> None:
        data = self._bytes(order)
        while order.final_s is None:
            await self._try(order, data)
            if order.final_s is None:
                await asyncio.sleep(self._chance.uniform(*PAUSE_S))
        if self._chance.random() < 0.2:  # the user presses the button once more
            await self._one(order, data, PATIENT_S)

    async def _try(self, order: Order, data: bytes) -> None:
        way = self._chance.random()
        order.begun_s.append(time.monotonic())
        if way < 0.05:
            self.heard["hung up in mid-body"] += 1
            await leave(self._port, data[: -self._chance.randint(1, 60)])
        elif way < 0.12:
            self.heard["hung up after sending"] += 1
            await leave(self._port, data)
        elif way < 0.25:
            copies = self._chance.randint(2, 6)
            self.heard["sent at once, copies of one"] += copies
            await asyncio.gather(*(self._one(order, data, PATIENT_S) for _ in range(copies)))
        elif way < 0.40:
            await self._one(order, data, self._chance.uniform(0.002, 0.2))
        else:
            await self._one(order, data, PATIENT_S)

    async def _one(self, order: Order, data: bytes, patience_s: float) -> None:
        try:
            answer = await ask(self._port, data, patience_s)
        except NoAnswer as reason:
            self._hear(order, f"no answer ({reason})")
            return
        if not is_final(answer):
            self._hear(order, f"{answer.status} {answer.code}")
            return
        self._hear(order, f"{answer.status}{' replayed' * answer.is_replay}")
        order.finals.append(answer)
        if order.final_s is None:
            order.final_s = time.monotonic()

    def _hear(self, order: Order, what: str) -> None:
        self.heard[what] += 1
        order.heard.append((time.monotonic(), what))


def is_final(answer: Answer) -> bool:
    """Say whether a careful client stops here."""
    return answer.status < 500 and answer.status not in COME_BACK and answer.code != IN_FLIGHT
