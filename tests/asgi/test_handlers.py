"""Every error of an application becomes a problem document, and an application's own handlers stay its own."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, field_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from b1.asgi.context import RequestContext
from b1.asgi.handlers import install_handlers
from b1.errors import RateLimited, RequestError
from b1.types import ASGIApp
from tests.asgi.raw import Reply, call, inside

JSON = (b"content-type", b"application/json")


class Teapot(RequestError):
    code, status, title = "TEAPOT", 418, "I am a teapot"


class Thing(BaseModel):
    name: str
    amount: int = 1

    @field_validator("name")
    @classmethod
    def _not_bad(cls, value: str) -> str:
        if value.startswith("bad"):
            raise ValueError(f"{value} is bad")
        return value


def make_app(**errors: Exception) -> FastAPI:
    """An application with a route per error, and one that wants a body."""
    app = FastAPI()

    @app.get("/fail/{name}")
    async def fail(name: str) -> None:
        raise errors[name]

    @app.post("/things")
    async def things(thing: Thing, limit: int = Query(1, le=10)) -> None:
        pass

    @app.post("/maps")
    async def maps(amounts: dict[str, int]) -> None:
        pass

    install_handlers(app)
    return app


async def fail(error: Exception) -> Reply:
    return await call(_quiet(make_app(it=error)), "/fail/it")


async def post(body: bytes, path: str = "/things", **more: Any) -> Reply:
    return await call(_quiet(make_app()), path, "POST", headers=[JSON], body=body, **more)


def _quiet(app: ASGIApp, contexts: list[RequestContext] | None = None) -> ASGIApp:
    """Starlette raises an unhandled error again after its answer, for the server's log."""

    async def quiet(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except (RuntimeError, ValueError):
            pass

    return inside(quiet, contexts=contexts)


class TestHttpExceptions:
    async def test_all_members_are_there(self) -> None:
        reply = await fail(HTTPException(404, "no such thing"))
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json == {
            "type": "urn:b1:error:not-found",
            "title": "Not Found",
            "status": 404,
            "detail": "no such thing",
            "code": "NOT_FOUND",
            "instance": "/fail/it",
            "requestId": "request-1",
        }

    async def test_its_headers_are_kept(self) -> None:
        reply = await fail(HTTPException(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
        assert (reply.code, reply.headers["www-authenticate"]) == ("UNAUTHENTICATED", 'Basic realm="x"')

    async def test_a_detail_that_is_no_text_goes_into_errors(self) -> None:
        reply = await fail(HTTPException(409, {"field": "name"}))
        assert (reply.code, reply.json["errors"]) == ("CONFLICT", {"field": "name"})

    async def test_half_a_character_in_a_detail_is_escaped(self) -> None:
        reply = await fail(HTTPException(418, "\ud800"))
        assert (reply.status, reply.json["detail"]) == (418, "\ud800")

    @pytest.mark.parametrize("status", [204, 205, 304])
    async def test_a_status_without_a_body_has_none(self, status: int) -> None:
        reply = await fail(HTTPException(status, headers={"ETag": '"1"'}))
        assert (reply.status, reply.body, reply.headers["etag"]) == (status, b"", '"1"')

    @pytest.mark.parametrize("status", [418, 451, 499, 520, 599])
    async def test_a_status_that_we_have_no_name_for_stays_that_status(self, status: int) -> None:
        reply = await fail(HTTPException(status))
        assert (reply.status, reply.code) == (status, f"HTTP_{status}")

    async def test_no_route_and_no_method_are_problems_too(self) -> None:
        app = _quiet(make_app())
        unknown, method = await call(app, "/nowhere"), await call(app, "/things", "PATCH")
        assert (unknown.status, unknown.code) == (404, "NOT_FOUND")
        assert (method.status, method.code, method.headers["allow"]) == (405, "METHOD_NOT_ALLOWED", "POST")


class TestInvalidRequests:
    async def test_broken_json_is_400(self) -> None:
        reply = await post(b'{"name": ')
        assert (reply.status, reply.code) == (400, "MALFORMED_REQUEST")

    async def test_wrong_types_are_422_and_say_where(self) -> None:
        reply = await post(b'{"name": 1, "amount": "many"}')
        assert (reply.status, reply.code) == (422, "VALIDATION_FAILED")
        assert [["body", "name"], ["body", "amount"]] == [error["loc"] for error in reply.json["errors"]]
        assert reply.json["detail"].startswith("body.name: ")

    async def test_the_input_is_not_sent_back(self) -> None:
        reply = await post(b'{"name": {"password": "hunter2"}}')
        assert reply.status == 422 and b"hunter2" not in reply.body

    async def test_many_errors_are_cut_to_twenty(self) -> None:
        reply = await post(b"{" + b",".join(b'"k%d": "x"' % n for n in range(100)) + b"}", "/maps")
        assert len(reply.json["errors"]) == 20

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b'{"name": "a", "amount": ' + b"9" * 5000 + b"}", id="a number of 5000 digits"),
            pytest.param(b"[" * 100_000, id="nesting without end"),
            pytest.param(b'{"name": "\xff"}', id="no UTF-8"),
            pytest.param(b'{"name": "a", "amount": NaN}', id="NaN"),
            pytest.param(b'{"amount": "\\ud800"}', id="half a character"),
            pytest.param(b'{"\\ud800": "x"}', id="half a character as a name"),
        ],
    )
    @pytest.mark.parametrize("path", ["/things", "/maps"])
    async def test_the_strangest_bodies_are_4xx_problems(self, body: bytes, path: str) -> None:
        reply = await post(body, path)
        assert reply.status in (400, 422) and reply.code is not None

    async def test_the_answer_says_nothing_about_the_handler_and_may_not_be_stored(self) -> None:
        contexts: list[RequestContext] = []
        await call(_quiet(make_app(), contexts), "/things", "POST", headers=[JSON], body=b"{}")
        assert not contexts[0].storable


class TestOurErrors:
    async def test_an_applications_own_leaf_of_the_tree_is_answered_by_its_code(self) -> None:
        reply = await fail(Teapot("short and stout"))
        assert (reply.status, reply.code, reply.json["detail"]) == (418, "TEAPOT", "short and stout")
        assert (reply.json["title"], reply.json["requestId"]) == ("I am a teapot", "request-1")

    async def test_waiting_is_told_in_header_and_body(self) -> None:
        reply = await fail(RateLimited(retry_after=2.1))
        assert (reply.headers["retry-after"], reply.json["retryAfter"]) == ("3", 3)

    async def test_a_refusal_by_the_handler_is_its_outcome(self) -> None:
        contexts: list[RequestContext] = []
        await call(_quiet(make_app(it=Teapot()), contexts), "/fail/it")
        assert (contexts[0].code, contexts[0].storable) == ("TEAPOT", True)

    async def test_what_nobody_expected_is_500_without_its_words(self) -> None:
        reply = await fail(RuntimeError("password=hunter2"))
        assert (reply.status, reply.code) == (500, "INTERNAL_ERROR")
        assert b"hunter2" not in reply.body


class TestInstalling:
    async def test_an_applications_own_handlers_stay(self) -> None:
        app = make_app(it=HTTPException(404))

        async def own(request: Request, error: Exception) -> PlainTextResponse:
            return PlainTextResponse("mine", 404)

        own_app = FastAPI(exception_handlers={HTTPException: own, Teapot: own})
        own_app.router.routes.extend(app.router.routes)
        install_handlers(own_app)
        assert (await call(_quiet(own_app), "/fail/it")).body == b"mine"

    async def test_starlette_without_fastapi_has_problems_too(self) -> None:
        async def teapot(request: Request) -> PlainTextResponse:
            raise Teapot

        app = Starlette(routes=[Route("/", teapot)])
        install_handlers(app)
        assert [(await call(_quiet(app), path)).code for path in ("/", "/nowhere")] == ["TEAPOT", "NOT_FOUND"]
