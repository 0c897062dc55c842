"""Who waits for a connection and who is next: three bounded classes, and our own errands in front of them.

Arithmetic without await. The order: errands (a question that frees a slot) → background work that is due → critical →
web → background. Background work is due when it has waited `background_wait_s`, and stays so for `background_quantum_s`,
so that a job of many short leases gets further than its first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from b1.errors import DatabaseBusy

if TYPE_CHECKING:
    from b1.db.session import Session

Class = Literal["errand", "critical", "web", "background"]


class Waiter:
    """One caller in the queue. `future` gets a session, or the error that ends the wait."""

    __slots__ = ("deadline_s", "future", "priority", "since_s")

    def __init__(self, future: asyncio.Future[Session], priority: Class, since_s: float, deadline_s: float) -> None:
        self.future = future
        self.priority = priority
        self.since_s = since_s
        self.deadline_s = deadline_s


class WaitQueue:
    """The callers that wait. Written by the pool alone; consistent between any two of its awaits.

    Args:
        limit: per class, so that a flood of web requests cannot keep a critical one out.
        background_wait_s: see the module.
        background_quantum_s: see the module.
    """

    def __init__(self, limit: int, *, background_wait_s: float, background_quantum_s: float) -> None:
        self._limit = limit
        self._background_wait_s = background_wait_s
        self._background_quantum_s = background_quantum_s
        self._background_until_s = 0.0
        self._classes: dict[Class, deque[Waiter]] = {
            "errand": deque(),
            "critical": deque(),
            "web": deque(),
            "background": deque(),
        }

    def __repr__(self) -> str:
        return f"<WaitQueue {' '.join(f'{name}={len(line)}' for name, line in self._classes.items())}>"

    def __len__(self) -> int:
        """Count the callers, errands excepted."""
        classes = self._classes
        return len(classes["critical"]) + len(classes["web"]) + len(classes["background"])

    @property
    def has_urgent(self) -> bool:
        """Whether anything above background work waits."""
        classes = self._classes
        return bool(classes["web"] or classes["critical"] or classes["errand"])

    def add(self, waiter: Waiter) -> None:
        """Let `waiter` wait.

        Raises:
            DatabaseBusy: its class is full.
        """
        line = self._classes[waiter.priority]
        if waiter.priority != "errand" and len(line) >= self._limit:
            raise DatabaseBusy(f"{self._limit} callers wait for a database connection already")
        line.append(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Forget `waiter`; harmless when it was served."""
        try:
            self._classes[waiter.priority].remove(waiter)
        except ValueError:
            pass  # served, expired or drained in the meantime

    def demand(self, *, background_busy: bool) -> int:
        """Count the callers that a new connection could serve now."""
        classes = self._classes
        urgent = len(classes["critical"]) + len(classes["web"])
        return urgent + (1 if not urgent and classes["background"] and not background_busy else 0)

    def next(self, now_s: float, take_background: Callable[[], bool]) -> Waiter | None:
        """Take out whoever is to have the next free connection.

        Args:
            now_s: on the clock that stamped the waiters.
            take_background: takes the host's only place for background work; asked last, kept when it says True.
        """
        classes = self._classes
        if classes["errand"]:
            return classes["errand"].popleft()
        background = classes["background"]
        if background and self._background_is_due(now_s, background[0]) and take_background():
            if now_s >= self._background_until_s:
                self._background_until_s = now_s + self._background_quantum_s
            return background.popleft()
        if classes["critical"]:
            return classes["critical"].popleft()
        if classes["web"]:
            return classes["web"].popleft()
        if background and take_background():
            return background.popleft()
        return None

    def expired(self, now_s: float) -> list[Waiter]:
        """Take out everybody whose time is over."""
        gone = [waiter for waiter in self._all() if waiter.deadline_s <= now_s]
        for waiter in gone:
            self.remove(waiter)
        return gone

    def drain(self) -> list[Waiter]:
        """Take out everybody."""
        everybody = list(self._all())
        for line in self._classes.values():
            line.clear()
        return everybody

    def _all(self) -> Iterator[Waiter]:
        for line in self._classes.values():
            yield from line

    def _background_is_due(self, now_s: float, first: Waiter) -> bool:
        return now_s < self._background_until_s or now_s - first.since_s >= self._background_wait_s
