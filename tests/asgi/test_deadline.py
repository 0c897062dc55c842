"""The clock of the work: one end for everything that waits in it, and no answer is cut off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from b1.asgi.context import RequestContext
from b1.asgi.deadlines import Deadlines
from b1.asgi.middleware.deadline import Deadline
from b1.asgi.options import RouteOptions
from b1.clock import DEADLINE, ManualClock
from b1.types import ASGIApp, Receive, Scope, Send
from tests.asgi.raw import App, Reply, call, inside, nothing

AT_ONCE_S = 0.01


async def get(app: ASGIApp, *, options: RouteOptions | None = None, default_s: float = AT_ONCE_S, **more: Any) -> Reply:
    layer = Deadline(app, clock=ManualClock(monotonic=1000.0), deadlines=Deadlines(), default_s=default_s)
    return await call(inside(layer, options=options, **{"started_s": 1000.0, **more}))


async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def test_work_that_takes_too_long_is_503_with_retry_after() -> None:
    reply = await get(stuck)
    assert (reply.status, reply.code, reply.starts) == (503, "DEADLINE_EXCEEDED", 1)
    assert reply.headers["retry-after"] == "1"


async def test_the_handler_is_cancelled_and_may_clean_up() -> None:
    cleaned: list[str] = []

    async def careful(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("up")

    assert ((await get(careful)).status, cleaned) == (503, ["up"])


async def test_the_answer_may_not_be_stored() -> None:
    contexts: list[RequestContext] = []
    await get(stuck, contexts=contexts)
    assert not contexts[0].storable


class TestTheMomentOfTheEnd:
    async def seen(self, options: RouteOptions | None = None, **more: Any) -> float | None:
        found: list[float | None] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            found.append(DEADLINE.get())
            await App()(scope, receive, send)

        await get(app, options=options, default_s=30.0, **more)
        return found[0]

    async def test_everything_below_sees_it(self) -> None:
        assert await self.seen() == 1030.0

    async def test_the_routes_own_wins(self) -> None:
        assert await self.seen(RouteOptions(deadline_s=2.0)) == 1002.0

    async def test_what_the_request_waited_for_its_turn_is_part_of_it(self) -> None:
        assert await self.seen(started_s=990.0) == 1020.0

    async def test_nobody_sees_it_afterwards(self) -> None:
        await get(App())
        assert DEADLINE.get() is None

    async def test_the_handlers_tasks_see_it_too(self) -> None:
        found: list[float | None] = []

        async def child() -> None:
            found.append(DEADLINE.get())

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.create_task(child())
            await App()(scope, receive, send)

        await get(app, default_s=30.0)
        assert found == [1030.0]


async def test_an_answer_that_has_begun_is_not_interrupted() -> None:
    late = asyncio.Event()

    async def slow_stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        asyncio.get_running_loop().call_later(10 * AT_ONCE_S, late.set)
        await late.wait()
        await send({"type": "http.response.body", "body": b"last"})

    reply = await get(slow_stream)
    assert (reply.status, reply.body, reply.is_complete) == (200, b"first last", True)


async def test_a_timeout_of_the_handlers_own_is_its_own_error() -> None:
    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("the handler's own")

    with pytest.raises(TimeoutError, match="own"):
        await get(impatient, default_s=30.0)


async def test_a_client_that_leaves_is_no_deadline() -> None:
    task = asyncio.create_task(get(stuck, default_s=30.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_other_scopes_have_no_deadline() -> None:
    seen: list[float | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(DEADLINE.get())

    await Deadline(app, clock=ManualClock(), deadlines=Deadlines(), default_s=1.0)(
        {"type": "websocket"}, nothing, nothing
    )
    assert seen == [None]
