"""What the layers leave out for most requests changes nothing: each shorter way is compared with the longer one."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from b1.admission import AdmissionOptions, Gate
from b1.asgi import stack
from b1.asgi.context import LINES, RequestContext
from b1.asgi.deadlines import Deadlines
from b1.asgi.limits import CHARGED, Limits, policies_by_method
from b1.asgi.middleware.admission import Admission
from b1.asgi.middleware.deadline import Deadline
from b1.asgi.middleware.limiter import LimiterLayer
from b1.asgi.middleware.observe import Observe
from b1.asgi.options import RouteOptions
from b1.asgi.routes import NO_ROUTE, Route, RouteTable
from b1.clock import DEADLINE, SystemClock
from b1.limiter import Caller, Decision, Limiter, Policy, PolicyTable
from b1.metrics import Metrics
from b1.server.cycle import B1Cycle
from b1.store.memory import MemoryStore
from b1.testing import StoreHarness
from b1.types import ASGIApp, Message, Receive, Scope, Send
from b1.units import MIB
from tests.asgi.raw import ANN, App, Reply, call, http, inside, nothing

LENGTH = [(b"content-length", b"2")]
CALLER = Caller("203.0.113.9")
TABLE = PolicyTable((Policy("read", 3, 60), Policy("write", 2, 60), Policy("few", 1, 60, algorithm="concurrency")))


def in_between(app: ASGIApp) -> ASGIApp:
    """A layer that gives those below it a `send` of its own, and changes nothing."""

    async def layer(scope: Scope, receive: Receive, send: Send) -> None:
        async def own(message: Message) -> None:
            await send(message)

        await app(scope, receive, own)

    return layer


def served(app: ASGIApp, *, deadline_s: float, is_direct: bool, has_gate: bool = True, **more: stack.Layer) -> ASGIApp:
    """Return the layers that a deadline works with, with or without somebody in between."""
    routes = RouteTable([("/", None, Route("/", RouteOptions(deadline_s=deadline_s)), None)])
    clock, options = SystemClock(), AdmissionOptions(initial_limit=4, least_limit=1, most_limit=4)
    gate = partial(Admission, is_running=lambda: True, gate=Gate(options, clock), options=options)
    layers: list[tuple[str, stack.Layer]] = [
        ("observe", partial(Observe, routes=routes, metrics=Metrics(), clock=clock)),
        ("deadline", partial(Deadline, clock=clock, deadlines=Deadlines(), default_s=30.0)),
    ]
    if has_gate:
        layers.append(("admission", gate))
    if not is_direct:
        layers.append(("cache", in_between))
    return stack.build(app, [*layers, *more.items()])


BOTH = pytest.mark.parametrize("is_direct", [True, False], ids=["direct", "in between"])


@BOTH
class TestTheDeadline:
    async def test_work_that_takes_too_long_is_ended_and_answered_once(self, is_direct: bool) -> None:
        async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.Event().wait()

        reply = await call(served(stuck, deadline_s=0.01, is_direct=is_direct))
        assert (503, "DEADLINE_EXCEEDED", 1) == (reply.status, reply.code, reply.starts)

    async def test_an_answer_that_has_begun_is_not_ended(self, is_direct: bool) -> None:
        watched: list[Any] = []

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            watched.append(DEADLINE.get())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            watched.append(DEADLINE.get())
            await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b"late"})

        reply = await call(served(slow, deadline_s=0.01, is_direct=is_direct))
        assert (200, b"late") == (reply.status, reply.body)
        assert watched[0] is not None
        assert watched[1] is None

    async def test_the_deadline_ends_with_the_request(self, is_direct: bool) -> None:
        await call(served(App(), deadline_s=1.0, is_direct=is_direct))
        assert DEADLINE.get() is None

    async def test_a_cancellation_by_somebody_else_goes_through(self, is_direct: bool) -> None:
        begun = asyncio.Event()

        async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(call(served(stuck, deadline_s=30.0, is_direct=is_direct)))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_work_without_a_gate_is_ended_too(self, is_direct: bool) -> None:
        async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.Event().wait()

        reply = await call(served(stuck, deadline_s=0.01, is_direct=is_direct, has_gate=False))
        assert 503 == reply.status


async def test_work_in_a_task_of_its_own_is_what_is_ended() -> None:
    ended: list[str] = []

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(cast("Any", asyncio.current_task()).get_name())
            raise

    def spawning(app: ASGIApp) -> ASGIApp:
        """As the idempotency layer does: with a `send` of its own."""

        async def layer(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.create_task(cast("Any", in_between(app)(scope, receive, send)), name="own")

        return layer

    reply = await call(served(stuck, deadline_s=0.01, is_direct=True, idempotency=spawning))
    assert (503, 1, ["own"]) == (reply.status, reply.starts, ended)


class TestWhatIsLeftBehind:
    @pytest.fixture(autouse=True)
    def without_collector(self) -> Iterator[None]:
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    @BOTH
    async def test_nothing_of_a_request_waits_for_the_garbage_collector(self, is_direct: bool) -> None:
        seen: list[weakref.ref[Any]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            # The context has slots and no references to it can be weak: what only it and its ticket hold can.
            ticket = scope["b1"].ticket
            seen.append(weakref.ref(ticket))
            await App()(scope, receive, send)

        whole = served(app, deadline_s=1.0, is_direct=is_direct)
        await asyncio.create_task(self._one(whole))
        await asyncio.sleep(0)
        assert [None] == [one() for one in seen]

    async def _one(self, app: ASGIApp) -> None:
        assert 200 == (await call(app)).status


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        """Nothing to close."""


def cycle_of(transport: Transport, scope: Scope, *, keep_alive: bool) -> B1Cycle:
    return B1Cycle(
        scope=scope,
        transport=cast("Any", transport),
        flow=FlowControl(cast("Any", transport)),
        logger=logging.getLogger("test"),
        access_logger=logging.getLogger("test"),
        access_log=False,
        default_headers=[(b"date", b"Sat, 21 Nov 2026 12:00:00 GMT")],
        keep_alive=keep_alive,
    )


def limits_of(*, quota: int = 3) -> Limits:
    table = PolicyTable((Policy("read", quota, 60), Policy("write", 2, 60)))
    limiter = Limiter(MemoryStore(MIB, StoreHarness.clock_at_start()), table)
    return Limits(limiter, Metrics(), default=policies_by_method, upgrade_url="/plans")


Say = Callable[[RequestContext], None]


class TestTheHead:
    """Written out in one text for our server, field by field for any other: the bytes are the same."""

    async def written(self, say: Say, start: Message, *, as_lines: bool, method: str, keep_alive: bool) -> bytes:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            say(scope["b1"])
            await send(dict(start))
            await send({"type": "http.response.body", "body": b"" if start["status"] in (204, 304) else b"{}"})

        transport = Transport()
        scope = http("/", method, headers=[(b"x-request-id", b"request-0001")])
        cycle = cycle_of(transport, scope, keep_alive=keep_alive)
        layer = Observe(app, routes=RouteTable(()), metrics=Metrics(), clock=SystemClock())

        async def plain(message: Message) -> None:
            assert LINES not in message
            await cycle.send(message)

        await layer(scope, nothing, cycle.send if as_lines else plain)
        return transport.written

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("keep_alive", [True, False])
    @pytest.mark.parametrize("seed", range(12))
    async def test_is_the_same_byte_for_byte(self, seed: int, method: str, keep_alive: bool) -> None:
        limits = limits_of()
        random = Random(seed)
        decisions = [await limits.decide(("read",), CALLER) for _ in range(3)]
        say = partial(_say, limits, decisions, random.randrange(1 << 30))
        framed = random.choice(
            [[(b"content-length", b"2")], [], [(b"content-length", b"2"), (b"connection", b"close")]]
        )
        status = random.choice([200, 200, 404, 204])
        own_id = random.choice([[], [(b"x-request-id", b"of-the-application")]])
        headers = own_id if status == 204 else [*framed, *own_id, (b"content-type", b"application/json")]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        both = [
            await self.written(say, start, as_lines=as_lines, method=method, keep_alive=keep_alive)
            for as_lines in (True, False)
        ]
        assert both[0] == both[1]
        assert b"\r\nx-request-id: request-0001\r\n" in both[0]

    async def test_a_field_with_a_line_end_is_refused_and_answered_by_a_problem_document(self) -> None:
        limits = limits_of()
        decision = await limits.decide(("read",), CALLER)
        start = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1\r\nx-b: 2"), *LENGTH]}
        say = partial(_say, limits, [decision], 0)
        written = await self.written(say, start, as_lines=True, method="GET", keep_alive=True)
        assert b"x-b" not in written
        assert written.startswith(b"HTTP/1.1 500")
        assert 1 == written.count(b"\r\nx-request-id: request-0001\r\n")
        assert b'"code":"INTERNAL_ERROR"' in written

    async def test_an_error_after_the_head_was_written_starts_no_second_answer(self) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]}  # of two bytes
        written = await self.written(lambda _: None, start, as_lines=True, method="GET", keep_alive=True)
        assert 1 == written.count(b"HTTP/1.1")


def _say(limits: Limits, decisions: list[Decision], seed: int, context: RequestContext) -> None:
    """Do what layers and handlers do to what is added to an answer, in some order."""
    random = Random(seed)
    for number in range(random.randrange(5)):
        act = random.randrange(4)
        if act == 0:
            context.response_headers.append((b"x-%d" % number, b"1"))
        elif act == 1:
            context.tell(random.choice(decisions), limits)
        elif act == 2:
            context.response_headers += [(b"x-more", b"%d" % number)]
        else:
            context.response_headers[:] = [pair for pair in context.response_headers if pair[0] != b"x-1"]


class TestWhatIsTold:
    async def test_stands_where_it_was_told(self) -> None:
        limits = limits_of()
        decision = await limits.decide(("read",), CALLER)
        context = RequestContext("request-1", 0.0, NO_ROUTE, {}, {})
        context.response_headers.append((b"x-before", b"1"))
        context.tell(decision, limits)
        context.response_headers.append((b"x-after", b"1"))
        expected = [(b"x-before", b"1"), *limits.headers(decision), (b"x-after", b"1")]
        assert expected == context.response_headers
        assert b"x-request-id: request-1\r\n" == context.lines()

    async def test_is_written_once(self) -> None:
        limits = limits_of()
        decision = await limits.decide(("read",), CALLER)
        context = RequestContext("request-1", 0.0, NO_ROUTE, {}, {})
        context.tell(decision, limits)
        context.tell(decision, limits)
        assert limits.headers(decision) == context.added
        assert limits.lines(decision) + b"x-request-id: request-1\r\n" == context.lines()


class TestTheLimiter:
    """Where the store decides at once there is no coroutine, and everything else is as with one."""

    def layer(self, *, is_slow: bool) -> LimiterLayer:
        limiter = Limiter(MemoryStore(MIB, StoreHarness.clock_at_start()), TABLE)
        limits = Limits(limiter, Metrics(), default=policies_by_method, upgrade_url="/plans")
        if is_slow:
            limits.admit_now = lambda *_: None  # type: ignore[method-assign]
        return LimiterLayer(App(), limits=limits)

    async def replies(self, *, is_slow: bool, options: RouteOptions | None) -> list[Reply]:
        app = inside(self.layer(is_slow=is_slow), principal=ANN, options=options)
        return [await call(app, method=method) for method in ("GET", "POST", "GET", "GET", "GET", "POST", "POST")]

    @pytest.mark.parametrize(
        "options",
        [None, RouteOptions(limits=("read", "write")), RouteOptions(limits=()), RouteOptions(limits=("few",))],
    )
    async def test_answers_are_the_same(self, options: RouteOptions | None) -> None:
        quick, slow = [await self.replies(is_slow=is_slow, options=options) for is_slow in (False, True)]
        assert [(one.status, one.lines, one.body) for one in slow] == [
            (one.status, one.lines, one.body) for one in quick
        ]

    async def test_what_is_held_is_given_back(self) -> None:
        app = inside(self.layer(is_slow=False), principal=ANN, options=RouteOptions(limits=("few",)))
        assert [200, 200] == [(await call(app)).status for _ in range(2)]

    @pytest.mark.parametrize("is_slow", [False, True])
    async def test_the_handler_may_settle(self, is_slow: bool) -> None:
        layer = self.layer(is_slow=is_slow)
        charged: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            charged.append(CHARGED.get())
            layer._limits.settle("read", 0)
            await App()(scope, receive, send)

        layer._app = app
        whole = inside(layer, principal=ANN, options=RouteOptions(limits=("read",)))
        assert [200] * 5 == [(await call(whole)).status for _ in range(5)]  # more than the quota: each costs nothing
        assert ["read"] == list(charged[0].names)
