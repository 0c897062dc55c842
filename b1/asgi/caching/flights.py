"""One handler runs for all requests that miss the same answer at the same versions; the others wait for what it makes.

A request that comes after an invalidation has other versions, and so never joins a run that began before it.
"""

from __future__ import annotations

import asyncio
import enum

from b1.asgi.caching.stored import StoredAnswer

Name = tuple[str, bytes]
# Answers that cannot be stored: whoever waited for one waited for nothing, so nobody does again for a while.
ALONE_S = 5.0
_ALONE_MOST = 1024


class Landing(enum.Enum):
    """How a run ended that made nothing for those who waited."""

    ALONE = "alone"  # the answer cannot be shared: each runs the handler for itself
    AGAIN = "again"  # it failed or was given up: the next one runs for those who still wait


Landed = tuple[StoredAnswer, bytes] | Landing


class Flight:
    """A run that others may wait for."""

    __slots__ = ("_name", "_owner", "landed", "waiters")

    def __init__(self, owner: Flights, name: Name) -> None:
        self._owner = owner
        self._name = name
        self.landed: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        self.waiters = 0

    def land(self, how: Landed) -> None:
        """Tell those who wait; only the first call counts."""
        if not self.landed.done():
            self.landed.set_result(how)
            self._owner.leave(self._name, self)


class Flights:
    """The runs of this process. Guarded by the loop: written only between awaits.

    Args:
        waiters: how many may wait at a time, over all runs.
    """

    def __init__(self, waiters: int) -> None:
        self._limit = waiters
        self._running: dict[Name, Flight] = {}
        self._alone: dict[str, float] = {}
        self.waiting = 0

    def __repr__(self) -> str:
        return f"<Flights running={len(self._running)} waiting={self.waiting}>"

    def __len__(self) -> int:
        return len(self._running)

    def find(self, name: Name) -> Flight | None:
        """Return the run to wait for; None when there is none, or too many wait."""
        return self._running.get(name) if self.waiting < self._limit else None

    def begin(self, name: Name) -> Flight:
        """Begin a run. When one runs already that nobody waits for any more, this one takes its name."""
        flight = self._running[name] = Flight(self, name)
        return flight

    async def wait(self, flight: Flight, limit_s: float) -> Landed | None:
        """Wait for a run without owning it; None when it took too long."""
        self.waiting += 1
        flight.waiters += 1
        try:
            await asyncio.wait({flight.landed}, timeout=limit_s)
        finally:
            self.waiting -= 1
            flight.waiters -= 1
        return flight.landed.result() if flight.landed.done() else None

    def leave(self, name: Name, flight: Flight) -> None:
        if self._running.get(name) is flight:
            del self._running[name]

    def note_alone(self, key: str, now_s: float) -> None:
        """Remember that answers under this key cannot be shared."""
        if len(self._alone) >= _ALONE_MOST:
            self._alone.clear()
        self._alone[key] = now_s + ALONE_S

    def is_alone(self, key: str, now_s: float) -> bool:
        """Say whether waiting for somebody else's answer has no sense."""
        if not self._alone:
            return False
        until_s = self._alone.get(key)
        if until_s is None:
            return False
        if until_s > now_s:
            return True
        del self._alone[key]
        return False

    def close(self) -> None:
        """Tell all who wait to go on by themselves."""
        for flight in list(self._running.values()):
            flight.land(Landing.ALONE)
