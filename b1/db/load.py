"""How busy the connections are and how long callers wait for one: the numbers behind "saturated".

Arithmetic; the pool feeds it and its timer samples it once a second. Utilisation is the share of connections x time that
were in use over the last 10 s. Waits and services are counted in histograms of four steps per factor of two (an error of
at most 12 %), which cover the last 5 to 10 s; a caller that got a connection at once is a wait of 0.

Saturated means: utilisation over `BUSY`, or the 99th percentile of the wait over `LONG_WAIT` mean services while at least
half of the connections are busy (else it is the opening of connections that was waited for). In M/M/3 both happen at about
the same load, 0.73 and 0.9; see docs/explanation/database-budget.md. It ends when both are a fifth below.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

SAMPLE_S = 1.0
WINDOW_S = 10.0
HALF_S = 5.0
BUSY = 0.9
LONG_WAIT = 5.0
_HALF_BUSY = 0.5
_RELIEF = 0.8
_TRUSTED_CALLERS = 20
_SERVICE_GAIN = 1 / 32
# One lease counts for at most so many times the mean; work that has become slower shows after a few.
_OUTLIER = 4.0
_BUCKETS = 4 * 30


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """How busy the connections of this process were in the last seconds.

    Attributes:
        utilisation: share of the host's connections x time that this process used, 0 to 1, over 10 s.
        wait_p50_s: the median wait of all callers, those served at once included.
        wait_p95_s: as it says.
        wait_p99_s: as it says.
        service_mean_s: how long a connection was held, on average.
        service_p50_s: as it says.
        service_p99_s: as it says.
        callers: leases given and waits that failed, in the same seconds as the waits.
        expected_wait_s: what a web caller that came now would wait, by the length of the queue.
        is_saturated: see the module.
    """

    utilisation: float = 0.0
    wait_p50_s: float = 0.0
    wait_p95_s: float = 0.0
    wait_p99_s: float = 0.0
    service_mean_s: float = 0.0
    service_p50_s: float = 0.0
    service_p99_s: float = 0.0
    callers: int = 0
    expected_wait_s: float = 0.0
    is_saturated: bool = False


class Histogram:
    """Durations of the last two halves of the window."""

    __slots__ = ("_before", "_now")

    def __init__(self) -> None:
        self._now = [0] * _BUCKETS
        self._before = [0] * _BUCKETS

    def add(self, duration_s: float) -> None:
        """Count one."""
        micros = int(duration_s * 1e6)
        bits = micros.bit_length()
        index = (bits << 2) + (micros >> (bits - 3) & 3) if bits > 2 else micros
        self._now[index if index < _BUCKETS else -1] += 1

    def turn(self) -> None:
        """Begin another half; the one before the last is forgotten."""
        self._before, self._now = self._now, [0] * _BUCKETS

    @property
    def count(self) -> int:
        return sum(self._now) + sum(self._before)

    def quantile(self, share: float, *, zeros: int = 0) -> float:
        """Return the duration, in seconds, that `share` of all do not exceed; `zeros` more of them were 0."""
        rank = share * (self.count + zeros) - zeros
        if rank <= 0:
            return 0.0
        for index, (now, before) in enumerate(zip(self._now, self._before, strict=True)):
            rank -= now + before
            if rank <= 0:
                return _middle_s(index)
        return 0.0


def _middle_s(index: int) -> float:
    if index < 12:  # below 4 us the buckets are single microseconds
        return index / 1e6
    low = (4 + (index & 3)) << ((index >> 2) - 3)
    return (low + (1 << ((index >> 2) - 3)) / 2) / 1e6


class Sample(NamedTuple):
    """What had been summed up when."""

    at_s: float
    busy_s: float
    served: int
    served_s: float


class Load:
    """The load of one pool. All moments are on one monotonic clock.

    Args:
        connections: of the host.
    """

    def __init__(self, connections: int) -> None:
        self.is_saturated = False
        self.service_s = 0.0  # the moving mean of what a connection is held for; 0 while unknown
        self._connections = connections
        self._served = 0
        self._served_s = 0.0
        self._errand_s = 0.0
        self._waits = Histogram()
        self._services = Histogram()
        self._at_once = [0, 0]  # callers that did not wait, in the half before and in this one
        self._at_once_before = 0
        self._turned_s: float | None = None
        self._sampled_s = float("-inf")
        self._samples: deque[Sample] = deque()
        self._utilisation = 0.0
        self._service_mean_s = 0.0

    def __repr__(self) -> str:
        return f"<Load utilisation={self._utilisation:.2f} saturated={self.is_saturated}>"

    def wait_behind_s(self, ahead: int, connections: int) -> float:
        """Return what a caller waits that has `ahead` others before it; 0 for the next one, and while nothing is known."""
        if not ahead or self._served < _TRUSTED_CALLERS:
            return 0.0
        return (ahead + 1) * self.service_s / max(1, connections)

    def served(self, held_s: float) -> None:
        """Hear that a lease ended after `held_s`."""
        self._served += 1
        self._served_s += held_s
        self._services.add(held_s)
        mean_s = self.service_s
        if mean_s:  # a few abandoned queries may not have everybody else turned away
            held_s = min(held_s, _OUTLIER * mean_s)
            self.service_s = mean_s + (held_s - mean_s) * _SERVICE_GAIN
        else:
            self.service_s = held_s

    def waited(self, wait_s: float) -> None:
        """Hear that a caller waited, successfully or not."""
        self._waits.add(wait_s)

    def ran_errand(self, took_s: float) -> None:
        """Hear that a connection was busy without a lease: it saw an abandoned query off."""
        self._errand_s += took_s

    def is_due(self, now_s: float) -> bool:
        return now_s - self._sampled_s >= SAMPLE_S

    def sample(self, now_s: float, *, open_s: float, at_once: int) -> None:
        """Bring everything up to date.

        Args:
            open_s: what the open leases have lasted, summed up.
            at_once: callers since the start that did not have to wait.
        """
        self._sampled_s = now_s
        self._turn(now_s, at_once)
        latest = Sample(now_s, self._served_s + self._errand_s + open_s, self._served, self._served_s)
        samples = self._samples
        samples.append(latest)
        while len(samples) > 2 and samples[1].at_s <= now_s - WINDOW_S:
            samples.popleft()
        first = samples[0]
        elapsed_s = latest.at_s - first.at_s
        if elapsed_s > 0:
            busy_s = max(0.0, latest.busy_s - first.busy_s)
            # A window that is not full yet counts as if nothing had happened before.
            self._utilisation = min(1.0, busy_s / (max(elapsed_s, WINDOW_S) * self._connections))
        served = latest.served - first.served
        self._service_mean_s = (latest.served_s - first.served_s) / served if served else self.service_s
        self._judge()

    def snapshot(self, *, expected_wait_s: float) -> LoadSnapshot:
        """Return the numbers of the last sample; the quantiles are as of now."""
        zeros = sum(self._at_once)
        waits, services = self._waits, self._services
        return LoadSnapshot(
            utilisation=self._utilisation,
            wait_p50_s=waits.quantile(0.5, zeros=zeros),
            wait_p95_s=waits.quantile(0.95, zeros=zeros),
            wait_p99_s=waits.quantile(0.99, zeros=zeros),
            service_mean_s=self._service_mean_s,
            service_p50_s=services.quantile(0.5),
            service_p99_s=services.quantile(0.99),
            callers=waits.count + zeros,
            expected_wait_s=expected_wait_s,
            is_saturated=self.is_saturated,
        )

    def _turn(self, now_s: float, at_once: int) -> None:
        if self._turned_s is None:
            self._turned_s = now_s
        elif now_s - self._turned_s >= HALF_S:
            halves = 1 if now_s - self._turned_s < 2 * HALF_S else 2  # nobody looked for long: both halves are old
            for _ in range(halves):
                self._waits.turn()
                self._services.turn()
                self._at_once = [self._at_once[1], 0]
            self._turned_s = now_s
        self._at_once[1] += at_once - self._at_once_before
        self._at_once_before = at_once

    def _judge(self) -> None:
        ease = _RELIEF if self.is_saturated else 1.0
        is_busy = self._utilisation > BUSY * ease
        is_slow = False
        zeros = sum(self._at_once)
        if self._utilisation >= _HALF_BUSY * ease and self._waits.count + zeros >= _TRUSTED_CALLERS:
            long_s = LONG_WAIT * ease * self._service_mean_s
            is_slow = self._waits.quantile(0.99, zeros=zeros) > long_s > 0
        self.is_saturated = is_busy or is_slow
