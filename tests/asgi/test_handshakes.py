"""WebSockets at the gate: a permit for the handshake, none for what it opens, and a refusal that says 503."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest

from b1.admission import AdmissionOptions, Gate
from b1.asgi.middleware.admission import Admission
from b1.asgi.options import RouteOptions
from b1.asgi.routes import Route, RouteTable
from b1.clock import SystemClock
from b1.types import Message, Receive, Scope, Send

VITAL = Route("/vital", RouteOptions(admission="critical"))
ANSWERS_HANDSHAKES: dict[str, Any] = {"websocket.http.response": {}}


class Socket:
    """One WebSocket's server side as the application sees it, and what was said on it."""

    def __init__(self, world: World, path: str = "/ws", *, extensions: dict[str, Any] | None = None) -> None:
        self.sent: list[Message] = []
        self.said: asyncio.Queue[Message] = asyncio.Queue()
        self.said.put_nowait({"type": "websocket.connect"})
        scope: Scope = {"type": "websocket", "path": path, "headers": [], "extensions": extensions}
        self.task = asyncio.create_task(world.layer(scope, self.said.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.sent]

    def hang_up(self) -> None:
        self.said.put_nowait({"type": "websocket.disconnect", "code": 1001})


class World:
    """The layer over an application that looks something up, accepts, and echoes until its client leaves."""

    def __init__(self, *, limit: int = 2, **options: Any) -> None:
        self.is_running = True
        self.level = 0
        self.may_accept = asyncio.Event()
        self.may_accept.set()
        self.refuses = self.fails = False
        numbers = AdmissionOptions(
            initial_limit=limit, least_limit=1, most_limit=limit, look_s=0.0, shares=(0.1, 0.1, 0.1), **options
        )
        self.gate = Gate(numbers, SystemClock(), level=lambda: self.level)
        self.layer = Admission(
            self._serve,
            gate=self.gate,
            options=numbers,
            is_running=lambda: self.is_running,
            random=Random(1),
            routes=RouteTable([("/vital", None, VITAL, None)]),
        )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await self.may_accept.wait()
        if self.refuses:
            await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "websocket.accept"})
        if self.fails:
            raise RuntimeError
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": "echo"})

    @property
    def counts(self) -> tuple[int, int]:
        """Permits that are out, and open sockets."""
        snapshot = self.gate.snapshot()
        return snapshot.running, snapshot.sockets

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def opened(self, count: int) -> list[Socket]:
        sockets = [Socket(self) for _ in range(count)]
        while self.gate.snapshot().sockets < count:
            await asyncio.sleep(0)
        return sockets


async def test_an_open_socket_is_counted_and_holds_no_permit() -> None:
    world = World(limit=2)
    sockets = await world.opened(10)
    assert (0, 10) == world.counts
    for socket in sockets:
        socket.hang_up()
        await socket.task
    assert (0, 0) == world.counts


async def test_a_handshake_holds_a_permit_and_the_next_one_waits_for_it() -> None:
    world = World(limit=1)
    world.may_accept.clear()
    first, second = Socket(world), Socket(world)
    await world.settle()
    assert ((1, 0), 1) == (world.counts, world.gate.snapshot().queued)
    world.may_accept.set()
    while world.counts != (0, 2):
        await asyncio.sleep(0)
    for socket in (first, second):
        socket.hang_up()
        await socket.task
    assert (0, 0) == world.counts


@pytest.mark.parametrize("ending", ["refuses", "fails", "cancelled early", "cancelled late"])
async def test_every_ending_gives_permit_and_place_back(ending: str) -> None:
    world = World()
    world.refuses, world.fails = ending == "refuses", ending == "fails"
    if ending == "cancelled early":
        world.may_accept.clear()
    socket = Socket(world)
    await world.settle()
    if ending.startswith("cancelled"):
        socket.task.cancel()
    await asyncio.wait([socket.task])
    assert (ending == "fails") == (not socket.task.cancelled() and socket.task.exception() is not None)
    assert (0, 0) == world.counts


async def test_a_refused_handshake_is_answered_with_503_where_the_server_can() -> None:
    world = World()
    world.level = 4
    socket = Socket(world, extensions=ANSWERS_HANDSHAKES)
    await socket.task
    assert ["websocket.http.response.start", "websocket.http.response.body"] == socket.types
    start, body = socket.sent
    headers = dict(start["headers"])
    problem = json.loads(body["body"])
    assert (503, 503, "OVERLOADED") == (start["status"], problem["status"], problem["code"])
    assert headers[b"retry-after"].decode() == str(problem["retryAfter"])
    assert (("normal", "memory", 1),) == world.gate.snapshot().refused


async def test_and_closed_with_1013_where_it_cannot() -> None:
    world = World()
    world.level = 4
    socket = Socket(world)
    await socket.task
    assert [{"type": "websocket.close", "code": 1013, "reason": "the service is at its limit"}] == socket.sent


async def test_a_critical_socket_is_opened_at_the_critical_level() -> None:
    world = World()
    world.level = 4
    socket = Socket(world, "/vital")
    await world.settle()
    assert (0, 1) == world.counts
    socket.hang_up()
    await socket.task


async def test_open_sockets_are_bounded() -> None:
    world = World(most_sockets=3)
    sockets = await world.opened(3)
    fourth = Socket(world, extensions=ANSWERS_HANDSHAKES)
    await fourth.task
    assert (503, (("normal", "full", 1),)) == (fourth.sent[0]["status"], world.gate.snapshot().refused)
    for socket in sockets:
        socket.hang_up()
        await socket.task


async def test_a_service_that_does_not_run_refuses_handshakes_too() -> None:
    world = World()
    world.is_running = False
    socket = Socket(world, extensions=ANSWERS_HANDSHAKES)
    await socket.task
    assert (503, "NOT_READY") == (socket.sent[0]["status"], json.loads(socket.sent[1]["body"])["code"])
