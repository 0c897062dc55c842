"""The cheapest refusal: a bound on requests in work, a running service, and memory to work in."""

from __future__ import annotations

import asyncio

import pytest

from b1.asgi.middleware.admission import Admission
from b1.types import Receive, Scope, Send
from tests.asgi.raw import App, Reply, call, inside, nothing


class World:
    """The layer over work that ends when the test says so."""

    def __init__(self, *, limit: int = 2) -> None:
        self.is_running = True
        self.is_critical = False
        self.may_end = asyncio.Event()
        self.in_work = 0
        self.layer = Admission(
            self._work, limit=limit, is_running=lambda: self.is_running, is_critical=lambda: self.is_critical
        )

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_work += 1
        try:
            await self.may_end.wait()
            if scope["path"] == "/fails":
                raise RuntimeError
            await App()(scope, receive, send)
        finally:
            self.in_work -= 1

    async def call(self, path: str = "/") -> Reply:
        return await call(inside(self.layer), path)


@pytest.mark.parametrize(
    ("is_running", "is_critical", "code"), [(False, False, "NOT_READY"), (True, True, "OVERLOADED")]
)
async def test_what_cannot_be_served_is_503_with_retry_after(is_running: bool, is_critical: bool, code: str) -> None:
    world = World()
    world.is_running, world.is_critical = is_running, is_critical
    reply = await world.call()
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, code, "1")


async def test_one_more_than_the_limit_is_refused_and_those_in_work_are_answered() -> None:
    world = World(limit=2)
    first = [asyncio.create_task(world.call()) for _ in range(2)]
    while world.in_work < 2:
        await asyncio.sleep(0)
    refused = await world.call()
    assert (refused.status, refused.code, world.in_work) == (503, "OVERLOADED", 2)
    world.may_end.set()
    assert [200, 200, 200] == [(await one).status for one in first] + [(await world.call()).status]


async def test_failed_and_cancelled_work_makes_room_again() -> None:
    world = World(limit=1)
    cancelled = asyncio.create_task(world.call())
    while not world.in_work:
        await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    world.may_end.set()
    with pytest.raises(RuntimeError):
        await world.call("/fails")
    assert (await world.call()).status == 200


async def test_other_scopes_pass_untouched() -> None:
    app = App()
    layer = Admission(app, limit=0, is_running=lambda: False, is_critical=lambda: True)
    await layer({"type": "websocket"}, nothing, nothing)
    assert app.seen == [("websocket", b"")]
