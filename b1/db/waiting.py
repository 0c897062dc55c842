"""Who waits for a connection and who is next: three bounded classes, and our own errands in front of them.

Arithmetic without await. The order: errands (a question that frees a slot) → background work that is due → critical →
web → background. Background work is due when it has waited `background_wait_s`, and stays so for `background_quantum_s`,
so that a job of many short leases gets further than its first. Inside a class tenants are served fairly (`fairness.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from b1.db.fairness import Account, Class, FairLine, Waiter

__all__ = ["Class", "WaitQueue", "Waiter"]


class WaitQueue:
    """The callers that wait. Written by the pool alone; consistent between any two of its awaits.

    Args:
        limit: per class, so that a flood of web requests cannot keep a critical one out.
        background_wait_s: see the module.
        background_quantum_s: see the module.
    """

    def __init__(self, limit: int, *, background_wait_s: float, background_quantum_s: float) -> None:
        self._background_wait_s = background_wait_s
        self._background_quantum_s = background_quantum_s
        self._background_until_s = 0.0
        self._background_due_s = float("inf")  # not before this moment is any of it due
        self._errands: deque[Waiter] = deque()
        self._critical = FairLine(limit)
        self._web = FairLine(limit)
        self._background = FairLine(limit)
        self._lines: dict[Class, FairLine] = {
            "critical": self._critical,
            "web": self._web,
            "background": self._background,
        }

    def __repr__(self) -> str:
        lines = " ".join(f"{name}={line.waiting}" for name, line in self._lines.items())
        return f"<WaitQueue errand={len(self._errands)} {lines}>"

    def __len__(self) -> int:
        """Count the callers, errands excepted."""
        return self._critical.waiting + self._web.waiting + self._background.waiting

    @property
    def has_urgent(self) -> bool:
        """Whether anything above background work waits."""
        return bool(self._web.waiting or self._critical.waiting or self._errands)

    @property
    def held(self) -> int:
        """Connections that callers, errands excepted, have taken and not given back."""
        return sum(line.held for line in self._lines.values())

    def begin(self, priority: Class, tenant: str | None) -> Account:
        """Count a connection given without a wait; `Account.end` when it comes back."""
        return self._lines[priority].begin(tenant)

    def ahead_of(self, priority: Class, tenant: str | None) -> int:
        """Return how many callers, at most, will be served before a new one."""
        ahead = len(self._errands) + self._critical.waiting
        if priority == "critical":
            return len(self._errands) + self._critical.ahead_of(tenant)
        if priority == "web":
            return ahead + self._web.ahead_of(tenant)
        return ahead + self._web.waiting + self._background.ahead_of(tenant)

    def add(self, waiter: Waiter) -> Waiter | None:
        """Let `waiter` wait; return whoever has to go for it.

        Raises:
            DatabaseBusy: its class is full, or its tenant has its share of it.
        """
        if waiter.priority == "errand":
            self._errands.append(waiter)
            return None
        pushed_out = self._lines[waiter.priority].add(waiter)
        if waiter.priority == "background":
            self._background_due_s = min(self._background_due_s, waiter.since_s + self._background_wait_s)
        return pushed_out

    def remove(self, waiter: Waiter) -> None:
        """Forget `waiter`; harmless when it was served."""
        if waiter.priority != "errand":
            self._lines[waiter.priority].remove(waiter)
        elif waiter in self._errands:
            self._errands.remove(waiter)

    def demand(self, *, background_busy: bool) -> int:
        """Count the callers that a new connection could serve now."""
        urgent = self._critical.waiting + self._web.waiting
        return urgent + (1 if not urgent and self._background.waiting and not background_busy else 0)

    def next(self, now_s: float, take_background: Callable[[], bool]) -> Waiter | None:
        """Take out whoever is to have the next free connection, and charge its account.

        Args:
            now_s: on the clock that stamped the waiters.
            take_background: takes the host's only place for background work; asked last, kept when it says True.
        """
        if self._errands:
            return self._errands.popleft()
        background = self._background
        if background.waiting and self._background_is_due(now_s) and take_background():
            if now_s >= self._background_until_s:
                self._background_until_s = now_s + self._background_quantum_s
            return background.next()
        if self._critical.waiting:
            return self._critical.next()
        if self._web.waiting:
            return self._web.next()
        if background.waiting and take_background():
            return background.next()
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
        self._errands.clear()
        for line in self._lines.values():
            line.clear()
        return everybody

    def _all(self) -> Iterator[Waiter]:
        yield from self._errands
        for line in self._lines.values():
            if line.waiting:
                yield from line

    def _background_is_due(self, now_s: float) -> bool:
        if now_s < self._background_until_s:
            return True
        if now_s < self._background_due_s:
            return False
        oldest_s = min(waiter.since_s for waiter in self._background)
        self._background_due_s = oldest_s + self._background_wait_s
        return now_s >= self._background_due_s
