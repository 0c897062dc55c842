"""Delivers what is in the outbox, one attempt at a time, and decides when the next one is made.

Pauses belong to the receiver, not to a message: when it does not answer, every message would fail. News cut a pause
short, except one that the receiver asked for.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from b1.alerts.alert import Transition
from b1.alerts.options import AlertOptions
from b1.alerts.outbox import Outbox
from b1.alerts.webhook import Outcome, Result
from b1.clock import Clock
from b1.outbound import backoff_s

log = logging.getLogger("b1.alerts")

Post = Callable[[Transition], Awaitable[Outcome]]


class Sender:
    """One task, at most one connection.

    Args:
        on_change: called when the outbox changed by a delivery.
        chance: 0 to 1, for the backoff.
    """

    def __init__(
        self,
        outbox: Outbox,
        post: Post,
        options: AlertOptions,
        clock: Clock,
        *,
        on_change: Callable[[], None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.delivered = 0
        self.failed = 0
        self.is_disabled = False
        self.is_held = False
        self.last_failure: str | None = None
        self._outbox = outbox
        self._post = post
        self._options = options
        self._clock = clock
        self._on_change = on_change
        self._chance = chance
        self._failures_in_row = 0
        self._not_before_s = 0.0
        self._asked_until_s = 0.0
        self._is_stopping = False
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        state = "disabled" if self.is_disabled else "held" if self.is_held else "at work"
        return f"<Sender {state} {self._outbox!r} delivered={self.delivered} failed={self.failed}>"

    def notify(self) -> None:
        """There is news: try now, unless the receiver asked for time."""
        self._not_before_s = self._asked_until_s
        self._news.set()

    def renew(self) -> None:
        """There is another receiver, or another secret: what the last one asked for, or that it is gone, is over."""
        self.is_disabled = False
        self._failures_in_row, self._asked_until_s = 0, 0.0
        self.notify()

    async def run(self) -> None:
        """Deliver until stopped or cancelled. A cancelled attempt counts as none: the message stays."""
        while True:
            pause_s = self.pause_s()
            if pause_s == 0:
                await self.attempt()
            elif self._is_stopping:
                return
            else:
                await self._wait(pause_s)

    def stop(self) -> None:
        """Let `run` end once nothing is left or an attempt fails; what waits gets one more try at once."""
        self._is_stopping = True
        self.notify()

    def pause_s(self) -> float | None:
        """Return how long to wait before the next attempt; None until something changes."""
        expired = self._outbox.expire(self._clock.monotonic())
        if expired:
            log.error("alerts could not be delivered in time, given up", extra={"count": expired})
            self._on_change()
        if not self._may_send():
            return None
        return max(0.0, self._not_before_s - self._clock.monotonic())

    async def attempt(self) -> bool:
        """Make one attempt with the most urgent message; say whether it was delivered."""
        transition = self._outbox.next()
        if transition is None:
            return False
        outcome = await self._post(transition)
        if outcome.result is Result.DELIVERED:
            self._note_delivered(transition)
        elif outcome.result is Result.GONE:
            self._note_gone()
        else:
            self._note_failed(transition, outcome)
        return outcome.result is Result.DELIVERED

    def _may_send(self) -> bool:
        return not self.is_disabled and not self.is_held and self._outbox.next() is not None

    async def _wait(self, limit_s: float | None) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(limit_s):
                await self._news.wait()
        except TimeoutError:
            return

    def _note_delivered(self, transition: Transition) -> None:
        self._outbox.settle(transition)
        self._failures_in_row, self._not_before_s, self._asked_until_s = 0, 0.0, 0.0
        self.delivered += 1
        alert = transition.alert
        log.info("alert delivered", extra={"alert": alert.name, "status": alert.status, "webhookId": transition.id})
        self._on_change()

    def _note_gone(self) -> None:
        self.is_disabled = True
        dropped = self._outbox.clear()
        log.error(
            "the alert receiver is gone (410), no more alerts are sent until a restart", extra={"dropped": dropped}
        )
        self._on_change()

    def _note_failed(self, transition: Transition, outcome: Outcome) -> None:
        self._outbox.note_failure(transition)
        self.failed += 1
        self.last_failure = outcome.cause
        self._failures_in_row += 1
        options, now_s = self._options, self._clock.monotonic()
        pause_s = backoff_s(
            self._failures_in_row,
            first_s=options.backoff_first_s,
            max_s=options.backoff_max_s,
            chance=self._chance(),
        )
        asked_s = min(outcome.retry_after_s or 0.0, options.retry_after_max_s)
        self._asked_until_s = now_s + asked_s
        self._not_before_s = now_s + max(pause_s, asked_s)
        log.warning(
            "alert not delivered, will be repeated",
            extra={"alert": transition.alert.name, "cause": outcome.cause, "againInS": round(max(pause_s, asked_s), 3)},
        )
