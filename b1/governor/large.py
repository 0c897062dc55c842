"""The largest requests of the last minutes, for the report of what holds the memory.

On the request path it is one comparison: what is small is nobody's suspect.
"""

from __future__ import annotations

from typing import Any

from b1.clock import Clock
from b1.units import KIB

LEAST_BYTES = 64 * KIB
KEPT = 20
WINDOW_S = 300.0

_Noted = tuple[int, float, str, str]  # bytes, monotonic time, route, request id


class LargeRequests:
    """At most twenty requests, of the last five minutes. The event loop's thread alone may touch it.

    Args:
        least_bytes: smaller requests are not noted.
    """

    def __init__(
        self, clock: Clock, *, kept: int = KEPT, window_s: float = WINDOW_S, least_bytes: int = LEAST_BYTES
    ) -> None:
        self._clock = clock
        self._kept = kept
        self._window_s = window_s
        self._least_bytes = least_bytes
        self._noted: list[_Noted] = []

    def __repr__(self) -> str:
        return f"<LargeRequests {len(self._noted)} largest_bytes={max(self._noted, default=(0,))[0]}>"

    def note(self, route: str, size_bytes: int, request_id: str) -> None:
        """Note a request by its body's size, announced or received; what is small costs a comparison.

        Args:
            route: the template, never the path.
        """
        if size_bytes < self._least_bytes:
            return
        now_s = self._clock.monotonic()
        one = (size_bytes, now_s, route, request_id)
        if len(self._noted) < self._kept:
            self._noted.append(one)
            return
        self._forget(now_s)
        if len(self._noted) < self._kept:
            self._noted.append(one)
            return
        smallest = min(range(len(self._noted)), key=self._noted.__getitem__)
        if one > self._noted[smallest]:
            self._noted[smallest] = one

    def recent(self) -> list[dict[str, Any]]:
        """Return them, the largest first, as the report shows them."""
        now_s = self._clock.monotonic()
        self._forget(now_s)
        return [
            {"route": route, "bytes": size_bytes, "ago_s": round(now_s - at_s, 1), "request_id": request_id}
            for size_bytes, at_s, route, request_id in sorted(self._noted, reverse=True)
        ]

    def _forget(self, now_s: float) -> None:
        self._noted = [one for one in self._noted if now_s - one[1] <= self._window_s]
