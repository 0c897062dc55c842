"""Who gets in, who waits, who is refused; and that no permit is ever lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

from b1.admission import AdmissionOptions, Arrivals, Gate, Habits, Line, Refusal, Rung, Ticket
from b1.clock import ManualClock

CRITICAL, NORMAL, SHEDDABLE = range(3)


class Context:
    """What the gate reads of a request: has its answer begun."""

    def __init__(self) -> None:
        self.status = 0


class World:
    """A gate, its clock and its inputs."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.level = self.lag = 0
        self.is_overlapping = False
        numbers = {
            "initial_limit": 2,
            "least_limit": 2,
            "most_limit": 2,
            "threads": 2,
            "alarm_s": 0.1,
            "alarm_requests": 1,
            "shares": (0.5, 0.4, 0.1),
        }
        self.gate = Gate(
            AdmissionOptions(**{**numbers, **options}),
            self.clock,
            level=lambda: self.level,
            lag_level=lambda: self.lag,
            is_overlapping=lambda: self.is_overlapping,
            random=Random(1),
        )
        self.route = self.gate.habits("/", rank=NORMAL)

    def ticket(self, rank: int = NORMAL, *, age_s: float = 0.0, habits: Habits | None = None) -> Ticket:
        now_s = self.clock.monotonic()
        one = Ticket(habits or self.route, rank, now_s - age_s, Line(), Context())
        one.end_s = one.arrived_s + 30.0
        return one

    def try_enter(self, one: Ticket) -> bool:
        return self.gate.try_enter(one, self.clock.monotonic())

    def fill(self, count: int = 2, rank: int = NORMAL) -> list[Ticket]:
        """Have as many in work as fit."""
        tickets = [self.ticket(rank) for _ in range(count)]
        assert all(self.try_enter(one) for one in tickets)
        return tickets

    def rise_to(self, level: int) -> None:
        self.level = level
        self.gate.look()

    def waits(self, one: Ticket) -> asyncio.Task[Refusal | None]:
        return asyncio.create_task(self.gate.enter(one))

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def reason(self, task: asyncio.Task[Refusal | None]) -> str | None:
        async with asyncio.timeout(10):
            refusal = await task
        return refusal.reason if refusal is not None else None


async def test_the_healthy_pass_at_once() -> None:
    world = World()
    [one] = world.fill(1)
    snapshot = world.gate.snapshot()
    assert (1, 0, "open") == (snapshot.running, snapshot.queued, snapshot.rung)
    world.gate.leave(one, is_honest=True)
    assert 0 == world.gate.snapshot().running


async def test_one_more_than_the_limit_waits_and_starts_when_one_leaves() -> None:
    world = World()
    first, _ = world.fill()
    one = world.ticket()
    assert not world.try_enter(one)
    task = world.waits(one)
    await world.settle()
    assert 1 == world.gate.snapshot().queued
    world.gate.leave(first, is_honest=True)
    assert await world.reason(task) is None
    assert (2, 0) == (world.gate.snapshot().running, world.gate.snapshot().queued)


async def test_an_old_request_takes_its_place_in_the_queue_even_when_there_is_room() -> None:
    world = World()
    one = world.ticket(age_s=0.05)
    assert not world.try_enter(one)
    assert await world.reason(world.waits(one)) is None


async def test_a_request_older_than_patience_is_refused_before_it_waits() -> None:
    world = World()
    assert "age" == await world.reason(world.waits(world.ticket(age_s=1.5)))
    assert ((("normal", "age", 1)),) == world.gate.snapshot().refused


async def test_what_waits_in_vain_is_refused_when_its_time_comes() -> None:
    world = World()
    one_by_one = world.gate.habits("/cpu", rank=NORMAL, cpu_bound=True)
    assert world.try_enter(world.ticket(habits=one_by_one))
    task = world.waits(world.ticket(habits=one_by_one))
    await world.settle()
    world.clock.advance(0.2)
    assert "age" == await world.reason(task)


async def test_the_loop_goes_on_reading_while_the_queue_is_served() -> None:
    """An event of the server keeps the pump from starting the next one, until a turn was quiet."""
    world = World(most_limit=1, initial_limit=1, least_limit=1, shares=(0.4, 0.3, 0.3))
    world.gate.arrivals = arrivals = Arrivals(5.0)
    [running] = world.fill(1)
    task = world.waits(world.ticket())
    await world.settle()
    world.gate.leave(running, is_honest=True)
    for _ in range(30):
        arrivals.events += 1
        await asyncio.sleep(0)
    assert not task.done()
    assert await world.reason(task) is None


# Levels


@pytest.mark.parametrize(
    ("level", "rung", "classes"),
    [
        (0, "open", [True, True, True]),
        (1, "open", [True, True, True]),
        (2, "no_sheddable", [True, True, False]),
        (3, "halved", [True, True, False]),
        (4, "critical_only", [True, False, False]),
        (5, "emergency", [True, False, False]),
    ],
)
async def test_each_level_serves_its_classes(level: int, rung: str, classes: list[bool]) -> None:
    world = World(initial_limit=8, most_limit=8)
    world.rise_to(level)
    assert classes == [world.try_enter(world.ticket(rank)) for rank in range(3)]
    assert rung == world.gate.snapshot().rung


async def test_a_class_that_is_not_served_is_refused_at_once_and_out_of_the_queue() -> None:
    world = World()
    world.fill()
    task = world.waits(world.ticket(SHEDDABLE))
    await world.settle()
    world.rise_to(2)
    assert "memory" == await world.reason(task)
    assert "memory" == await world.reason(world.waits(world.ticket(SHEDDABLE)))


async def test_at_severe_the_limits_are_halved_and_large_bodies_refused() -> None:
    world = World(initial_limit=8, most_limit=8, threads=4)
    world.rise_to(3)
    limits = {lane.name: lane.limit for lane in world.gate.snapshot().lanes}
    assert (4, 2, True) == (limits["waiting"], limits["threads"], world.gate.refuses_large_bodies)
    world.rise_to(0)
    limits = {lane.name: lane.limit for lane in world.gate.snapshot().lanes}
    assert (8, 4, False) == (limits["waiting"], limits["threads"], world.gate.refuses_large_bodies)


async def test_from_elevated_on_idle_connections_are_closed_sooner() -> None:
    world = World()
    world.gate.arrivals = arrivals = Arrivals(5.0)
    world.rise_to(1)
    assert 2.0 == arrivals.keep_alive_s
    world.rise_to(0)
    assert 5.0 == arrivals.keep_alive_s


@pytest.mark.parametrize(("level", "rung"), [(0, Rung.NO_SHEDDABLE), (2, Rung.HALVED), (4, Rung.CRITICAL_ONLY)])
async def test_a_lagging_loop_is_one_rung_more_but_never_cancels(level: int, rung: Rung) -> None:
    world = World()
    world.lag = 1
    world.rise_to(level)
    assert rung is world.gate.rung


async def test_in_an_emergency_the_newest_sheddable_work_is_cancelled_first() -> None:
    world = World(initial_limit=8, most_limit=8, look_s=0.01)
    tickets, ended = [world.ticket(rank) for rank in (SHEDDABLE, NORMAL, SHEDDABLE, CRITICAL, SHEDDABLE)], []

    async def work(number: int, one: Ticket) -> None:
        assert world.try_enter(one)
        one.task = asyncio.current_task()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)
            world.gate.leave(one, is_honest=False)

    tasks = [asyncio.create_task(work(number, one)) for number, one in enumerate(tickets)]
    await world.settle()
    world.rise_to(5)
    await asyncio.wait([tasks[number] for number in (0, 2, 4)], timeout=10)
    assert ([4, 2], 0) == (sorted(ended[:2], reverse=True), ended[-1])
    assert (("emergency", 3),) == world.gate.snapshot().cancelled
    await world.gate.aclose()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_the_level_is_asked_for_ten_times_a_second_at_most() -> None:
    asked: list[float] = []
    clock = ManualClock()

    def level() -> int:
        asked.append(clock.monotonic())
        return 0

    gate = Gate(AdmissionOptions(most_limit=8), clock, level=level)
    route = gate.habits("/", rank=NORMAL)
    for _ in range(20):
        one = Ticket(route, NORMAL, clock.monotonic(), None, Context())
        assert gate.try_enter(one, clock.monotonic())
        gate.leave(one, is_honest=True)
        clock.advance(0.02)
    assert 4 == len(asked)


# Kinds of work


async def test_requests_that_hold_the_loop_are_learned_and_run_one_at_a_time() -> None:
    world = World(initial_limit=8, most_limit=8)
    world.route.learn(0.010, 0.011)
    assert ("/",) == world.gate.snapshot().cpu_bound
    [first] = world.fill(1)
    second = world.ticket()
    assert not world.try_enter(second)
    task = world.waits(second)
    await world.settle()
    world.gate.leave(first, is_honest=True)
    assert await world.reason(task) is None


@pytest.mark.parametrize(
    ("cpu_bound", "lane"), [(None, "cpu"), (True, "cpu"), (False, "waiting")], ids=["learned", "declared", "denied"]
)
async def test_a_route_may_declare_what_it_is(cpu_bound: bool | None, lane: str) -> None:
    world = World()
    habits = world.gate.habits("/x", rank=NORMAL, cpu_bound=cpu_bound)
    habits.learn(0.010, 0.010)
    assert lane == habits.lane.name


async def test_one_request_during_which_the_machine_stood_still_does_not_make_a_route_heavy() -> None:
    world = World()
    habits = world.gate.habits("/x", rank=NORMAL)
    for held_s in (0.0002, 0.0002, 0.0500):
        habits.learn(held_s, held_s + 0.0001)
    assert "waiting" == habits.lane.name
    for _ in range(20):
        habits.learn(0.0100, 0.0110)  # now it really is
    assert "cpu" == habits.lane.name


async def test_what_was_learned_is_unlearned() -> None:
    world = World()
    habits = world.gate.habits("/x", rank=NORMAL)
    habits.learn(0.300, 0.310)  # its first request imported something
    assert "cpu" == habits.lane.name
    for _ in range(40):
        habits.learn(0.0001, 0.020)
    assert "waiting" == habits.lane.name


async def test_plain_functions_count_by_the_threads() -> None:
    world = World(initial_limit=8, most_limit=8, threads=2)
    sync = world.gate.habits("/sync", rank=NORMAL, in_thread=True)
    assert [True, True, False] == [world.try_enter(world.ticket(habits=sync)) for _ in range(3)]
    assert world.try_enter(world.ticket())  # the others are not in their way


async def test_a_stream_gives_its_permit_back_and_counts_as_a_stream() -> None:
    world = World()
    first, second = world.fill()
    first.context.status = 200
    world.clock.advance(1.5)
    assert world.try_enter(world.ticket())
    assert (1, 2) == (world.gate.snapshot().streams, world.gate.snapshot().running)
    for one in (first, second):
        world.gate.leave(one, is_honest=True)
    assert (0, 1) == (world.gate.snapshot().streams, world.gate.snapshot().running)


# Endings


async def test_after_the_end_nobody_waits_and_nobody_is_let_in() -> None:
    world = World()
    world.fill()
    task = world.waits(world.ticket())
    await world.settle()
    await world.gate.aclose()
    assert "closed" == await world.reason(task)
    assert "closed" == await world.reason(world.waits(world.ticket()))


async def test_who_is_cancelled_while_waiting_leaves_the_queue() -> None:
    world = World()
    world.fill()
    task = world.waits(world.ticket())
    await world.settle()
    task.cancel()
    await asyncio.wait({task})
    assert (0, 2) == (world.gate.snapshot().queued, world.gate.snapshot().running)


async def test_who_is_cancelled_between_admission_and_start_gives_the_permit_back() -> None:
    """[LifoBlockingLimiterTest.timeoutAcquireRaceCondition]"""
    world = World()
    tickets = world.fill()
    one = world.ticket()
    task = world.waits(one)
    await world.settle()
    world.gate.leave(tickets.pop(), is_honest=True)
    while one.decision is None or not one.decision.done():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert (0, 1) == (world.gate.snapshot().queued, world.gate.snapshot().running)


async def test_no_permit_is_lost_to_random_cancellations() -> None:
    """[ConcurrencyLimitServerInterceptorTest: releaseOnCancellation, releaseOnUncaughtException]"""
    world, random, done = World(initial_limit=4, most_limit=4, look_s=1e9), Random(3), Counter[str]()
    sync = world.gate.habits("/sync", rank=NORMAL, in_thread=True)
    heavy = world.gate.habits("/cpu", rank=NORMAL, cpu_bound=True)

    async def request() -> None:
        one = world.ticket(random.randrange(3), habits=random.choice([world.route, sync, heavy]))
        if not world.try_enter(one) and await world.gate.enter(one) is not None:
            done["refused"] += 1
            return
        try:
            for _ in range(random.randrange(6)):
                await asyncio.sleep(0)
            if random.random() < 0.2:
                raise LookupError
        finally:
            world.gate.leave(one, is_honest=random.random() < 0.5)

    tasks: set[asyncio.Task[None]] = set()
    for number in range(10_000):
        tasks.add(asyncio.create_task(request()))
        if len(tasks) >= 30:
            for task in random.sample(sorted(tasks, key=id), 3):
                task.cancel()
            for _ in range(8):
                await asyncio.sleep(0)
            tasks = {task for task in tasks if not task.done() or _note(task, done)}
        if number % 500 == 0:
            world.clock.advance(0.3)
    async with asyncio.timeout(30):
        while tasks:
            world.clock.advance(0.05)
            await asyncio.sleep(0)
            tasks = {task for task in tasks if not task.done() or _note(task, done)}
    snapshot = world.gate.snapshot()
    assert (0, 0) == (snapshot.running, snapshot.queued)
    assert [0, 0, 0] * len(snapshot.lanes) == [busy for lane in snapshot.lanes for busy in lane.running_by_class]
    assert done["cancelled"] > 500
    assert done["failed"] > 500


def _note(task: asyncio.Task[None], done: Counter[str]) -> bool:
    done["cancelled" if task.cancelled() else "failed" if task.exception() else "ended"] += 1
    return False


async def test_a_body_on_its_way_holds_no_permit_and_its_time_is_the_clients() -> None:
    world = World()
    slow = world.fill(2)
    for one in slow:
        world.gate.pause(one)
    others = world.fill(2)
    assert (2, 2) == (world.gate.reading, world.gate.snapshot().running)
    world.clock.advance(5)
    for one in slow:
        world.gate.resume(one)
    assert (0, 4, 5.0) == (world.gate.reading, world.gate.snapshot().running, slow[0].waited_s)
    for one in (*slow, *others):
        world.gate.leave(one, is_honest=True)
    assert 0 == world.gate.snapshot().running


async def test_a_permit_that_comes_free_by_a_slow_body_goes_to_whoever_waits() -> None:
    world = World()
    slow, _ = world.fill(2)
    waiting = world.ticket()
    task = world.waits(waiting)
    await world.settle()
    assert not task.done()
    world.gate.pause(slow)
    assert await world.reason(task) is None


async def test_what_waited_in_the_socket_while_nobody_accepted_is_as_young_as_the_worker() -> None:
    world = World()
    world.clock.advance(100)
    world.gate.open()
    now_s = world.clock.monotonic()
    assert (now_s, now_s + 3) == (world.gate.age_from(now_s - 8), world.gate.age_from(now_s + 3))


@pytest.mark.parametrize("calm", ["opening", "overlapping", None])
async def test_a_queue_that_stands_because_of_a_replacement_is_no_overload(calm: str | None) -> None:
    world = World(standing_s=0.1, alarm_s=0.1, alarm_requests=1, target_s=0.1, patience_s=1.0)
    if calm == "opening":
        world.gate.open()
    world.is_overlapping = calm == "overlapping"
    world.gate.look()
    one_by_one = world.gate.habits("/cpu", rank=NORMAL, cpu_bound=True)
    assert world.try_enter(world.ticket(habits=one_by_one))
    first = world.waits(world.ticket(habits=one_by_one))
    await world.settle()
    world.clock.advance(0.5)  # the queue has stood for half a second
    second = world.waits(world.ticket(habits=one_by_one))
    await asyncio.sleep(0.05)
    assert (calm is None, False) == (first.done(), second.done())
    await world.gate.aclose()
    await asyncio.gather(first, second)


async def test_whoever_waits_behind_slow_requests_is_not_refused_while_the_limit_was_only_set() -> None:
    """A cold worker and a route of two seconds: nothing has ended yet, and nothing is known."""
    world = World(patience_s=1.0)
    first, _ = world.fill()
    task = world.waits(world.ticket())
    await world.settle()
    world.clock.advance(2.0)
    await asyncio.sleep(0.05)
    assert not task.done()
    world.gate.leave(first, is_honest=True)
    assert await world.reason(task) is None


async def test_the_time_in_which_a_client_sent_its_body_teaches_nothing() -> None:
    world = World(most_limit=50, initial_limit=20)
    for _ in range(40):  # unpressed windows
        one = world.ticket()
        assert world.try_enter(one)
        world.gate.pause(one)
        world.clock.advance(3.0)
        world.gate.resume(one)
        world.clock.advance(0.25)
        world.gate.leave(one, is_honest=True)
    assert 0.25 == pytest.approx(world.route.times.unloaded_s)
