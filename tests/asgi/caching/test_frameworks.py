"""With FastAPI and its usual middlewares inside: what they add must not end up in somebody else's answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import FileResponse, StreamingResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from b1.asgi.caching.service import ResponseCache
from b1.asgi.middleware.cache import CacheLayer
from b1.asgi.middleware.observe import Observe
from b1.asgi.options import CacheOptions, Endpoint, declare
from b1.asgi.routes import RouteTable
from b1.cache import L1
from b1.clock import ManualClock
from b1.metrics import Metrics
from b1.types import ASGIApp, Principal, Receive, Scope, Send
from b1.units import MIB
from tests.asgi.caching.world import status_of
from tests.asgi.raw import ANN, BOB, Reply, call

LONG = "a text that repeats itself, " * 100


class Shop:
    """An application under the layer, as the stack would build it."""

    def __init__(self, app: FastAPI) -> None:
        clock = ManualClock()
        self.responses = ResponseCache(L1(4 * MIB, clock), clock)
        self.principal: Principal | None = ANN
        layer: ASGIApp = CacheLayer(app, responses=self.responses)

        async def identity(scope: Scope, receive: Receive, send: Send) -> None:
            scope["b1"].principal = self.principal
            await layer(scope, receive, send)

        self.app = Observe(identity, routes=RouteTable.of(app), metrics=Metrics(), clock=clock)

    async def get(self, path: str, **more: Any) -> Reply:
        return await call(self.app, path, **more)


def cached(**more: Any) -> Callable[[Endpoint], Endpoint]:
    return partial(declare, cache=CacheOptions(ttl_s=60, vary="organization", **more))


async def test_validation_errors_and_misses_are_everybodys_own() -> None:
    app = FastAPI()
    runs = []

    @app.get("/items/{number}")
    @cached(negative_ttl_s=5)
    async def item(number: int) -> dict[str, int]:
        runs.append(number)
        if number > 9:
            raise HTTPException(404)
        return {"number": number}

    shop = Shop(app)
    assert [422, 422] == [(await shop.get("/items/x")).status for _ in range(2)]
    replies = [await shop.get("/items/10") for _ in range(2)]
    assert ([404, 404], [10]) == ([reply.status for reply in replies], runs)
    assert {"number": 3} == (await shop.get("/items/3")).json
    assert "b1; hit" == status_of(await shop.get("/items/3"))[:7]
    assert 1 == (await shop.get("/items/3", query=b"a=1")).headers["content-type"].count("application/json")


async def test_a_gzip_middleware_inside_leaves_the_work_to_us() -> None:
    app = FastAPI()
    app.add_middleware(GZipMiddleware)

    @app.get("/long")
    @cached()
    async def long() -> str:
        return LONG

    shop = Shop(app)
    encodings = [
        (await shop.get("/long", headers=[(b"accept-encoding", accept)])).headers.get("content-encoding")
        for accept in (b"gzip", b"zstd", b"identity", b"gzip")
    ]
    assert ["gzip", "zstd", None, "gzip"] == encodings


async def test_a_cors_middleware_inside_gives_each_origin_its_own_answer() -> None:
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example", "https://b.example"])

    @app.get("/x")
    @cached()
    async def x() -> int:
        return 1

    shop = Shop(app)
    for _ in range(2):
        for origin in ("https://a.example", "https://b.example"):
            reply = await shop.get("/x", headers=[(b"origin", origin.encode())])
            assert origin == reply.headers["access-control-allow-origin"]
    assert 2 == shop.responses.counts.hits


async def test_dependencies_see_who_calls() -> None:
    app = FastAPI()

    @app.get("/me")
    @cached()
    async def me(authorization: str = Header()) -> str:
        return authorization

    assert "Bearer x" == (await Shop(app).get("/me", headers=[(b"authorization", b"Bearer x")])).json


async def test_links_to_the_host_are_those_of_the_server() -> None:
    app = FastAPI()

    @app.get("/link", name="link")
    @cached()
    async def link(request: Request) -> str:
        return str(request.url_for("link"))

    shop = Shop(app)
    evil = await shop.get("/link", headers=[(b"host", b"evil.example"), (b"x-forwarded-host", b"evil.example")])
    shop.principal = BOB
    assert ("http://test/link", evil.json) == ((await shop.get("/link")).json, "http://test/link")


async def test_streams_and_files_are_kept_whole(tmp_path: Any) -> None:
    app = FastAPI()
    (tmp_path / "f.txt").write_text(LONG)

    @app.get("/stream")
    @cached()
    async def stream() -> StreamingResponse:
        async def pieces() -> Any:
            for _ in range(3):
                yield b"piece"

        return StreamingResponse(pieces())

    @app.get("/file")
    @cached()
    async def file() -> FileResponse:
        return FileResponse(tmp_path / "f.txt", media_type="text/plain")

    shop = Shop(app)
    for path, body in (("/stream", b"piece" * 3), ("/file", LONG.encode())):
        replies = [await shop.get(path) for _ in range(2)]
        assert [body, body] == [reply.body for reply in replies]
        assert "b1; hit" == status_of(replies[1])[:7]


async def test_a_failure_is_answered_as_without_the_cache() -> None:
    app = FastAPI()

    @app.get("/broken")
    @cached()
    async def broken() -> int:
        raise RuntimeError

    replies = [await Shop(app).get("/broken") for _ in range(2)]
    assert [(500, 1), (500, 1)] == [(reply.status, reply.starts) for reply in replies]
