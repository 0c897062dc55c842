"""An application that limits its routes with `B1`, without Redis: decorators, dependencies, WebSockets, the endpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect

from b1 import B1, Policy, PolicyTable, RateLimited, Settings
from b1.errors import ConfigurationError
from b1.types import ASGIApp, Message, Receive
from tests.asgi.raw import call, http, lifespan

TABLE = PolicyTable(
    (
        Policy("read", 6, 60),
        Policy("write", 5, 60),
        Policy("delete", 5, 60),
        Policy("public", 50, 60, scope="address"),
        Policy("health", 500, 60, scope="address"),
        Policy("search", 2, 60),
        Policy("chat", 2, 60),
    )
)


def application() -> tuple[ASGIApp, B1]:
    app = FastAPI()
    b1 = B1(app, policies=TABLE, settings=Settings())

    @app.get("/plain")
    async def plain() -> str:
        return "ok"

    @app.get("/replaced")
    @b1.limit("3/minute", by="address")
    async def replaced() -> str:
        return "ok"

    @app.get("/beside")
    @b1.limit("100/minute", with_default=True)
    async def beside() -> str:
        return "ok"

    @app.get("/keyed")
    @b1.limit("2/minute", by=lambda request: request.headers.get("x-api-key"))
    async def keyed() -> str:
        return "ok"

    @app.get("/burst")
    @b1.limit("1/day+3")
    async def burst() -> str:
        return "ok"

    @app.get("/depending", dependencies=[Depends(b1.limited("search"))])
    async def depending() -> StreamingResponse:
        async def pieces() -> Any:
            for _ in range(3):
                yield b"piece"

        return StreamingResponse(pieces())

    @app.get("/asking")
    async def asking() -> bool:
        return bool(await b1.allow("chat", "room:1"))

    @app.get("/taking")
    async def taking() -> None:
        await b1.take("chat", "room:2")

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.receive_text()
            try:
                await b1.take("chat", websocket)
            except RateLimited as refused:
                await websocket.close(1013, f"again in {refused.retry_after} s")
                return
            await websocket.send_text("heard")

    @app.websocket("/guarded", dependencies=[Depends(b1.limited("search"))])
    async def guarded(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    return app, b1


def _bodyless() -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return receive


async def statuses(app: ASGIApp, path: str, count: int, **more: Any) -> list[int]:
    return [(await call(app, path, **more)).status for _ in range(count)]


async def talk(app: ASGIApp, path: str, texts: int, client: str = "198.51.100.7") -> list[Message]:
    """Open a WebSocket, say something so often, and return what the application sent."""
    inbox: list[Message] = [
        {"type": "websocket.connect"},
        *[{"type": "websocket.receive", "text": "x"} for _ in range(texts)],
    ]
    inbox.append({"type": "websocket.disconnect", "code": 1000})
    sent: list[Message] = []

    async def receive() -> Message:
        return inbox.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {**http(path), "type": "websocket", "scheme": "ws", "client": (client, 1), "subprotocols": []}
    scope["extensions"] = {"websocket.http.response": {}}
    del scope["method"]
    with contextlib.suppress(WebSocketDisconnect):  # how an endpoint learns that its client left
        await app(scope, receive, send)
    return sent


async def test_a_rate_on_a_route_replaces_the_default() -> None:
    app, _ = application()
    async with lifespan(app):
        reply = await call(app, "/replaced")
        assert reply.headers["ratelimit-policy"] == '"replaced-60s";q=3;w=60'
        assert await statuses(app, "/replaced", 3) == [200, 200, 429]
        assert (await call(app, "/plain")).status == 200


async def test_another_address_has_a_quota_of_its_own() -> None:
    app, _ = application()
    async with lifespan(app):
        assert await statuses(app, "/replaced", 4) == [200, 200, 200, 429]
        assert await statuses(app, "/replaced", 1, client=("203.0.113.77", 1)) == [200]


async def test_beside_the_default_both_decide_together() -> None:
    app, _ = application()
    async with lifespan(app):
        assert await statuses(app, "/beside", 7) == [200] * 6 + [429]
        refused = await call(app, "/beside")
        assert refused.json["violated-policies"] == ["read"]
        assert {one["policy"]: one["used"] for one in refused.json["limits"]} == {"beside-60s": 6, "read": 6}


async def test_a_callable_says_what_is_counted() -> None:
    app, _ = application()
    async with lifespan(app):
        one, two = [(b"x-api-key", b"one")], [(b"x-api-key", b"two")]
        assert await statuses(app, "/keyed", 3, headers=one) == [200, 200, 429]
        assert await statuses(app, "/keyed", 3, headers=two) == [200, 200, 429]
        assert await statuses(app, "/keyed", 3) == [200, 200, 429]  # nothing said: by address


async def test_a_burst_passes_at_once() -> None:
    app, _ = application()
    async with lifespan(app):
        assert await statuses(app, "/burst", 4) == [200, 200, 200, 429]


async def test_a_dependency_decides_beside_the_route_and_headers_come_once() -> None:
    app, _ = application()
    async with lifespan(app):
        replies = [await call(app, "/depending") for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        assert [reply.headers["x-ratelimit-remaining"] for reply in replies] == ["1", "0", "0"]
        assert replies[0].body == b"piece" * 3
        assert (replies[2].code, replies[2].json["violated-policies"]) == ("RATE_LIMIT_EXCEEDED", ["search"])
        assert int(replies[2].headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", ["/depending", "/plain", "/replaced", "/beside"])
async def test_no_header_comes_twice(path: str) -> None:
    app, _ = application()
    starts: list[Message] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            starts.append(message)

    async with lifespan(app):
        for _ in range(8):  # the last ones are refusals
            await app(http(path), _bodyless(), send)
    assert len(starts) == 8
    for start in starts:
        names = Counter(name for name, _ in start["headers"] if b"ratelimit" in name or name == b"retry-after")
        assert names
        assert set(names.values()) == {1}


async def test_code_asks_by_name() -> None:
    app, b1 = application()
    async with lifespan(app):
        assert [(await call(app, "/asking")).body.decode() for _ in range(3)] == ["true", "true", "false"]
        assert await statuses(app, "/taking", 3) == [200, 200, 429]
        answers = [bool(await b1.allow("chat", "a job's key")) for _ in range(3)]  # outside of any request
        assert answers == [True, True, False]


async def test_messages_of_a_websocket_are_limited() -> None:
    app, _ = application()
    async with lifespan(app):
        sent = [message["type"] for message in await talk(app, "/socket", 3)]
        assert sent == ["websocket.accept", "websocket.send", "websocket.send", "websocket.close"]


async def test_a_dependency_refuses_a_websocket_before_the_handshake() -> None:
    app, _ = application()
    async with lifespan(app):
        for _ in range(2):
            assert (await talk(app, "/guarded", 0))[0]["type"] == "websocket.accept"
        start = (await talk(app, "/guarded", 0))[0]
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
        assert b"retry-after" in dict(start["headers"])


async def test_switched_off_everything_passes() -> None:
    app, b1 = application()
    b1.use(Settings(enable_rate_limiting=False))
    async with lifespan(app):
        assert {200} == set(await statuses(app, "/replaced", 5) + await statuses(app, "/depending", 5))
        assert {200} == set(await statuses(app, "/taking", 5))


async def test_a_misspelt_policy_of_a_decorator_stops_the_start() -> None:
    app, b1 = application()

    @b1.limit("raed")
    async def wrong() -> None: ...

    assert isinstance(app, FastAPI)
    app.add_api_route("/wrong", wrong)

    with pytest.raises((ConfigurationError, AssertionError)):
        async with lifespan(app):
            raise NotImplementedError


async def test_the_endpoint_shows_and_resets() -> None:
    app, _ = application()
    async with lifespan(app):
        await statuses(app, "/replaced", 4)
        query = b"address=203.0.113.9&policy=replaced-60s"
        shown = (await call(app, "/internal/limits", query=query)).json
        assert [(one["policy"], one["used"], one["remaining"]) for one in shown["states"]] == [("replaced-60s", 3, 0)]
        assert (await call(app, "/internal/limits", "DELETE", query=query)).status == 200
        assert (await call(app, "/replaced")).status == 200
        assert (await call(app, "/internal/limits", "POST")).status == 405
