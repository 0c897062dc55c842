"""Fair among tenants, without a server: connection time is shared, nobody fills the queue alone."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from typing import cast

import pytest

from b1.db.fairness import FairLine, Waiter
from b1.db.session import Session
from b1.errors import DatabaseBusy

_NO_FUTURE = cast("asyncio.Future[Session]", None)


def _waiter(tenant: str | None) -> Waiter:
    return Waiter(_NO_FUTURE, "web", 0, 100, tenant)


def _fill(line: FairLine, tenant: str | None, count: int) -> list[Waiter]:
    waiters = [_waiter(tenant) for _ in range(count)]
    for waiter in waiters:
        line.add(waiter)
    return waiters


def _serve(line: FairLine, took_s: float = 0.01) -> str | None:
    waiter = line.next()
    assert waiter is not None and waiter.account is not None
    waiter.account.end(took_s)
    return waiter.tenant


def test_one_tenant_is_served_in_the_order_of_arrival() -> None:
    line = FairLine(10)
    waiters = _fill(line, None, 4)
    assert [line.next() for _ in range(5)] == [*waiters, None]


def test_a_newcomer_goes_before_the_rest_of_a_flood() -> None:
    line = FairLine(300)
    _fill(line, "flood", 299)
    assert [_serve(line) for _ in range(3)] == ["flood"] * 3
    _fill(line, "quiet", 1)
    assert _serve(line) == "quiet"


def test_tenants_of_equal_queries_take_turns() -> None:
    line = FairLine(300)
    for tenant in "abc":
        _fill(line, tenant, 20)
    assert Counter(_serve(line) for _ in range(30)) == {"a": 10, "b": 10, "c": 10}


def test_what_is_shared_is_time_and_not_turns() -> None:
    line = FairLine(2000)
    _fill(line, "long", 100)
    _fill(line, "short", 800)
    used: Counter[str | None] = Counter()
    for _ in range(600):
        waiter = line.next()
        assert waiter is not None and waiter.account is not None
        took_ms = 50 if waiter.tenant == "long" else 5
        waiter.account.end(took_ms / 1000)
        used[waiter.tenant] += took_ms
    assert abs(used["long"] - used["short"]) <= 50


def test_a_tenant_that_holds_none_goes_before_one_that_does() -> None:
    line = FairLine(100)
    _fill(line, "long", 50)
    _fill(line, "short", 50)
    first = line.next()
    second = line.next()
    assert first is not None and second is not None
    assert (first.tenant, second.tenant) == ("long", "short")
    assert second.account is not None
    for _ in range(30):  # the long query holds its connection all the time, whatever the short ones have used
        second.account.end(0.02)
        second = line.next()
        assert second is not None and second.account is not None and second.tenant == "short"


def test_staying_away_saves_nothing_up() -> None:
    line = FairLine(400)
    _fill(line, "steady", 150)
    for _ in range(100):
        _serve(line)
    _fill(line, "absent", 100)
    assert Counter(_serve(line) for _ in range(40)) == {"steady": 20, "absent": 20}


def test_a_lease_without_a_wait_counts_too() -> None:
    line = FairLine(100)
    for _ in range(50):
        line.begin("busy").end(0.01)
        line.begin("calm").end(0.001)
    _fill(line, "busy", 10)
    _fill(line, "calm", 10)
    assert [_serve(line, 0.001) for _ in range(5)] == ["calm"] * 5


def test_one_tenant_may_fill_the_queue_only_while_nobody_else_wants_in() -> None:
    line = FairLine(10)
    _fill(line, "flood", 10)
    with pytest.raises(DatabaseBusy, match="wait for a database connection already"):
        line.add(_waiter("flood"))
    for count in range(1, 6):
        pushed_out = line.add(_waiter("other"))
        assert pushed_out is not None and pushed_out.tenant == "flood"
        assert line.ahead_of("other") == min(count + 1, 10 - count) + count  # its own, and as many of the flood
    with pytest.raises(DatabaseBusy):
        line.add(_waiter("other"))
    assert Counter(waiter.tenant for waiter in line) == {"flood": 5, "other": 5}


def test_half_of_the_queue_is_one_tenants_share_while_others_wait() -> None:
    line = FairLine(10)
    line.add(_waiter("other"))
    _fill(line, "flood", 5)
    with pytest.raises(DatabaseBusy, match="one tenant"):
        line.add(_waiter("flood"))
    line.add(_waiter("third"))
    assert line.waiting == 7


def test_the_newest_of_the_longest_line_makes_room() -> None:
    line = FairLine(10)
    for tenant, count in (("a", 5), ("b", 3), ("c", 2)):
        waiters = _fill(line, tenant, count)
        if tenant == "a":
            newest = waiters[-1]
    assert line.add(_waiter("d")) is newest
    assert newest.account is not None and newest not in newest.account.waiters
    with pytest.raises(DatabaseBusy):
        line.add(_waiter("b"))


def test_whoever_leaves_is_forgotten() -> None:
    line = FairLine(10)
    waiters = _fill(line, "a", 3)
    (other,) = _fill(line, "b", 1)
    assert line.remove(waiters[0]) and not line.remove(waiters[0])
    assert line.remove(other)
    assert [line.next(), line.next(), line.next()] == [waiters[1], waiters[2], None]
    assert not line.remove(waiters[1])
    assert line.waiting == 0


def test_tenants_without_end_leave_nothing_behind() -> None:
    line = FairLine(20)
    for number in range(5000):
        line.begin(f"tenant {number}").end(0.001)
    assert len(line._accounts) <= 56
    for number in range(5000):
        (waiter,) = _fill(line, f"tenant {number}", 1)
        if number % 3:
            line.remove(waiter)
        else:
            _serve(line)
    assert len(line._accounts) <= 56
    assert len(line._ranks) <= 64


def test_it_agrees_with_a_slow_obvious_one_under_random_work() -> None:
    """Served is always a tenant with the fewest held and the least used among those that wait, first come first."""
    dice = random.Random(7)
    line = FairLine(60)
    waiting: dict[str, deque[Waiter]] = {tenant: deque() for tenant in "abcdef"}
    serving: list[Waiter] = []
    for _ in range(20_000):
        action = dice.random()
        if action < 0.45:
            waiter = _waiter(dice.choice("aaabbcdef"))
            try:
                pushed_out = line.add(waiter)
            except DatabaseBusy:
                continue
            waiting[str(waiter.tenant)].append(waiter)
            if pushed_out is not None:
                assert waiting[str(pushed_out.tenant)].pop() is pushed_out
        elif action < 0.5 and any(waiting.values()):
            gone = dice.choice([waiter for queue in waiting.values() for waiter in queue])
            assert line.remove(gone)
            waiting[str(gone.tenant)].remove(gone)
        elif serving and (len(serving) == 3 or action < 0.75):
            ended = serving.pop(dice.randrange(len(serving)))
            assert ended.account is not None
            ended.account.end(dice.expovariate(100))
        elif len(serving) < 3:
            ranks = {
                tenant: (queue[0].account.held, queue[0].account.used_s)
                for tenant, queue in waiting.items()
                if queue and queue[0].account is not None
            }
            served = line.next()
            assert (served is None) == (not ranks)
            if served is not None:
                assert ranks[str(served.tenant)] == min(ranks.values())
                assert waiting[str(served.tenant)].popleft() is served
                serving.append(served)
        assert line.waiting == sum(map(len, waiting.values()))
        assert line.held == len(serving)
