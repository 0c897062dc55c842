"""`B1` installs itself once, outermost, and the server calls the same stack whichever way it comes to it."""

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from b1 import B1, ConfigurationError, Settings
from b1.asgi.express import EXPRESS_STATE
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


async def got(served: ASGIApp, path: str, state: dict[str, Any] | None = None) -> httpx.Response:
    """Start `served`, ask once, stop it."""
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    answers: list[httpx.Response] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://t") as client:
                answers.append(await client.get(path))

    await served(
        {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {} if state is None else state}, receive, send
    )
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


class Around:
    """A wrapper that keeps what it wraps under a name of its own."""

    def __init__(self, wrapped: ASGIApp) -> None:
        self.other_asgi_app = wrapped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.other_asgi_app(scope, receive, send)


def closed_over(app: ASGIApp) -> ASGIApp:
    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return around


async def passing(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "a middleware": lambda app: CORSMiddleware(app, allow_origins=["*"]),
    "two": lambda app: GZipMiddleware(CORSMiddleware(app, allow_origins=["*"])),
    "a wrapper": Around,
    "a method": lambda app: Around(app).__call__,
    "a function": closed_over,
    "a partial": lambda app: partial(passing, app),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("is_wrapped", [False, True], ids=["installed", "wrapped"])
async def test_what_stands_around_a_profile_gets_no_second_one(name: str, is_wrapped: bool) -> None:
    app, profile = small(), B1(settings=SETTINGS)
    if is_wrapped:
        served = ensure_wrapped(WRAPPERS[name](profile.wrap(app)))
    else:
        profile.install(app)
        served = ensure_wrapped(WRAPPERS[name](app))
    answer = await got(served, "/where")
    assert (200, "99") == (answer.status_code, answer.headers["x-ratelimit-remaining"])
    assert 1 == len(answer.headers.get_list("x-ratelimit-limit"))


@pytest.mark.parametrize("name", WRAPPERS)
async def test_what_stands_around_an_application_without_one_gets_one(name: str) -> None:
    other = small()
    B1(other, settings=SETTINGS)  # of the same process, and not inside
    answer = await got(ensure_wrapped(WRAPPERS[name](small())), "/where")
    assert 1 == len(answer.headers.get_list("x-ratelimit-limit"))


async def test_the_short_way_does_not_pass_by_what_stands_around() -> None:
    app = small()
    B1(app, settings=SETTINGS)
    state: dict[str, Any] = {}
    await got(ensure_wrapped(Around(app)), "/where", state)
    assert state[EXPRESS_STATE] is None
    await got(ensure_wrapped(app), "/where", state := {})
    assert state[EXPRESS_STATE] is not None


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
