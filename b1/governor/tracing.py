"""An opt-in window of `tracemalloc`: which lines allocated what is still held, from its opening to its end.

It doubles the cost of small allocations and needs memory of its own while it is open; so it has an end, and is off unless
somebody asked for it. Not even its module is loaded before.
"""

from __future__ import annotations

from typing import Any

_LINES = 20


class TraceWindow:
    """Open or not. A trace that somebody else started is left alone."""

    def __init__(self) -> None:
        self._ends_s: float | None = None

    def __repr__(self) -> str:
        return f"<TraceWindow ends_s={self._ends_s}>"

    @property
    def is_open(self) -> bool:
        """Whether allocations are being traced for us."""
        return self._ends_s is not None

    def open(self, now_s: float, window_s: float) -> bool:
        """Begin to trace for `window_s`; return False when a trace runs already."""
        import tracemalloc

        if tracemalloc.is_tracing():
            return False
        tracemalloc.start(1)
        self._ends_s = now_s + window_s
        return True

    def is_over(self, now_s: float) -> bool:
        """Say whether an open window has reached its end."""
        return self._ends_s is not None and now_s >= self._ends_s

    def abandon(self) -> None:
        """End the window without looking at it."""
        if self._ends_s is not None:
            import tracemalloc

            self._ends_s = None
            tracemalloc.stop()

    def close(self) -> list[dict[str, Any]]:
        """End the window; return the lines that hold most of what was allocated in it. Slow: not for the loop."""
        if self._ends_s is None:
            return []
        self._ends_s = None
        import tracemalloc

        snapshot = tracemalloc.take_snapshot()
        tracemalloc.stop()
        return [
            {"line": str(found.traceback[0]), "held_bytes": found.size, "blocks": found.count}
            for found in snapshot.statistics("lineno")[:_LINES]
        ]
