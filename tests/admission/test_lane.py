"""Permits, shares and the queue of one lane. Claims in brackets are Netflix' concurrency-limits' own."""

from __future__ import annotations

from collections import Counter
from random import Random

from b1.admission.arrivals import Line
from b1.admission.habits import Habits
from b1.admission.lane import Lane
from b1.admission.options import CRITICAL, NORMAL, SHEDDABLE, AdmissionOptions
from b1.admission.ticket import AGE, DEADLINE, FULL, GONE, Refusal, Ticket

OPTIONS = AdmissionOptions(queue_limit=10, standing_s=0.1, alarm_s=0.1, alarm_requests=1, target_s=0.1, patience_s=1.0)
FAR_S = 1e9


def lane(limit: int = 10, *, is_strict: bool = False) -> Lane:
    return Lane("waiting", limit, OPTIONS, is_strict=is_strict)


def ticket(of: Lane, rank: int = NORMAL, arrived_s: float = 0.0, *, end_s: float = FAR_S) -> Ticket:
    one = Ticket(Habits("/", OPTIONS, usual=of, mixed=of, cpu=of), rank, arrived_s, Line(), None)
    one.end_s = end_s
    return one


def offered(of: Lane, count: int, rank: int = NORMAL, *, now_s: float = 0.0) -> list[Ticket]:
    tickets = [ticket(of, rank, now_s) for _ in range(count)]
    assert [None] * count == [of.offer(one, now_s) for one in tickets]
    return tickets


def expired(of: Lane, now_s: float) -> list[tuple[Ticket, Refusal]]:
    return list(of.expire(now_s))


def starts(of: Lane, count: int, now_s: float = 0.0) -> list[int]:
    """Start and end `count` requests one after the other; return their classes."""
    found = []
    for _ in range(count):
        one = of.next(now_s)
        assert one is not None
        found.append(one.rank)
        of.give(one.rank)
    return found


# Permits


def test_any_class_may_use_all_permits() -> None:
    """[AbstractPartitionedLimiterTest.useExcessCapacityUntilTotalLimit]"""
    full = lane(10)
    for _ in range(10):
        assert full.has_room(SHEDDABLE)
        full.take(SHEDDABLE)
    assert not full.has_room(SHEDDABLE)


def test_a_class_below_its_share_gets_in_over_the_limit() -> None:
    """[AbstractPartitionedLimiterTest.exceedTotalLimitForUnusedBin]"""
    full = lane(10)
    for _ in range(10):
        full.take(SHEDDABLE)
    taken = 0
    while full.has_room(CRITICAL):
        full.take(CRITICAL)
        taken += 1
    assert taken == 5  # half of the permits


def test_nobody_gets_in_once_every_share_is_used() -> None:
    """[AbstractPartitionedLimiterTest.rejectOnceAllLimitsReached]"""
    full = lane(10)
    for rank, share in ((CRITICAL, 5), (NORMAL, 4), (SHEDDABLE, 1)):
        for _ in range(share):
            full.take(rank)
    assert [False] * 3 == [full.has_room(rank) for rank in (CRITICAL, NORMAL, SHEDDABLE)]


def test_a_permit_that_is_given_back_can_be_taken_again() -> None:
    """[AbstractPartitionedLimiterTest.releaseLimit]"""
    full = lane(2)
    for _ in range(2):
        full.take(NORMAL)
    assert not full.has_room(NORMAL)
    full.give(NORMAL)
    assert full.has_room(NORMAL)


def test_a_new_limit_leaves_the_permits_that_are_out() -> None:
    """[AbstractPartitionedLimiterTest.setLimitReservesBusy]"""
    full = lane(10)
    for _ in range(8):
        full.take(NORMAL)
    full.set_limit(4)
    assert (8, False, True) == (full.running, full.has_room(NORMAL), full.has_room(CRITICAL))
    for _ in range(8):
        full.give(NORMAL)
    assert (0, True) == (full.running, full.has_room(NORMAL))


def test_a_physical_limit_is_never_exceeded() -> None:
    threads = lane(4, is_strict=True)
    for _ in range(4):
        threads.take(NORMAL)
    assert not threads.has_room(CRITICAL)


# Queue


def test_a_burst_is_served_in_the_order_of_arrival() -> None:
    queue = lane(1)
    first, second = offered(queue, 2)
    assert first is queue.next(0.05)
    queue.give(NORMAL)
    assert second is queue.next(0.09)


def test_under_overload_the_newest_is_served_first() -> None:
    """[LifoBlockingLimiterTest: unblocks in reverse order]"""
    queue = lane(1)
    offered(queue, 2, now_s=0.0)
    (newest,) = offered(queue, 1, now_s=0.15)
    assert queue.is_standing(0.15)
    assert newest is queue.next(0.15)


def test_an_empty_queue_ends_the_overload() -> None:
    queue = lane(5)
    offered(queue, 1, now_s=0.0)
    queue.next(0.5)
    first, _ = offered(queue, 2, now_s=0.6)
    assert not queue.is_standing(0.65)
    assert first is queue.next(0.65)


def test_what_waits_longer_than_the_target_is_refused_only_under_overload() -> None:
    burst, overload = lane(1), lane(1)
    stale = ticket(burst, arrived_s=-0.6)  # its bytes lay in the kernel while the loop stood still
    assert burst.offer(stale, 0.0) is None
    assert [] == expired(burst, 0.05)
    old, young = ticket(overload, arrived_s=0.0), ticket(overload, arrived_s=0.14)
    for one in (old, young):
        overload.offer(one, one.arrived_s)
    assert [(old, AGE)] == expired(overload, 0.2)
    assert overload.queued == 1


def test_patience_ends_without_overload_too() -> None:
    queue = lane(1)
    stale = ticket(queue, arrived_s=-1.5)
    queue.offer(stale, 0.0)
    assert [(stale, AGE)] == expired(queue, 0.0)


def test_what_could_not_end_in_time_or_has_no_client_is_not_started() -> None:
    queue = lane(1)
    late, gone, fine = ticket(queue, end_s=0.01), ticket(queue), ticket(queue)
    assert gone.line is not None
    gone.line.lost()
    for one in (late, gone, fine):
        queue.offer(one, 0.0)
    assert [(late, DEADLINE), (gone, GONE)] == expired(queue, 0.02)
    assert fine is queue.next(0.02)


def test_a_full_queue_refuses_the_newcomer() -> None:
    """[LifoBlockingLimiterTest.rejectWhenBacklogSizeReached]"""
    queue = lane(1)
    offered(queue, OPTIONS.queue_limit)
    newcomer = ticket(queue)
    assert (newcomer, FULL) == queue.offer(newcomer, 0.0)
    assert queue.queued == OPTIONS.queue_limit


def test_a_full_queue_gives_up_a_lower_class_for_a_higher_one() -> None:
    queue = lane(1)
    oldest, *_ = offered(queue, 3, SHEDDABLE)
    offered(queue, OPTIONS.queue_limit - 3)
    assert (oldest, FULL) == queue.offer(ticket(queue, CRITICAL), 0.0)
    low = ticket(queue, SHEDDABLE)
    for _ in range(2):
        queue.offer(ticket(queue, CRITICAL), 0.0)
    assert (low, FULL) == queue.offer(low, 0.0)


def test_under_overload_a_full_queue_gives_up_its_oldest() -> None:
    queue = lane(1)
    oldest, *_ = offered(queue, OPTIONS.queue_limit)
    assert (oldest, FULL) == queue.offer(ticket(queue), 0.2)


def test_more_room_lets_more_in_and_less_room_fewer() -> None:
    """[LifoBlockingLimiterTest.adaptWhenLimitIncreases, adaptWhenLimitDecreases]"""
    queue = lane(1)
    offered(queue, 6)
    queue.next(0.0)
    assert queue.next(0.0) is None
    queue.set_limit(3)
    assert [True, True, False] == [queue.next(0.0) is not None for _ in range(3)]
    queue.set_limit(1)
    queue.give(NORMAL)
    assert queue.next(0.0) is None


def test_classes_that_all_wait_get_their_shares_of_the_starts() -> None:
    queue = Lane("cpu", 1, AdmissionOptions(queue_limit=1000), is_strict=True)
    for rank in (SHEDDABLE, NORMAL, CRITICAL):
        offered(queue, 100, rank)
    counts = Counter(starts(queue, 100))
    assert {CRITICAL: 50, NORMAL: 40, SHEDDABLE: 10} == {rank: round(count, -1) for rank, count in counts.items()}


def test_a_class_that_wanted_nothing_has_no_credit() -> None:
    queue = Lane("cpu", 1, AdmissionOptions(queue_limit=1000), is_strict=True)
    offered(queue, 200)
    starts(queue, 100)
    offered(queue, 100, SHEDDABLE)
    assert Counter(starts(queue, 50))[SHEDDABLE] <= 12


def test_who_withdraws_leaves_no_trace() -> None:
    """[LifoBlockingLimiterTest.timeoutAcquireRaceCondition: a waiter that left is not woken]"""
    queue = lane(1)
    first, second = offered(queue, 2)
    queue.withdraw(first)
    queue.withdraw(first)
    assert (second, 0) == (queue.next(0.0), queue.queued)
    assert not queue.is_standing(1.0)


def test_counts_agree_with_an_oracle_under_random_use() -> None:
    random, queue, waiting, running = Random(7), lane(6), set[Ticket](), Counter[int]()
    for step in range(5000):
        now_s = step * 0.01
        match random.randrange(5):
            case 0 | 1:
                one = ticket(queue, random.randrange(3), now_s - random.random() * 0.05)
                out = queue.offer(one, now_s)
                waiting.add(one)
                if out is not None:
                    waiting.remove(out[0])
            case 2:
                started = queue.next(now_s)
                if started is not None:
                    waiting.remove(started)
                    running[started.rank] += 1
            case 3:
                busy = [rank for rank, count in running.items() if count]
                if busy:
                    rank = random.choice(busy)
                    queue.give(rank)
                    running[rank] -= 1
            case _:
                for out_now, _ in queue.expire(now_s):
                    waiting.remove(out_now)
        assert len(waiting) == queue.queued
        assert running.total() == queue.running
        assert [running[rank] for rank in range(3)] == [queue.busy[rank] for rank in range(3)]


def test_a_queue_that_is_never_empty_but_quick_refuses_nobody() -> None:
    """A few clients that ask again at once: each waits for its turn, none waits long."""
    queue = lane(1)
    for number in range(20):
        now_s = number * 0.05
        offered(queue, 2, now_s=now_s)
        assert not queue.is_standing(now_s)
        assert [] == expired(queue, now_s)
        queue.next(now_s)
        if queue.queued > 1:
            queue.give(NORMAL)
            queue.next(now_s)
            queue.give(NORMAL)


def test_an_overload_lasts_until_the_queue_is_empty() -> None:
    queue = lane(1)
    offered(queue, 1, now_s=0.0)
    assert queue.is_standing(0.15)
    offered(queue, 1, now_s=0.15)
    assert 1 == len(expired(queue, 0.15))
    assert queue.is_standing(0.16)  # although whoever is left has waited for 10 ms only
    queue.next(0.16)
    offered(queue, 1, now_s=0.17)
    assert not queue.is_standing(0.2)


# When a filled queue is overload: OPTIONS as planned


def planned(**options: float) -> Lane:
    return Lane("waiting", 1, AdmissionOptions(**options), is_strict=False)  # type: ignore[arg-type]


def test_a_few_clients_on_a_slow_machine_are_no_overload() -> None:
    """Sixteen that ask again at once, on a route of 10 ms that takes 30: each waits for 450 ms, and is served."""
    queue = planned()
    offered(queue, 15, now_s=0.0)
    assert [False, False] == [queue.is_standing(now_s) for now_s in (0.3, 0.5)]


def test_many_are_as_soon_as_one_has_waited_too_long() -> None:
    queue = planned()
    offered(queue, 40, now_s=0.0)
    assert [False, True] == [queue.is_standing(now_s) for now_s in (0.25, 0.26)]


def test_few_are_when_half_of_their_patience_is_over() -> None:
    """A route of 100 ms at twice its capacity never has many waiting: they give up first."""
    queue = planned()
    offered(queue, 5, now_s=0.0)
    assert [False, True] == [queue.is_standing(now_s) for now_s in (0.5, 0.51)]


def test_waiting_as_long_as_the_request_itself_takes_is_no_overload() -> None:
    queue = planned()
    queue.usual_s = 2.0
    offered(queue, 40, now_s=0.0)
    assert [False, True] == [queue.is_standing(now_s) for now_s in (2.0, 2.1)]
    patient = planned()
    patient.usual_s = 2.0
    offered(patient, 1, now_s=0.0)
    assert [2.0, 1.0] == [patient.age_limit_s(0.5), planned().age_limit_s(0.5)]
