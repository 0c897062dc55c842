"""An application works without its lifespan too, as users' tests call it: services start at a loop's first request."""

from __future__ import annotations

import asyncio
import logging
import warnings
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket

from b1 import B1, Settings
from b1.runtime import Runtime
from tests.asgi.raw import lifespan

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have another client
    from starlette.testclient import TestClient

NO_SECRET = Settings()


class World:
    """An application with a profile, one with its own profile inside, and every runtime that was made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app, self.inner = FastAPI(), FastAPI()
        inner = self.inner
        self.b1 = B1(self.app, settings=NO_SECRET)
        self.inner_b1 = B1(inner, settings=NO_SECRET)
        self.app.mount("/inner", inner)
        self.made: list[Runtime] = []
        self.loads = 0
        self.fails = False
        whole = Runtime.start

        async def start(runtime: Runtime) -> None:
            self.made.append(runtime)
            await whole(runtime)
            if self.fails:
                raise RuntimeError("the slot folder cannot be used")

        monkeypatch.setattr(Runtime, "start", start)

        @self.app.get("/read")
        async def read() -> Any:
            return await self.b1.cache.get_or_load("key:1", self._load, ttl="warm")

        @self.app.get("/who")
        async def who() -> str:
            return self.b1.principal().actor

        @self.app.get("/raises")
        async def raises() -> None:
            raise LookupError("no such shelf")

        @self.app.get("/token")
        async def token() -> str:
            return self.b1.tokens.issue("ann", ttl_s=60)

        @inner.get("/read")
        async def inner_read() -> Any:
            return await self.inner_b1.cache.get_or_load("key:1", self._load, ttl="warm")

        @inner.websocket("/echo")
        @self.app.websocket("/echo")
        async def echo(socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text(await socket.receive_text())
            await socket.close()

    async def _load(self) -> int:
        self.loads += 1
        return self.loads

    def phases(self) -> list[str]:
        return [runtime.phase for runtime in self.made]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


class TestTheTestClientWithoutWith:
    def test_each_request_is_served_and_leaves_nothing(self, world: World) -> None:
        client = TestClient(world.app)
        answers = [client.get("/read") for _ in range(3)]
        assert [200, 200, 200] == [answer.status_code for answer in answers]
        assert ["99", "99", "99"] == [answer.headers["x-ratelimit-remaining"] for answer in answers]
        assert ["stopped"] * 3 == world.phases()

    def test_it_is_said_once(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        client = TestClient(world.app)
        with caplog.at_level(logging.WARNING, logger="b1"):
            client.get("/read")
            client.get("/read")
        told = [record.name for record in caplog.records]
        assert 1 == told.count("b1.lifespan")
        assert 1 == told.count("b1.runtime")  # no secret: made once, not for each request

    def test_a_token_of_one_request_is_good_in_the_next(self, world: World) -> None:
        client = TestClient(world.app)
        token = client.get("/token").json()
        assert "ann" == client.get("/who", headers={"Authorization": f"Bearer {token}"}).json()

    def test_what_a_handler_raises_reaches_the_test_as_without_b1(self, world: World) -> None:
        with pytest.raises(LookupError, match="no such shelf"):
            TestClient(world.app).get("/raises")
        answer = TestClient(world.app, raise_server_exceptions=False).get("/raises")
        assert (500, "INTERNAL_ERROR") == (answer.status_code, answer.json()["code"])
        assert ["stopped"] * 2 == world.phases()

    def test_a_websocket_is_served(self, world: World) -> None:
        with TestClient(world.app).websocket_connect("/echo") as socket:
            socket.send_text("hello")
            assert "hello" == socket.receive_text()

    def test_another_client_with_a_lifespan_goes_on_as_if_nothing_had_been(self, world: World) -> None:
        with TestClient(world.app) as client:
            client.get("/read")
            assert 200 == TestClient(world.app).get("/read").status_code
            assert "98" == client.get("/read").headers["x-ratelimit-remaining"]
        assert ["stopped"] * 2 == world.phases()
        assert 200 == TestClient(world.app).get("/read").status_code

    def test_a_start_that_fails_says_why_and_the_next_request_tries_again(self, world: World) -> None:
        world.fails = True
        client = TestClient(world.app)
        with pytest.raises(RuntimeError, match="the slot folder"):
            client.get("/read")
        world.fails = False
        assert 200 == client.get("/read").status_code
        assert ["stopped"] * 2 == world.phases()


class TestOneLoop:
    def test_first_requests_at_once_start_the_services_once(self, world: World) -> None:
        async def several() -> list[int]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="http://t") as client:
                answers = await asyncio.gather(*[client.get("/read") for _ in range(5)])
                answers.append(await client.get("/read"))
            return [answer.json() for answer in answers]

        assert [1] * 6 == asyncio.run(several())
        assert ["stopped"] == world.phases()

    def test_a_first_request_that_is_given_up_does_not_end_the_start(self, world: World) -> None:
        async def given_up() -> int:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="http://t") as client:
                first = asyncio.create_task(client.get("/read"))
                while not world.made:
                    await asyncio.sleep(0)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                return (await client.get("/read")).status_code

        assert 200 == asyncio.run(given_up())
        assert 1 == len(world.made)

    async def test_who_comes_after_the_lifespan_is_not_served_again(self, world: World) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="http://t") as client:
            async with lifespan(world.app):
                assert 200 == (await client.get("/read")).status_code
            assert 503 == (await client.get("/read")).status_code
        assert 1 == len(world.made)


class TestAnApplicationWithItsOwnProfileInside:
    async def test_it_is_served_by_the_outer_one_and_charged_once(self, world: World) -> None:
        async with (
            lifespan(world.app),
            httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="http://t") as client,
        ):
            answer = await client.get("/inner/read")
        assert (200, 1) == (answer.status_code, answer.json())
        assert 1 == len(answer.headers.get_list("x-request-id"))
        assert 1 == len(answer.headers.get_list("x-ratelimit-limit"))
        assert ["stopped"] == world.phases()

    def test_its_websockets_too(self, world: World) -> None:
        with TestClient(world.app) as client, client.websocket_connect("/inner/echo") as socket:
            socket.send_text("hello")
            assert "hello" == socket.receive_text()
        assert ["stopped"] == world.phases()

    def test_by_itself_it_is_served_by_its_own(self, world: World) -> None:
        assert 200 == TestClient(world.inner).get("/read").status_code
        assert 200 == TestClient(world.app).get("/inner/read").status_code
        assert 200 == TestClient(world.inner).get("/read").status_code
        assert ["stopped"] * 3 == world.phases()
