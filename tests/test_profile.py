"""`B1` installs itself once, outermost, and the server calls the same stack whichever way it comes to it."""

import sys
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from b1 import B1, ConfigurationError, Settings
from b1.errors import NotRunning
from b1.profile import ensure_wrapped
from b1.types import ASGIApp, Message, Receive, Scope, Send

SETTINGS = Settings()


def small(root_path: str = "") -> FastAPI:
    app = FastAPI()
    app.root_path = root_path  # as a parameter it is deprecated, and applications in the field still have it

    @app.get("/where")
    async def where(request: Request) -> dict[str, Any]:
        return {"root": request.scope.get("root_path"), "is_app": request.scope["app"] is app, "url": str(request.url)}

    return app


async def got(served: ASGIApp, path: str) -> httpx.Response:
    """Start `served`, ask once, stop it."""
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    answers: list[httpx.Response] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://t") as client:
                answers.append(await client.get(path))

    await served({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return answers[0]


async def test_the_server_calls_the_stack_and_the_application_is_found_in_it() -> None:
    app = small(root_path="/api")
    B1(app, settings=SETTINGS)
    served = ensure_wrapped(app)
    assert served is not app
    answer = await got(served, "/where")
    assert {"root": "/api", "is_app": True, "url": "http://t/where"} == answer.json()
    assert "x-ratelimit-limit" in answer.headers


async def test_the_application_itself_answers_the_same() -> None:
    app = small(root_path="/api")
    B1(app, settings=SETTINGS)
    assert (await got(ensure_wrapped(app), "/where")).json() == (await got(app, "/where")).json()


def test_with_opentelemetry_loaded_the_application_is_called_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", ModuleType("opentelemetry.sdk"))
    app = small()
    B1(app, settings=SETTINGS)
    assert ensure_wrapped(app) is app


async def test_an_application_without_a_profile_gets_one() -> None:
    app = small()
    served = ensure_wrapped(app)
    assert 200 == (await got(served, "/live")).status_code
    assert ensure_wrapped(served) is served


async def test_any_asgi_application_can_be_wrapped() -> None:
    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    served = ensure_wrapped(raw)
    answer = await got(served, "/anything")
    assert (204, True) == (answer.status_code, "x-request-id" in answer.headers)


def test_a_second_profile_and_a_foreign_object_are_refused() -> None:
    app = small()
    B1(app, settings=SETTINGS)
    with pytest.raises(ConfigurationError, match="profile already"):
        B1(app, settings=SETTINGS)
    with pytest.raises(ConfigurationError, match=r"b1\.wrap"):
        B1(settings=SETTINGS).install(object())


def test_services_exist_only_while_the_application_runs() -> None:
    profile = B1(small(), settings=SETTINGS)
    with pytest.raises(NotRunning):
        _ = profile.db
    with pytest.raises(NotRunning):
        profile.principal()


async def test_a_misspelt_policy_stops_the_start() -> None:
    app = FastAPI()
    profile = B1(app, settings=SETTINGS)

    @app.get("/x")
    @profile.limit("entitties")
    async def x() -> None: ...

    with pytest.raises(ConfigurationError, match="entitties"):
        await got(app, "/x")
