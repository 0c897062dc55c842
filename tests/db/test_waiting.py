"""Who is next, without a server: the order of the classes and the bounds of the queue."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from b1.db.session import Session
from b1.db.waiting import Class, Waiter, WaitQueue
from b1.errors import DatabaseBusy

_NO_FUTURE = cast("asyncio.Future[Session]", None)


def _queue(limit: int = 10) -> WaitQueue:
    return WaitQueue(limit, background_wait_s=5, background_quantum_s=0.05)


def _waiter(priority: Class, since_s: float = 0, deadline_s: float = 100) -> Waiter:
    return Waiter(_NO_FUTURE, priority, since_s, deadline_s)


def _order(queue: WaitQueue, now_s: float = 0, *, background_free: bool = True) -> list[str]:
    found: list[str] = []
    while (waiter := queue.next(now_s, lambda: background_free)) is not None:
        found.append(waiter.priority)
    return found


def test_errands_come_first_then_critical_web_and_background() -> None:
    queue = _queue()
    for priority in ("background", "web", "critical", "errand", "web"):
        queue.add(_waiter(priority))
    assert _order(queue) == ["errand", "critical", "web", "web", "background"]


def test_background_work_is_not_served_while_its_place_is_taken() -> None:
    queue = _queue()
    queue.add(_waiter("background"))
    queue.add(_waiter("web"))
    assert _order(queue, background_free=False) == ["web"]
    assert len(queue) == 1


def test_background_work_goes_first_after_five_seconds_for_its_quantum() -> None:
    queue = _queue()
    queue.add(_waiter("background", since_s=0))
    queue.add(_waiter("background", since_s=4.99))
    for _ in range(3):
        queue.add(_waiter("web", since_s=4))
    served = [queue.next(now_s, lambda: True) for now_s in (4.9, 5.0, 5.04)]
    assert [waiter.priority for waiter in served if waiter] == ["web", "background", "background"]


def test_after_its_quantum_background_work_waits_again() -> None:
    queue = _queue()
    queue.add(_waiter("background", since_s=0))
    queue.add(_waiter("web", since_s=4))
    assert [waiter.priority for waiter in (queue.next(5.0, lambda: True),) if waiter] == ["background"]
    queue.add(_waiter("background", since_s=5.01))
    assert _order(queue, 5.06) == ["web", "background"]


def test_each_class_has_its_own_bound() -> None:
    queue = _queue(limit=2)
    for _ in range(2):
        queue.add(_waiter("web"))
    with pytest.raises(DatabaseBusy):
        queue.add(_waiter("web"))
    queue.add(_waiter("critical"))
    queue.add(_waiter("errand"))
    assert len(queue) == 3


def test_waiters_whose_time_is_over_are_taken_out() -> None:
    queue = _queue()
    late, early = _waiter("web", deadline_s=9), _waiter("web", deadline_s=3)
    queue.add(late)
    queue.add(early)
    assert queue.expired(5) == [early]
    assert queue.expired(5) == []
    queue.remove(early)
    assert queue.drain() == [late]
    assert len(queue) == 0


def test_demand_counts_background_work_only_when_it_could_be_served() -> None:
    queue = _queue()
    for _ in range(2):
        queue.add(_waiter("background"))
    assert (queue.demand(background_busy=False), queue.demand(background_busy=True)) == (1, 0)
    queue.add(_waiter("web"))
    queue.add(_waiter("critical"))
    assert queue.demand(background_busy=False) == 2
    assert repr(queue) == "<WaitQueue errand=0 critical=1 web=1 background=2>"
