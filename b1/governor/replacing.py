"""Asks for the successor of a worker whose memory cannot be reclaimed; and a breaker against a storm of it.

How a worker is replaced is the server's (`b1.server.succession`). What outlives workers is one small file with the moments
of the last replacements: after three in fifteen minutes no more are made, because a leak at start is not cured by starting.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Protocol

from b1.clock import Clock

log = logging.getLogger("b1.governor")

MOST = 3
WITHIN_S = 900.0
# A successor that has not come by then failed to start; its predecessor may ask again.
AGAIN_AFTER_S = 60.0


class Ask(Protocol):
    """How the server is asked for a successor; an urgent worker ends at once."""

    def __call__(self, reason: str, *, urgent: bool = False) -> None: ...


class Breaker:
    """Remembers replacements across workers.

    Args:
        path: the file; on local disk. Without one every replacement is the first.
    """

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Breaker recent={len(self.recent())}>"

    def recent(self) -> list[float]:
        """Return the wall times of the replacements of the last fifteen minutes; none when the file cannot be read."""
        if self._path is None:
            return []
        try:
            noted = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return []
        if not isinstance(noted, list):
            return []
        now_s = self._clock.wall()
        return [at_s for at_s in noted if isinstance(at_s, int | float) and 0 <= now_s - at_s < WITHIN_S]

    def allow(self) -> bool:
        """Note a replacement, unless there were too many; a file that cannot be written does not stop it.

        Raises:
            OSError: the folder cannot be written; the caller decides.
        """
        recent = self.recent()
        if len(recent) >= MOST:
            return False
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self._path.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps([*recent, self._clock.wall()]))
            part.replace(self._path)
        return True


class Replacement:
    """Asks the server to replace this worker.

    Args:
        breaker: says whether another replacement may be made.
    """

    def __init__(self, breaker: Breaker, clock: Clock) -> None:
        self._breaker = breaker
        self._clock = clock
        self._ask: Ask | None = None
        self._asked_s: float | None = None
        self._is_urgent = False
        self.is_tripped = False

    def __repr__(self) -> str:
        return f"<Replacement asked={self._asked_s is not None} urgent={self._is_urgent} tripped={self.is_tripped}>"

    def through(self, ask: Ask) -> None:
        """Hear how a worker is replaced here; a server that offers no way (plain uvicorn) never calls this."""
        self._ask = ask

    def ask(self, reason: str, *, urgent: bool = False) -> bool:
        """Ask, unless that was done within the last minute; an urgent wish is told once more. Say whether it was told."""
        if self._ask is None or self._is_urgent:
            return False
        now_s = self._clock.monotonic()
        is_under_way = self._asked_s is not None and now_s - self._asked_s < AGAIN_AFTER_S
        if is_under_way and not urgent:
            return False
        if not is_under_way and not self._is_allowed(reason):
            return False
        self._asked_s, self._is_urgent = now_s, urgent
        log.warning("worker is being replaced", extra={"reason": reason, "urgent": urgent})
        self._ask(reason, urgent=urgent)
        return True

    def _is_allowed(self, reason: str) -> bool:
        try:
            allowed = self._breaker.allow()
        except OSError as error:
            log.warning("a replacement cannot be noted", extra={"error": str(error)})
            return True
        if not allowed and not self.is_tripped:
            log.error("no further replacement", extra={"reason": reason, "most": MOST, "withinS": WITHIN_S})
        self.is_tripped = not allowed
        return allowed
