"""A cached handler that asks for what it never sees stops the start, and the message says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Cookie, Depends, FastAPI, Header, Query, Request, Security
from fastapi.security import APIKeyCookie, APIKeyHeader, APIKeyQuery, HTTPBearer
from pydantic import AliasChoices, BaseModel, Field
from starlette.applications import Starlette

from b1 import B1
from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.signatures import require_seen
from b1.errors import ConfigurationError

Endpoint = Callable[..., Any]
PROFILE = B1()


class Preferences(BaseModel):
    """Headers as a model."""

    x_theme: str = "plain"
    traceparent: str = ""


class Paging(BaseModel):
    """Query parameters as a model."""

    limit: int = 10
    after: Annotated[str, Field(alias="cursor")] = ""


def language(accept_language: Annotated[str, Header()] = "en") -> str:
    return accept_language


def below(spoken: Annotated[str, Depends(language)]) -> str:
    return spoken


async def by_header(accept_language: Annotated[str, Header()] = "en") -> None: ...
async def by_alias(mine: Annotated[str, Header(alias="X-Mine")] = "") -> None: ...
async def by_choice(mine: Annotated[str, Header(validation_alias=AliasChoices("X-A", "X-B"))] = "") -> None: ...
async def by_underscore(x_own: Annotated[str, Header(convert_underscores=False)] = "") -> None: ...
async def by_cookie(session: Annotated[str, Cookie()] = "") -> None: ...
async def by_model(preferences: Annotated[Preferences, Header()]) -> None: ...
async def by_model_or_none(preferences: Annotated[Preferences | None, Header()] = None) -> None: ...
async def by_dependency(spoken: Annotated[str, Depends(below)]) -> None: ...
async def by_parameter(q: str = "", limit: Annotated[int, Query()] = 10) -> None: ...
async def by_query_model(paging: Annotated[Paging, Query()]) -> None: ...
async def by_key_cookie(key: Annotated[str, Security(APIKeyCookie(name="session"))]) -> None: ...
async def by_key_header(key: Annotated[str, Security(APIKeyHeader(name="X-Key"))]) -> None: ...
async def by_key_query(key: Annotated[str, Security(APIKeyQuery(name="key"))]) -> None: ...
async def by_bearer(key: Annotated[str, Security(HTTPBearer())]) -> None: ...
async def by_what_is_seen(
    request: Request,
    authorization: Annotated[str, Header()] = "",
    x_organization_id: Annotated[str, Header()] = "",
    x_request_id: Annotated[str, Header()] = "",
    host: Annotated[str, Header()] = "",
    origin: Annotated[str, Header()] = "",
    q: str = "",
) -> None: ...


def check(endpoint: Endpoint, settings: ResponseCacheOptions | None = None, **options: Any) -> None:
    own = FastAPI()
    own.get("/x")(PROFILE.cached(ttl_s=60, **options)(_copy(endpoint)))
    require_seen(own, settings or ResponseCacheOptions())


def _copy(endpoint: Endpoint) -> Endpoint:
    """What is declared stays on the function."""
    import types

    made = types.FunctionType(endpoint.__code__, endpoint.__globals__, endpoint.__name__, endpoint.__defaults__)  # type: ignore[attr-defined]
    made.__annotations__, made.__kwdefaults__ = endpoint.__annotations__, endpoint.__kwdefaults__  # type: ignore[attr-defined]
    made.__qualname__ = endpoint.__qualname__
    return made


UNSEEN: list[tuple[Endpoint, dict[str, Any], str]] = [
    (by_header, {}, "the header 'accept-language' (in by_header)"),
    (by_alias, {}, "the header 'x-mine' (in by_alias)"),
    (by_choice, {}, "the header 'x-a' or 'x-b' (in by_choice)"),
    (by_underscore, {}, "the header 'x_own' (in by_underscore)"),
    (by_cookie, {}, "the cookie 'session' (in by_cookie)"),
    (by_model, {}, "the header 'x-theme' (in by_model)"),
    (by_model_or_none, {}, "the header 'x-theme' (in by_model_or_none)"),
    (by_dependency, {}, "the header 'accept-language' (in language)"),
    (by_parameter, {"query": ("q",)}, "the query parameter 'limit' (in by_parameter)"),
    (by_query_model, {"query": ("limit",)}, "the query parameter 'cursor' (in by_query_model)"),
    (by_key_cookie, {}, "the cookie 'session' (in APIKeyCookie)"),
    (by_key_header, {}, "the header 'x-key' (in APIKeyHeader)"),
    (by_key_query, {"query": ()}, "the query parameter 'key' (in APIKeyQuery)"),
]


@pytest.mark.parametrize(("endpoint", "options", "what"), UNSEEN)
def test_what_is_asked_for_and_never_seen_stops_the_start(
    endpoint: Endpoint, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigurationError) as stopped:
        check(endpoint, **options)
    assert f"/x asks for {what}" in str(stopped.value)
    assert "vary_headers" in str(stopped.value)


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        (by_header, {"vary_headers": ("Accept-Language",)}),
        (by_header, {"pass_headers": ("accept-language",)}),
        (by_alias, {"vary_headers": ("x-mine",)}),
        (by_choice, {"vary_headers": ("x-b",)}),
        (by_cookie, {"pass_headers": ("cookie",)}),
        (by_model, {"vary_headers": ("x-theme",)}),
        (by_model_or_none, {"vary_headers": ("x-theme",)}),
        (by_dependency, {"vary_headers": ("accept-language",)}),
        (by_parameter, {}),
        (by_parameter, {"query": ("limit", "q")}),
        (by_query_model, {"query": ("limit", "cursor")}),
        (by_key_cookie, {"pass_headers": ("cookie",)}),
        (by_key_query, {}),
        (by_bearer, {}),
        (by_what_is_seen, {}),
        (by_what_is_seen, {"vary": "public"}),
    ],
)
def test_what_is_declared_or_always_seen_does_not(endpoint: Endpoint, options: dict[str, Any]) -> None:
    check(endpoint, **options)


def test_origin_is_no_handlers_business_where_our_own_layer_does_the_cors() -> None:
    with pytest.raises(ConfigurationError, match="'origin'"):
        check(by_what_is_seen, ResponseCacheOptions(is_origin_keyed=False))


def test_dependencies_of_routers_and_of_the_application_count_and_all_are_named_once() -> None:
    app, router, inner = FastAPI(dependencies=[Depends(by_cookie)]), APIRouter(), FastAPI()

    @router.get("/a")
    @router.get("/b")
    @PROFILE.cached(ttl_s=60)
    async def cached() -> None: ...

    @inner.get("/c")
    @PROFILE.cached(ttl_s=60)
    async def mounted(x_mine: Annotated[str, Header()] = "") -> None: ...

    app.include_router(router, prefix="/v1", dependencies=[Depends(language)])
    app.mount("/inner", inner)
    with pytest.raises(ConfigurationError) as stopped:
        require_seen(app, ResponseCacheOptions())
    text = str(stopped.value)
    assert [1, 1, 1, 1, 1] == [
        text.count(part)
        for part in (
            "/v1/a asks for the cookie 'session'",
            "/v1/a asks for the header 'accept-language'",
            "/v1/b asks for the cookie 'session'",
            "/v1/b asks for the header 'accept-language'",
            "/inner/c asks for the header 'x-mine'",
        )
    ]


def test_routes_without_a_cache_or_without_get_may_ask_for_anything() -> None:
    app = FastAPI()
    app.get("/a")(_copy(by_cookie))
    app.post("/a")(PROFILE.cached(ttl_s=60)(_copy(by_cookie)))
    require_seen(app, ResponseCacheOptions())


def test_a_long_list_is_cut() -> None:
    app = FastAPI()
    for number in range(20):
        app.get(f"/{number}")(PROFILE.cached(ttl_s=60)(_copy(by_cookie)))
    with pytest.raises(ConfigurationError, match="; and 12 more"):
        require_seen(app, ResponseCacheOptions())


def test_what_is_no_fastapi_application_declares_nothing() -> None:
    async def bare(*_: Any) -> None: ...

    require_seen(bare, ResponseCacheOptions())
    require_seen(Starlette(), ResponseCacheOptions())
