"""Our services live around the application's own start and stop, whatever the application makes of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from fastapi import FastAPI

from b1.asgi.lifespan import Lifespan
from b1.types import ASGIApp, Message, Receive, Scope, Send
from tests.asgi.raw import LIMIT_S


class Services:
    """Notes what is asked of it; may fail to start."""

    def __init__(self, log: list[str], *, failing: bool = False) -> None:
        self.log = log
        self._failing = failing

    def join(self, server: Mapping[str, Any]) -> None:
        self.log += server.get("b1.succession", [])

    async def start(self) -> None:
        self.log.append("our start")
        if self._failing:
            raise RuntimeError("the slot folder cannot be used")

    async def take_over(self) -> None:
        self.log.append("taken over")

    def mark_ready(self) -> None:
        self.log.append("ready")

    def watch_stop(self, begun: asyncio.Event) -> None:
        self.log.append("watched")

    async def aclose(self) -> None:
        if self.log[-1] != "our end":  # closing twice is harmless
            self.log.append("our end")


def fastapi_app(log: list[str], *, fails_at: str = "") -> ASGIApp:
    """An application that notes its own start and end."""

    @contextlib.asynccontextmanager
    async def own(_: FastAPI) -> AsyncIterator[None]:
        log.append("its start")
        if fails_at == "start":
            raise RuntimeError("as asked for")
        yield
        log.append("its end")
        if fails_at == "end":
            raise RuntimeError("as asked for")

    return FastAPI(lifespan=own)


async def live(
    app: ASGIApp, log: list[str], *, failing: bool = False, state: dict[str, Any] | None = None
) -> list[str]:
    """Run the whole protocol as a server does; return the kinds of the answers."""
    answers: asyncio.Queue[str] = asyncio.Queue()
    requests: asyncio.Queue[Message] = asyncio.Queue()
    given: list[str] = []

    async def send(message: Message) -> None:
        await answers.put(message["type"])

    async def run() -> None:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {} if state is None else state}
        try:
            await Lifespan(app, Services(log, failing=failing))(scope, requests.get, send)
        except Exception as error:
            await answers.put(f"raised {error}")
        await answers.put("over")

    task = asyncio.create_task(run())
    await requests.put({"type": "lifespan.startup"})
    async with asyncio.timeout(LIMIT_S):
        while (answer := await answers.get()) != "over":
            given.append(answer)
            if answer == "lifespan.startup.complete":
                log.append("serving")
                await requests.put({"type": "lifespan.shutdown"})
        await task
    return given


WHOLE_LIFE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]
OURS_ALONE = ["our start", "taken over", "ready", "serving", "our end"]


async def test_our_services_start_before_the_application_and_stop_after_it() -> None:
    log: list[str] = []
    assert await live(fastapi_app(log), log) == WHOLE_LIFE
    assert log == ["our start", "its start", "taken over", "ready", "serving", "its end", "our end"]


class TestApplicationsWithoutALifespan:
    async def test_one_that_raises_gets_ours_alone(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"

        log: list[str] = []
        assert await live(app, log) == WHOLE_LIFE
        assert log == OURS_ALONE

    async def test_one_that_returns_without_a_word_gets_ours_alone(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return

        log: list[str] = []
        assert await live(app, log) == WHOLE_LIFE
        assert log == OURS_ALONE

    async def test_one_that_raises_at_the_message_gets_ours_alone(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            message = await receive()
            raise NotImplementedError(message["type"])

        log: list[str] = []
        assert await live(app, log) == WHOLE_LIFE
        assert log == OURS_ALONE


class TestFailures:
    async def test_a_failed_start_of_the_application_fails_and_closes_our_services(self) -> None:
        log: list[str] = []
        answers = await live(fastapi_app(log, fails_at="start"), log)
        assert answers[0] == "lifespan.startup.failed"
        assert log == ["our start", "its start", "our end"]

    async def test_a_failed_start_of_ours_is_no_start(self) -> None:
        log: list[str] = []
        answers = await live(fastapi_app(log), log, failing=True)
        assert answers[0] == "lifespan.startup.failed"
        assert log == ["our start", "our end"]

    async def test_a_failed_start_of_ours_is_no_start_without_a_lifespan_either(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            return

        log: list[str] = []
        assert await live(app, log, failing=True) == ["lifespan.startup.failed"]
        assert log == ["our start", "our end"]

    async def test_an_application_that_reports_our_failure_itself_is_believed_once(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await receive()
            except RuntimeError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})

        log: list[str] = []
        assert await live(app, log, failing=True) == ["lifespan.startup.failed"]

    async def test_a_failed_end_of_the_application_still_closes_our_services(self) -> None:
        log: list[str] = []
        answers = await live(fastapi_app(log, fails_at="end"), log)
        assert answers[1] == "lifespan.shutdown.failed"
        assert log[-2:] == ["its end", "our end"]

    @pytest.mark.parametrize("how", ["returns", "raises"])
    async def test_an_end_without_a_word_still_closes_our_services(self, how: str) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            if how == "raises":
                raise RuntimeError("as asked for")

        log: list[str] = []
        await live(app, log)
        assert log == OURS_ALONE


async def test_the_servers_word_that_a_stop_has_begun_is_watched() -> None:
    log: list[str] = []
    await live(fastapi_app(log), log, state={"b1.stopping": asyncio.Event()})
    assert log.index("watched") == log.index("ready") + 1


async def test_the_succession_is_known_before_our_start() -> None:
    log: list[str] = []
    await live(fastapi_app(log), log, state={"b1.succession": ["joined"]})
    assert ["joined", "our start", "its start", "taken over", "ready"] == log[:5]
