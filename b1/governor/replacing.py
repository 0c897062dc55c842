"""Ends a worker whose memory cannot be reclaimed, so that the master starts another; and a breaker against a storm of it.

This is the serial form: the worker finishes what it has begun and goes, requests wait in the master's socket meanwhile, and
its state in memory (limits and keys without Redis) goes with it. What outlives workers is one small file with the moments
of the last replacements: after three in fifteen minutes no more are made, because a leak at start is not cured by starting.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from b1.clock import Clock

log = logging.getLogger("b1.governor")

MOST = 3
WITHIN_S = 900.0


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
    """Asks the server to end this worker, once.

    Args:
        breaker: says whether another replacement may be made.
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._end_worker: Callable[[], None] | None = None
        self._is_asked = False
        self.is_tripped = False

    def __repr__(self) -> str:
        return f"<Replacement asked={self._is_asked} tripped={self.is_tripped}>"

    def through(self, end_worker: Callable[[], None]) -> None:
        """Hear how a worker is ended here; a server that offers no way (plain uvicorn) never calls this."""
        self._end_worker = end_worker

    def ask(self, reason: str) -> bool:
        """End the worker in order; say whether that was done."""
        if self._is_asked or self._end_worker is None:
            return False
        try:
            allowed = self._breaker.allow()
        except OSError as error:
            log.warning("a replacement cannot be noted", extra={"error": str(error)})
            allowed = True
        if not allowed:
            if not self.is_tripped:
                log.error("no further replacement", extra={"reason": reason, "most": MOST, "within_s": WITHIN_S})
            self.is_tripped = True
            return False
        self._is_asked = True
        log.warning("worker is being replaced", extra={"reason": reason})
        self._end_worker()
        return True
