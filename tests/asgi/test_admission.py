"""The gate as HTTP sees it: refusals, classes of routes, and what becomes of work whose client is gone."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import Any

import pytest
from fastapi import FastAPI

from b1.admission import ARRIVALS_STATE, ARRIVED_KEY, LINE_KEY, AdmissionOptions, Arrivals, Gate, Line
from b1.asgi.middleware.admission import Admission
from b1.asgi.options import RouteOptions, declare
from b1.asgi.routes import RouteTable
from b1.clock import SystemClock
from b1.types import Message, Receive, Scope, Send
from b1.units import MIB
from tests.asgi.raw import App, Reply, Unreadable, call, http, inside, nothing


def on(line: Line) -> dict[str, Any]:
    """The scope's key for a request on this connection."""
    return {LINE_KEY: line}


def arrived(seconds: float) -> dict[str, Any]:
    """The scope's key for a request that arrived then."""
    return {ARRIVED_KEY: seconds}


class World:
    """The layer over work that ends when the test says so."""

    def __init__(self, *, limit: int = 2, **options: Any) -> None:
        self.is_running = True
        self.level = 0
        self.may_end = asyncio.Event()
        self.in_work = 0
        self.cancelled = 0
        numbers = AdmissionOptions(initial_limit=limit, least_limit=1, most_limit=limit, look_s=0.0, **options)
        self.gate = Gate(numbers, SystemClock(), level=lambda: self.level)
        self.layer = Admission(
            self._work, gate=self.gate, options=numbers, is_running=lambda: self.is_running, random=Random(1)
        )

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_work += 1
        try:
            await self.may_end.wait()
            if scope["path"] == "/fails":
                raise RuntimeError
            await App()(scope, receive, send)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_work -= 1

    async def call(
        self, path: str = "/", method: str = "GET", *, options: RouteOptions | None = None, **more: Any
    ) -> Reply:
        return await call(inside(self.layer, options=options), path, method, **more)

    async def begun(self, count: int, path: str = "/", method: str = "GET", **more: Any) -> list[asyncio.Task[Reply]]:
        """Have that many requests in work."""
        tasks = [asyncio.create_task(self.call(path, method, **more)) for _ in range(count)]
        while self.in_work < count:
            await asyncio.sleep(0)
        return tasks


async def test_a_service_that_does_not_run_is_not_ready() -> None:
    world = World()
    world.is_running = False
    reply = await world.call()
    assert (503, "NOT_READY", "1") == (reply.status, reply.code, reply.headers["retry-after"])


async def test_a_refusal_is_a_whole_problem_with_a_jittered_time_to_come_back() -> None:
    world = World()
    world.level = 4
    replies = [await world.call('/a"b') for _ in range(60)]
    assert {503} == {reply.status for reply in replies}
    times = {int(reply.headers["retry-after"]) for reply in replies}
    assert {1, 2, 3, 4, 5} == times
    [first, *_] = replies
    assert "connection" not in first.headers
    assert {
        "type": "urn:b1:error:overloaded", "title": "The service is at its limit", "status": 503, "code": "OVERLOADED",
        "detail": "The service is at its limit: repeat the request after the given time.", "instance": '/a"b',
        "requestId": "request-1", "retryAfter": int(first.headers["retry-after"]),
    } == first.json  # fmt: skip


async def test_one_more_than_the_limit_waits_for_its_turn() -> None:
    world = World()
    tasks = await world.begun(2)
    third = asyncio.create_task(world.call())
    while not world.gate.snapshot().queued:
        await asyncio.sleep(0)
    assert 2 == world.in_work
    world.may_end.set()
    assert [200, 200, 200] == [(await one).status for one in [*tasks, third]]


async def test_one_more_than_may_wait_is_refused() -> None:
    world = World(limit=1, queue_limit=1)
    [running] = await world.begun(1)
    waiting = asyncio.create_task(world.call())
    while not world.gate.snapshot().queued:
        await asyncio.sleep(0)
    assert "OVERLOADED" == (await world.call()).code
    world.may_end.set()
    assert [200, 200] == [(await one).status for one in (running, waiting)]


async def test_a_request_that_lay_too_long_in_the_kernel_is_refused() -> None:
    world = World()
    world.may_end.set()
    now_s = asyncio.get_running_loop().time()
    assert 503 == (await world.call(**arrived(now_s - 60.0))).status
    assert 200 == (await world.call(**arrived(now_s))).status
    assert (("normal", "age", 1),) == world.gate.snapshot().refused


async def test_a_request_whose_deadline_is_over_is_not_started() -> None:
    world = World(limit=1, patience_s=60.0)
    world.may_end.set()
    old_s = asyncio.get_running_loop().time() - 5.0
    assert 503 == (await world.call(options=RouteOptions(deadline_s=4.0), **arrived(old_s))).status
    assert (("normal", "deadline", 1),) == world.gate.snapshot().refused


@pytest.mark.parametrize("ending", ["fails", "cancelled", "leaves"])
async def test_every_ending_gives_the_permit_back(ending: str) -> None:
    world, line = World(limit=1), Line()
    [task] = await world.begun(1, "/fails" if ending == "fails" else "/", **on(line))
    if ending == "fails":
        world.may_end.set()
    elif ending == "cancelled":
        task.cancel()
    else:
        line.lost()
    await asyncio.wait({task})
    assert (ending == "fails") == (not task.cancelled() and task.exception() is not None)
    assert 0 == world.gate.snapshot().running
    world.may_end.set()
    assert 200 == (await world.call()).status


# Clients that hang up


@pytest.mark.parametrize(("method", "cancelled"), [("GET", 1), ("HEAD", 1), ("POST", 0), ("DELETE", 0)])
async def test_work_of_a_client_that_hung_up_is_cancelled_where_that_is_safe(method: str, cancelled: int) -> None:
    world, line = World(), Line()
    [task] = await world.begun(1, method=method, **on(line))
    line.lost()
    await asyncio.sleep(0)
    world.may_end.set()
    reply = await task  # returns: the cancellation was taken back, and nobody else hears of it
    assert (cancelled, 0 if cancelled else 1) == (world.cancelled, reply.starts)
    assert cancelled == dict(world.gate.snapshot().cancelled).get("client gone", 0)


async def test_a_request_whose_client_hung_up_in_the_queue_is_dropped_unstarted() -> None:
    world, line = World(limit=1), Line()
    [running] = await world.begun(1)
    waiting = asyncio.create_task(world.call(method="POST", **on(line)))
    while not world.gate.snapshot().queued:
        await asyncio.sleep(0)
    line.lost()
    assert 0 == (await waiting).starts
    world.may_end.set()
    assert 200 == (await running).status
    assert (("normal", "gone", 1),) == world.gate.snapshot().refused


async def test_somebody_elses_cancellation_is_not_taken_back() -> None:
    world, line = World(), Line()
    [task] = await world.begun(1, **on(line))
    line.lost()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_a_line_that_ends_after_its_request_cancels_nothing() -> None:
    world, line = World(), Line()
    world.may_end.set()
    assert 200 == (await world.call(**on(line))).status
    line.lost()
    await asyncio.sleep(0)
    assert (0, ()) == (world.cancelled, world.gate.snapshot().cancelled)


# Levels


async def test_in_an_emergency_sheddable_work_that_has_not_answered_gets_a_503() -> None:
    world = World(limit=4)
    [sheddable] = await world.begun(1, options=RouteOptions(admission="sheddable"))
    world.level = 5
    world.gate.look()
    reply = await sheddable
    assert (503, "OVERLOADED", 1) == (reply.status, reply.code, world.cancelled)


async def test_the_class_of_a_route_decides_what_is_refused() -> None:
    world = World()
    world.may_end.set()
    world.level = 2
    classes: list[Any] = ["critical", "normal", "sheddable", None]
    statuses = [(await world.call(options=RouteOptions(admission=name))).status for name in classes]
    assert [200, 200, 503, 200] == statuses


async def test_the_application_names_the_class_of_routes_that_declare_none() -> None:
    world = World()
    world.may_end.set()
    world.level = 4
    layer = Admission(
        world.layer._app,
        gate=world.gate,
        is_running=lambda: True,
        default_class=lambda context: "critical" if context.client == "203.0.113.1" else "normal",
    )
    statuses = [(await call(inside(layer, client=f"203.0.113.{number}"))).status for number in (1, 2)]
    assert [200, 503] == statuses


async def test_at_severe_a_large_body_is_refused_unread_and_the_connection_closed() -> None:
    world = World()
    world.may_end.set()
    world.level = 3
    world.gate.look()
    length = (b"content-length", str(MIB + 1).encode())
    refused = await world.call(method="POST", headers=[length], body=Unreadable())
    assert (503, "OVERLOADED", "close") == (refused.status, refused.code, refused.headers["connection"])
    small = await world.call(method="POST", headers=[(b"content-length", b"5")], body=b"hello")
    assert (200, 0) == (small.status, world.gate.snapshot().running)


async def test_at_severe_a_body_without_a_length_ends_where_it_becomes_large() -> None:
    world = World()
    world.may_end.set()
    world.level = 3
    world.gate.look()
    chunked = (b"transfer-encoding", b"chunked")
    with pytest.raises(Exception, match="large bodies"):
        await world.call(method="POST", headers=[chunked], body=[b"x" * MIB, b"x"])
    assert 200 == (await world.call(method="POST", headers=[chunked], body=[b"x" * MIB])).status
    assert 0 == world.gate.snapshot().running


# Others


async def test_the_fixed_bound_of_before_still_builds_a_gate() -> None:
    is_critical = False
    layer = Admission(App(), limit=1, is_running=lambda: True, is_critical=lambda: is_critical)
    assert 200 == (await call(inside(layer))).status


async def test_other_scopes_pass_untouched() -> None:
    app = App()
    layer = Admission(app, limit=1, is_running=lambda: False, is_critical=lambda: True)
    await layer({"type": "lifespan"}, nothing, nothing)
    assert [("lifespan", b"")] == app.seen


async def test_the_server_is_found_in_the_state_of_the_first_request() -> None:
    world, arrivals = World(), Arrivals(5.0)
    world.may_end.set()
    await world.call(state={ARRIVALS_STATE: arrivals})
    assert arrivals is world.gate.arrivals


async def test_random_requests_lose_no_permit() -> None:
    """Clients that leave, tasks that are cancelled, handlers that fail: afterwards the gate is as new."""
    random, gate = Random(5), Gate(AdmissionOptions(initial_limit=4, most_limit=4, target_s=9.0), SystemClock())

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(random.randrange(8)):
            await asyncio.sleep(0)
        if random.random() < 0.2:
            raise LookupError
        await App()(scope, receive, send)

    app = inside(Admission(work, gate=gate, is_running=lambda: True))

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        await asyncio.sleep(0)

    async def request(line: Line) -> None:
        method = random.choice(["GET", "POST"])
        await app(http("/", method, **on(line)), receive, send)

    endings = {"cancelled": 0, "failed": 0}
    for _ in range(150):
        lines = [Line() for _ in range(12)]
        tasks = [asyncio.create_task(request(line)) for line in lines]
        for _ in range(random.randrange(20)):
            await asyncio.sleep(0)
        for task, line in zip(tasks, lines, strict=True):
            match random.randrange(4):
                case 0:
                    task.cancel()
                case 1:
                    line.lost()
        async with asyncio.timeout(30):
            await asyncio.wait(tasks)
        endings["cancelled"] += sum(task.cancelled() for task in tasks)
        endings["failed"] += sum(not task.cancelled() and task.exception() is not None for task in tasks)
    assert (0, 0) == (gate.snapshot().running, gate.snapshot().queued)
    assert min(endings.values()) > 50


def test_a_route_knows_whether_it_runs_in_a_thread_and_what_it_declared() -> None:
    app = FastAPI()

    @app.get("/sync")
    def sync() -> None: ...

    @app.get("/async")
    async def waiting() -> None: ...

    app.get("/part")(partial(declare(waiting, admission="critical", cpu_bound=True)))
    routes = RouteTable.of(app)
    found = [routes.find("GET", path)[0] for path in ("/sync", "/async", "/part")]
    assert [True, False, False] == [route.in_thread for route in found]
    assert "critical" == routes.find("GET", "/async")[0].options.admission


def test_routes_that_do_not_match_are_made_once() -> None:
    app = FastAPI()

    @app.get("/a/{name}")
    async def one(name: str) -> None: ...

    @app.get("/b")
    async def two() -> None: ...

    routes = RouteTable.of(app)
    for path in ("/a/x", "/b", "/c"):
        assert routes.find("POST", path)[0] is routes.find("PUT", path)[0]


async def test_slow_uploads_do_not_take_the_places_of_others() -> None:
    world = World(limit=1)
    world.may_end.set()
    is_sent = asyncio.Event()

    async def slow_body() -> Message:
        await is_sent.wait()
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await receive()
        await App()(scope, receive, send)

    layer = Admission(work, gate=world.gate, options=world.layer._options, is_running=lambda: True, random=Random(1))

    async def slow_client(scope: Scope, receive: Receive, send: Send) -> None:
        await inside(layer)(scope, slow_body, send)

    upload = partial(call, slow_client, method="POST", headers=[(b"content-length", b"1")])
    uploads = [asyncio.create_task(upload()) for _ in range(5)]
    async with asyncio.timeout(10):
        while world.gate.reading < 5:
            await asyncio.sleep(0)
    assert 200 == (await call(inside(layer))).status
    is_sent.set()
    assert {200} == {reply.status for reply in await asyncio.gather(*uploads)}
    assert (0, 0) == (world.gate.reading, world.gate.snapshot().running)


async def test_bodies_on_their_way_have_a_bound() -> None:
    world = World(limit=4, most_reading=0)
    reply = await call(inside(world.layer), method="POST", headers=[(b"content-length", b"1")])
    assert (503, "OVERLOADED") == (reply.status, reply.code)
    assert 0 == world.gate.snapshot().running
