"""Keys come due once, when they were filed for, whatever the order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from b1.store.timetable import Timetable


def test_nothing_is_due_before_its_time() -> None:
    timetable = Timetable(1000)
    timetable.file("a", 5000)
    assert timetable.take(5000) is None
    assert timetable.take(6000) == "a"
    assert timetable.take(10**9) is None


@given(st.lists(st.integers(0, 10**5), max_size=50), st.integers(0, 10**5))
def test_every_key_comes_due_exactly_once_and_at_most_a_tick_late(moments: list[int], now_ms: int) -> None:
    timetable = Timetable(1000)
    for number, at_ms in enumerate(moments):
        timetable.file(f"{number}", at_ms)
    due = set(iter(lambda: timetable.take(now_ms), None))
    later = set(iter(lambda: timetable.take(10**6), None))
    assert due | later == {f"{number}" for number in range(len(moments))}
    assert due & later == set()
    assert all(moments[int(key)] < now_ms for key in due)
    assert all(moments[int(key)] >= now_ms - 1000 for key in later)
