"""The route of a request is known before routing, and it is the one that the router will choose."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from b1.asgi.options import RouteOptions, declare, declared
from b1.asgi.routes import UNMATCHED, RouteTable
from tests.asgi.raw import App, call


def limited(name: str) -> Any:
    """Return an endpoint that declares the policy `name`, by which a test knows it again."""

    async def endpoint() -> str:
        return name

    return declare(endpoint, limits=(name,))


def table(*routes: tuple[str, str, str]) -> RouteTable:
    """Read an application with these (method, path, policy)."""
    return RouteTable.of(make_app(*routes))


def make_app(*routes: tuple[str, str, str]) -> FastAPI:
    app = FastAPI()
    for method, path, name in routes:
        app.add_api_route(path, limited(name), methods=[method])
    return app


def found(routes: RouteTable, method: str, path: str) -> tuple[str, tuple[str, ...] | None, dict[str, str]]:
    route, values = routes.find(method, path)
    return route.template, route.options.limits, dict(values)


class TestFinding:
    def test_a_path_without_parameters(self) -> None:
        assert found(table(("GET", "/a", "one")), "GET", "/a") == ("/a", ("one",), {})

    def test_a_path_with_parameters_and_their_values_as_text(self) -> None:
        routes = table(("GET", "/a/{id:int}/b/{name}", "one"))
        assert found(routes, "GET", "/a/7/b/x") == ("/a/{id:int}/b/{name}", ("one",), {"id": "7", "name": "x"})

    def test_each_method_has_its_own(self) -> None:
        routes = table(("GET", "/a", "read"), ("POST", "/a", "write"), ("GET", "/b/{x}", "r"), ("POST", "/b/{x}", "w"))
        assert ["read", "write", "r", "w"] == [
            found(routes, method, path)[1][0]  # type: ignore[index]
            for path in ("/a", "/b/1")
            for method in ("GET", "POST")
        ]

    @pytest.mark.parametrize("path", ["/nowhere", "/a/", "/A", "/a/b/c/d", "", "//a"])
    def test_no_route_is_unmatched(self, path: str) -> None:
        assert found(table(("GET", "/a", "one"), ("GET", "/a/{x}", "two")), "GET", path) == (UNMATCHED, None, {})

    @pytest.mark.parametrize(("path", "template"), [("/a", "/a"), ("/b/1", "/b/{x}")])
    def test_a_method_that_no_route_has_keeps_the_template_and_declares_nothing(self, path: str, template: str) -> None:
        routes = table(("GET", "/a", "one"), ("GET", "/b/{x}", "two"))
        assert found(routes, "DELETE", path) == (template, None, {})


class TestOrder:
    @pytest.mark.parametrize(
        "declared_as",
        [
            [("GET", "/a/{x}", "pattern"), ("GET", "/a/b", "static")],
            [("GET", "/a/b", "static"), ("GET", "/a/{x}", "pattern")],
            [("GET", "/a/{x}", "first"), ("GET", "/{y}/b", "second")],
            [("POST", "/a/{x}", "other method"), ("GET", "/a/b", "static")],
            [("GET", "/a/{x:path}", "path"), ("GET", "/a/b", "static")],
        ],
        ids=lambda routes: " ".join(name for *_, name in routes),
    )
    async def test_the_table_and_the_router_agree(self, declared_as: list[tuple[str, str, str]]) -> None:
        app = make_app(*declared_as)
        answered = (await call(app, "/a/b")).json
        assert (answered,) == RouteTable.of(app).find("GET", "/a/b")[0].options.limits


class TestNesting:
    def test_included_routers_bring_their_prefix(self) -> None:
        inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")
        inner.add_api_route("/{id}", limited("one"), methods=["GET"])
        outer.include_router(inner)
        app = FastAPI()
        app.include_router(outer, prefix="/v1")
        routes = RouteTable.of(app)
        assert found(routes, "GET", "/v1/outer/inner/7") == ("/v1/outer/inner/{id}", ("one",), {"id": "7"})

    def test_a_mounted_application_brings_its_routes(self) -> None:
        app = FastAPI()
        app.mount("/sub", make_app(("GET", "/a", "one")))
        assert found(RouteTable.of(app), "GET", "/sub/a") == ("/sub/a", ("one",), {})

    def test_a_mounted_application_without_routes_is_one_template(self) -> None:
        routes = RouteTable.of(Starlette(routes=[Mount("/files", App())]))
        assert [found(routes, "GET", path)[0] for path in ("/files/a", "/files/b/c", "/filesystem")] == [
            "/files/*",
            "/files/*",
            UNMATCHED,
        ]

    def test_starlettes_own_routes_are_read(self) -> None:
        async def endpoint(request: Any) -> PlainTextResponse:
            return PlainTextResponse("")

        routes = RouteTable.of(Starlette(routes=[Route("/a", declare(endpoint, limits=("one",)))]))
        assert [found(routes, method, "/a")[1] for method in ("GET", "HEAD")] == [("one",), ("one",)]

    def test_an_application_that_is_no_framework_has_no_routes(self) -> None:
        assert found(RouteTable.of(App()), "GET", "/a") == (UNMATCHED, None, {})


class TestDeclarations:
    def test_all_routes_are_listed_for_checks_at_start(self) -> None:
        routes = table(("GET", "/a", "one"), ("GET", "/b/{x}", "two"))
        names = {route.options.limits for route in routes.declarations()}
        assert {("one",), ("two",)} <= names

    def test_declarations_add_up_and_are_kept_on_the_function(self) -> None:
        endpoint = declare(limited("one"), deadline_s=2.0)
        assert declared(endpoint) == RouteOptions(limits=("one",), deadline_s=2.0)

    def test_whoever_declares_nothing_shares_the_same_nothing(self) -> None:
        assert declared(lambda: None) is declared(object())
