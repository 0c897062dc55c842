"""How much a hand-over may hold, what is in it, and what had to stay out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

# With less than this left nothing more is tried.
_CRUMB_BYTES = 256


class Budget:
    """Bytes that are left, and counts by kind."""

    def __init__(self, limit_bytes: int) -> None:
        self.left_bytes = limit_bytes
        self.passed: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Budget(left={self.left_bytes} B, passed={dict(self.passed)}, left_out={dict(self.left_out)})"

    def fit(
        self,
        kind: str,
        items: Sequence[T],
        encode: Callable[[Sequence[T]], tuple[bytes, int]],
        *,
        spare_bytes: int = 0,
        rest: list[T] | None = None,
    ) -> list[bytes]:
        """Return frames with as many of the items as fit, the first ones first; `spare_bytes` are not for them.

        Args:
            encode: makes a frame, and says how many of the items are still there to be in it.
            rest: takes those that do not fit, instead of their being counted as left out.
        """
        if self.left_bytes - spare_bytes < _CRUMB_BYTES:
            self._leave_out(kind, items, rest)
            return []
        frame, count = encode(items)
        if not count:
            return []
        if len(frame) <= self.left_bytes - spare_bytes:
            self.left_bytes -= len(frame)
            self.passed[kind] += count
            return [frame]
        if len(items) == 1:
            self._leave_out(kind, items, rest)
            return []
        half = len(items) // 2
        first = self.fit(kind, items[:half], encode, spare_bytes=spare_bytes, rest=rest)
        return first + self.fit(kind, items[half:], encode, spare_bytes=spare_bytes, rest=rest)

    def add(self, kind: str, frame: bytes, count: int) -> list[bytes]:
        """Return a frame that cannot be divided, if it fits."""
        if len(frame) > self.left_bytes:
            self.left_out[kind] += count
            return []
        self.left_bytes -= len(frame)
        self.passed[kind] += count
        return [frame]

    def _leave_out(self, kind: str, items: Sequence[T], rest: list[T] | None) -> None:
        if rest is None:
            self.left_out[kind] += len(items)
        else:
            rest.extend(items)
