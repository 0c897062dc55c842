"""The alerts of one worker: what fires, who is told, and what the next worker has to know.

`fire` and `resolve` are plain calls that do no I/O and never fail for a receiver's sake; one task keeps the journal and
the timers, another one sends. Call them from the event loop's thread. The book, the outbox and the dirty mark belong to
that thread and change only between awaits.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from b1.alerts.alert import (
    Alert,
    Severity,
    Transition,
    bounded_annotations,
    bounded_summary,
    checked_name,
    transition_from,
)
from b1.alerts.book import Book, Change, names_of
from b1.alerts.handlers import H, Handlers
from b1.alerts.keeping import Keeping
from b1.alerts.options import AlertOptions
from b1.alerts.outbox import Outbox
from b1.alerts.rotation import Rotation
from b1.alerts.sender import Sender
from b1.alerts.webhook import Webhook
from b1.clock import Clock
from b1.errors import InvalidSetting
from b1.outbound import Resolve

log = logging.getLogger("b1.alerts")

OWNERSHIP_AGAIN_S = 1.0
SAVE_AGAIN_S = 5.0
IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class AlertsSnapshot:
    """Where the alerts stand. `waiting` counts undelivered messages, `failed` attempts, `dropped` lost messages."""

    firing: tuple[str, ...]
    waiting: int
    delivered: int
    failed: int
    dropped: int
    refused: int
    handler_failures: int
    journal_errors: int
    has_receiver: bool
    is_disabled: bool
    is_owner: bool
    last_failure: str | None


class Alerts:
    """Fire, resolve, tell.

    Args:
        resolve: name and port to addresses; replaced in tests.
        chance: 0 to 1, for the backoff.

    Raises:
        InvalidSetting: the URL or the secret cannot be used.
    """

    def __init__(
        self,
        options: AlertOptions,
        clock: Clock,
        *,
        resolve: Resolve | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._options = options
        self._clock = clock
        self._book = Book(cooldown_s=options.cooldown_s)
        self._handlers = Handlers(timeout_s=options.handler_timeout_s)
        self._webhook = None if not options.url else Webhook(options.url, options, clock, resolve=resolve)
        self._rotation = Rotation(options, clock)
        self._outbox = Outbox(limit=options.queue_limit, keep_s=options.keep_s)
        self._keeping = Keeping(options.state_dir if self._webhook is not None else None)
        self._sender = (
            None
            if self._webhook is None
            else Sender(self._outbox, self._webhook.post, options, clock, on_change=self._touch, chance=chance)
        )
        self._is_dirty = False
        self._passed_on = 0
        self._has_taken_over = False
        self._overlap_ends_s = float("inf")
        self._settled_at_s = float("inf")
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._hold()

    def __repr__(self) -> str:
        return f"<Alerts firing={list(names_of(self._book.firing))} {self._sender or 'no receiver'}>"

    async def start(self) -> None:
        """Begin to send; without a receiver nothing is started."""
        if self._webhook is None or self._sender is None or self._tasks:
            return
        self._overlap_ends_s = self._clock.monotonic() + self._options.overlap_s
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._keep(), name="b1-alerts-keep"),
            loop.create_task(_send(self._webhook, self._sender), name="b1-alerts-send"),
        ]
        for task in self._tasks:
            task.add_done_callback(_report_accident)

    async def aclose(self) -> None:
        """Send what can be sent within the flush, leave the rest to the next worker."""
        if self._sender is not None and self._tasks:
            keep, send = self._tasks
            mark = self._outbox.mark
            await self._save_if_dirty()
            self._outbox.release(mark)
            self._sender.stop()
            await asyncio.wait({send}, timeout=self._options.flush_s)
            for task in (keep, send):
                task.cancel()
            await asyncio.gather(keep, send, return_exceptions=True)
            self._tasks = []
            await self._keeping.save(self._records())
            self._hold()
        await self._handlers.aclose()
        await self._keeping.aclose()

    def on_alert(self, severity: Severity | str | None = None, *, also_resolved: bool = False) -> Callable[[H], H]:
        """Return a decorator that registers a handler.

        Args:
            severity: ``warning`` or ``critical``; None for both.
            also_resolved: it is called at the end of an alert, too.

        Raises:
            ValueError: no such severity.
        """
        return self._handlers.register(None if severity is None else Severity(severity), also_resolved=also_resolved)

    def fire(
        self, name: str, severity: Severity | str, summary: str, annotations: Mapping[str, object] | None = None
    ) -> bool:
        """Let an alert fire; say whether that is news. One that fires already is only raised, never lowered.

        Args:
            annotations: at most 16 short texts, such as the value that was seen and its limit.

        Raises:
            ValueError: no such severity, or a name that is empty or longer than 100 characters.
        """
        now_s = self._clock.wall()
        alert = Alert(
            checked_name(name), Severity(severity), bounded_summary(summary), bounded_annotations(annotations), now_s
        )
        return self._act(self._book.fire(alert, now_s), now_s)

    def resolve(self, name: str, annotations: Mapping[str, object] | None = None) -> bool:
        """End an alert; say whether it was firing. New annotations are added to those it fired with."""
        now_s = self._clock.wall()
        return self._act(self._book.resolve(name, bounded_annotations(annotations), now_s), now_s)

    def snapshot(self) -> AlertsSnapshot:
        """Return where the alerts stand; no I/O."""
        sender = self._sender
        return AlertsSnapshot(
            firing=names_of(self._book.firing),
            waiting=len(self._outbox),
            delivered=sender.delivered if sender else 0,
            failed=sender.failed if sender else 0,
            dropped=self._outbox.dropped,
            refused=self._book.refused,
            handler_failures=self._handlers.failed,
            journal_errors=self._keeping.errors,
            has_receiver=sender is not None,
            is_disabled=sender is not None and sender.is_disabled,
            is_owner=self._has_taken_over,
            last_failure=sender.last_failure if sender else None,
        )

    def tick(self) -> None:
        """Do what is due by the clock: end what a predecessor fired and nobody sees, tell what cooled down."""
        now_s = self._clock.wall()
        if self._clock.monotonic() >= self._settled_at_s:
            self._settled_at_s = float("inf")
            for name in self._book.inherited:
                self.resolve(name, {"resolvedBy": "the worker that took over"})
        if self._clock.monotonic() >= self._overlap_ends_s:
            self._overlap_ends_s = float("inf")
            self._book.is_muted = False
        for change in self._book.due(now_s):
            self._tell(change, now_s)

    def _act(self, change: Change | None, now_s: float) -> bool:
        if change is None:
            return False
        alert = change.alert
        log.warning("alert", extra={"alert": alert.name, "status": alert.status, "severity": str(alert.severity)})
        if change.is_told:
            self._tell(change, now_s)
        self._touch()
        self._handlers.run(alert)
        return True

    def _tell(self, change: Change, now_s: float) -> None:
        transition = Transition(
            f"msg_{secrets.token_hex(16)}", change.alert, self._options.instance, now_s, change.escalated_from
        )
        lost = self._outbox.put(transition, self._clock.monotonic())
        if lost is not None:
            log.error("too many alerts wait, one was dropped", extra={"alert": lost.alert.name})
        self._touch()

    def _touch(self) -> None:
        self._is_dirty = True
        self._changed.set()

    def _hold(self) -> None:
        self._book.is_muted = True
        if self._sender is not None:
            self._sender.is_held = True

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            if not self._has_taken_over:
                await self._try_take_over()
            self.tick()
            mark = self._outbox.mark
            is_saved = await self._save_if_dirty()
            await self._rotate_if_due()
            self._pass_on_news(mark)
            await self._sleep(self._pause_s() if is_saved else SAVE_AGAIN_S)

    async def _try_take_over(self) -> None:
        left = await self._keeping.take_over()
        if left is None:
            return
        self._has_taken_over = True
        self._adopt(left)
        self._overlap_ends_s = float("inf")
        self._settled_at_s = self._clock.monotonic() + self._options.settle_s
        self._book.is_muted = False

    def _adopt(self, left: Mapping[str, Any]) -> None:
        try:
            is_same_family = left.get("family") == self._options.family
            self._book.adopt(left.get("book", {}), with_cooldowns=is_same_family)
            for record in left.get("waiting", ()):
                transition = transition_from(record)
                self._outbox.put(transition, self._clock.monotonic(), age_s=self._clock.wall() - transition.at_s)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("alert journal is not understood, what it held is lost", extra={"cause": repr(error)})
        self._touch()

    async def _save_if_dirty(self) -> bool:
        if not self._is_dirty:
            return True
        self._is_dirty = False
        is_saved = await self._keeping.save(self._records())
        self._is_dirty = self._is_dirty or not is_saved
        return is_saved

    async def _rotate_if_due(self) -> None:
        due_in_s = self._rotation.due_in_s()
        if due_in_s is None or (due_in_s > 0 and self._outbox.mark == self._passed_on):
            return
        fresh = await self._rotation.news()
        if fresh is None or self._webhook is None or self._sender is None:
            return
        try:
            self._webhook.use(*fresh)
        except InvalidSetting as error:
            log.warning("the webhook's files cannot be used, going on as before", extra={"cause": str(error)})
            return
        log.info("webhook rotated", extra={"to": repr(self._webhook)})
        self._sender.renew()

    def _pass_on_news(self, mark: int) -> None:
        # After the journal knows: a worker killed now leaves a successor that ends what was told to have begun.
        if self._sender is None or self._book.is_muted:
            return
        self._outbox.release(mark)
        self._sender.is_held = False
        if mark > self._passed_on:
            self._passed_on = mark
            self._sender.notify()

    def _records(self) -> dict[str, Any]:
        return {
            "family": self._options.family,
            "book": self._book.records(self._clock.wall()),
            "waiting": [transition.as_record() for transition in self._outbox],
        }

    def _pause_s(self) -> float:
        now_s = self._clock.monotonic()
        due_s = self._book.next_due_s(self._clock.wall())
        pauses = [
            IDLE_S,
            self._settled_at_s - now_s,
            self._overlap_ends_s - now_s,
            IDLE_S if due_s is None else due_s,
            IDLE_S if (look_s := self._rotation.due_in_s()) is None else look_s,
            IDLE_S if self._has_taken_over else OWNERSHIP_AGAIN_S,
        ]
        return max(0.0, min(pauses))

    async def _sleep(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._changed.wait()
        except TimeoutError:
            return


def _report_accident(done: asyncio.Task[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.error("alerts have stopped", exc_info=error)


async def _send(webhook: Webhook, sender: Sender) -> None:
    await webhook.prepare()
    await sender.run()
