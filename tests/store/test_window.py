"""The sliding window against an oracle that remembers every unit: never more than the quota, back in time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from b1.store.base import Charge
from b1.store.windows import Windows

WINDOWS_MS = st.sampled_from([60, 61, 100, 1000, 59_999, 60_000, 3_600_000, 86_400_000])
# Bursts, steps of about a counter, of about a window, and whole silences.
STEPS = st.one_of(
    st.just(0),
    st.just(0),
    st.integers(1, 3),
    st.floats(0, 0.1),
    st.floats(0.9, 1.1),
    st.floats(1.0, 1.02),
    st.floats(0, 5),
)
CALLS = st.lists(st.tuples(STEPS, st.integers(0, 4)), min_size=1, max_size=120)


class Oracle:
    """Slow and obvious: a list of all units, each with the index of its counter."""

    def __init__(self, quota: int, window_ms: int) -> None:
        self.quota = quota
        self.window_ms = window_ms
        self.units: list[int] = []
        self.newest = -1

    def used(self, now_ms: int) -> int:
        if self.newest - self._counter(now_ms) >= 61:
            self.units = []
        current = max(self._counter(now_ms), max(self.units, default=-1))
        self.units = [unit for unit in self.units if unit >= current - 60]
        return len(self.units)

    def spend(self, now_ms: int, cost: int) -> bool:
        if self.used(now_ms) + cost > self.quota:
            return False
        current = max(self._counter(now_ms), max(self.units, default=-1))
        self.units += [current] * cost
        self.newest = max(self.units, default=-1)
        return True

    def retry_ms(self, now_ms: int, cost: int) -> int:
        """Look at every coming moment at which something could change."""
        if cost > self.quota:
            return -1
        for unit in sorted(set(self.units)):
            moment = -(-(unit + 61) * self.window_ms // 60)
            current = moment * 60 // self.window_ms
            if sum(other >= current - 60 for other in self.units) + cost <= self.quota:
                return moment - now_ms
        raise AssertionError("nothing is counted, and it does not fit")

    def _counter(self, now_ms: int) -> int:
        return now_ms * 60 // self.window_ms


def _moments(calls: list[tuple[float, int]], window_ms: int, start_ms: int) -> list[tuple[int, int]]:
    now_ms, found = start_ms, []
    for step, cost in calls:
        now_ms += step if isinstance(step, int) else int(step * window_ms)
        found.append((now_ms, cost))
    return found


@given(CALLS, st.integers(1, 30), WINDOWS_MS, st.integers(0, 10**13))
@settings(max_examples=150, deadline=None)
def test_the_window_agrees_with_the_oracle(
    calls: list[tuple[float, int]], quota: int, window_ms: int, start_ms: int
) -> None:
    windows, oracle = Windows(2**20), Oracle(quota, window_ms)
    for now_ms, cost in _moments(calls, window_ms, start_ms):
        before = oracle.used(now_ms)
        expected = oracle.spend(now_ms, cost)
        allowed, (balance,) = windows.spend([Charge("limit:p:k", quota, window_ms, cost)], now_ms, commit=True)
        assert allowed == expected
        assert balance.used == oracle.used(now_ms)
        assert balance.remaining == quota - balance.used
        assert balance.retry_after_ms == (0 if expected else oracle.retry_ms(now_ms, cost))
        if not balance.remaining:
            assert balance.renew_ms == oracle.retry_ms(now_ms, 1)
        assert before <= quota


@given(CALLS, st.integers(1, 30), WINDOWS_MS, st.integers(0, 10**13))
@settings(max_examples=150, deadline=None)
def test_no_window_of_its_length_ever_holds_more_than_the_quota_and_units_come_back_in_time(
    calls: list[tuple[float, int]], quota: int, window_ms: int, start_ms: int
) -> None:
    windows = Windows(2**20)
    spent: list[tuple[int, int]] = []
    for now_ms, cost in _moments(calls, window_ms, start_ms):
        allowed, _ = windows.spend([Charge("limit:p:k", quota, window_ms, cost)], now_ms, commit=True)
        within = sum(units for at_ms, units in spent if at_ms > now_ms - window_ms)
        within_and_late = sum(units for at_ms, units in spent if at_ms > now_ms - window_ms - -(-window_ms // 60))
        assert not (allowed and within + cost > quota), "too many in a window"
        assert allowed or within_and_late + cost > quota, "refused although all units should be back"
        if allowed:
            spent.append((now_ms, cost))


@given(CALLS, st.integers(1, 10), st.integers(0, 10**13), st.lists(st.integers(-70_000, 0), max_size=5))
@settings(max_examples=100, deadline=None)
def test_a_clock_that_goes_back_agrees_with_the_oracle(
    calls: list[tuple[float, int]], quota: int, start_ms: int, back: list[int]
) -> None:
    windows, oracle = Windows(2**20), Oracle(quota, 60_000)
    moments = _moments(calls, 60_000, start_ms + 10**6)
    for place, (now_ms, cost) in enumerate(moments):
        now_ms += sum(back[: place // 10])
        expected = oracle.spend(now_ms, cost)
        allowed, (balance,) = windows.spend([Charge("limit:p:k", quota, 60_000, cost)], now_ms, commit=True)
        assert (allowed, balance.used) == (expected, oracle.used(now_ms))
