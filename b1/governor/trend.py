"""Where memory is going. Pure: a least-squares line through the last ten seconds of samples, and when it meets the limit.

A slope says nothing before five seconds of samples: the start of a process, or one big answer, is no trend.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
LEAST_SPAN_S = 5.0
# Slower growth than this reaches no limit soon, and a line through noise has some slope always.
LEAST_SLOPE_BYTES_PER_S = 256 * 1024
SAMPLES_LIMIT = 64


class Trend:
    """The window of samples."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES_LIMIT)
        self.slope_bytes_per_s = 0.0

    def __repr__(self) -> str:
        return f"<Trend slope_bytes_per_s={self.slope_bytes_per_s:.0f} samples={len(self._samples)}>"

    def add(self, now_s: float, used_bytes: int) -> None:
        """Take one sample."""
        self._samples.append((now_s, used_bytes))
        while now_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()
        self.slope_bytes_per_s = self._slope()

    def reset(self) -> None:
        """Forget the past: it was another measure, or a reclaim has broken the line."""
        self._samples.clear()
        self.slope_bytes_per_s = 0.0

    def time_to_limit_s(self, limit_bytes: int) -> float | None:
        """Return when the line meets the limit; None when it does not rise."""
        if self.slope_bytes_per_s < LEAST_SLOPE_BYTES_PER_S:
            return None
        return max(0.0, (limit_bytes - self._samples[-1][1]) / self.slope_bytes_per_s)

    def _slope(self) -> float:
        first_s, last_s = self._samples[0][0], self._samples[-1][0]
        if last_s - first_s < LEAST_SPAN_S:
            return 0.0
        count = len(self._samples)
        mean_s = sum(at_s for at_s, _ in self._samples) / count
        mean_bytes = sum(used for _, used in self._samples) / count
        spread = sum((at_s - mean_s) ** 2 for at_s, _ in self._samples)
        return sum((at_s - mean_s) * (used - mean_bytes) for at_s, used in self._samples) / spread
