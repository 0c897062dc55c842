"""What the service says of itself, tags for CDNs, options, and the way through a whole application."""

from __future__ import annotations

from typing import Any

import pytest

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.surrogate import header_value, surrogate_key, surrogate_keys
from b1.asgi.middleware.cache import CacheLayer
from b1.asgi.options import CacheOptions, RouteOptions, declared
from b1.asgi.routes import Route
from b1.cache import L1
from b1.cache.names import organization_tag
from b1.clock import ManualClock
from b1.declarations import Declarations
from b1.errors import ConfigurationError
from b1.types import Receive, Scope, Send
from b1.units import MIB
from tests.asgi.caching.world import ORGANIZATION, World, status_of
from tests.asgi.raw import App, call, inside


async def test_the_snapshot_counts_and_the_repr_tells() -> None:
    world = World()
    await world.get()
    await world.get()
    world.handler.headers = [(b"set-cookie", b"a=b")]
    await world.get("/other")
    snapshot = world.responses.snapshot()
    assert (1, 2, 1, {"cookie": 1}, 1) == (
        snapshot.hits, snapshot.misses, snapshot.stored, snapshot.unstorable, snapshot.routes
    )  # fmt: skip
    assert "<ResponseCache hits=1 misses=2 running=0 refreshing=0>" == repr(world.responses)


async def test_tags_stand_on_answers_for_a_cdn_when_that_is_switched_on() -> None:
    settings = ResponseCacheOptions(surrogate_header="Surrogate-Key", tag_header="Cache-Tag")
    world = World(settings=settings)
    for _ in range(2):
        headers = (await world.get()).headers
        keys = headers["surrogate-key"].split(" ")
        assert {"ledger:1", surrogate_key(organization_tag("1"))} <= set(keys)
        assert keys == headers["cache-tag"].split(",")
    assert "surrogate-key" not in (await World().get()).headers


def test_a_surrogate_key_cannot_break_out_of_its_header() -> None:
    hostile = ["a b", "a,b", "a\r\nset-cookie: x", "é", "", "x" * 300, "\ud800", "\x1fo1", "\x7f"]
    assert all(key.isascii() and key.isprintable() and not set(" ,") & set(key) for key in surrogate_keys(hostile))
    assert len(hostile) == len(surrogate_keys(hostile))
    assert "ledger:1" == surrogate_key("ledger:1")


def test_keys_that_do_not_fit_are_left_out_and_counted() -> None:
    assert (b"aa bb d", 1) == header_value(["aa", "bb", "ccc", "d"], " ", 7)


async def test_an_answer_of_several_pieces_is_sent_as_it_comes_and_kept_whole() -> None:
    runs = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        runs.append(1)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for piece in (b"a", b"b", b"c"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    world = World(app=app)
    first, second = await world.get(), await world.get()
    assert ([b"abc", b"abc"], 1) == ([first.body, second.body], len(runs))
    assert ("b1; fwd=uri-miss", "private, no-cache") == (status_of(first), first.headers["cache-control"])
    assert "etag" in second.headers


async def test_an_endless_answer_is_not_collected() -> None:
    settings = ResponseCacheOptions(answer_limit_bytes=1000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(50):
            await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
        await send({"type": "http.response.body"})

    world = World(app=app, settings=settings)
    assert (5000, {"size": 1}) == (len((await world.get()).body), world.responses.snapshot().unstorable)


async def test_events_pass_at_once() -> None:
    sent: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sent.append("start")
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})

    world = World(app=app)
    reply = await world.get()
    assert (b"data: 1\n\n", 0) == (reply.body, len(world.l1))


@pytest.mark.parametrize(
    "options",
    [
        {"ttl_s": -1}, {"ttl_s": float("nan")}, {"ttl_s": float("inf")}, {"ttl_s": 60, "stale_s": -1},
        {"ttl_s": 60, "vary": "everybody"}, {"ttl_s": 60, "vary": "public", "allow": lambda _: True},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_where_they_stand(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Declarations().cached(**options)


def test_the_decorator_leaves_its_note() -> None:
    def endpoint() -> None: ...

    Declarations().cached(ttl_s=5, vary="public", query=("a",), compress=False)(endpoint)
    assert CacheOptions(ttl_s=5, vary="public", query=("a",), compress=False) == declared(endpoint).cache


def test_a_wrong_route_is_found_before_its_first_request() -> None:
    world = World()
    with pytest.raises(ConfigurationError, match="unknown"):
        world.responses.prepare([Route("/x", RouteOptions(cache=CacheOptions(ttl_s=1, tags=("{unknown}",))))])


async def test_path_values_fill_tags() -> None:
    responses = World().responses
    route = Route("/items/{id:int}", RouteOptions(cache=CacheOptions(ttl_s=1, vary="public", tags=("item:{id}",))))
    from b1.asgi.context import RequestContext

    context = RequestContext("r", 0.0, route, {"id": "7"}, {})
    assert "item:7" in responses.plan_of(route).tags(context, "/items/7")


async def test_the_layer_can_be_made_of_a_map_alone() -> None:
    inner = App()
    layer = CacheLayer(inner, l1=L1(4 * MIB, ManualClock()))
    app = inside(layer, principal=None, options=RouteOptions(cache=CacheOptions(ttl_s=60, vary="public")))
    assert [200, 200] == [(await call(app)).status for _ in range(2)]
    assert 1 == inner.runs


async def test_under_memory_pressure_answers_are_given_and_not_kept() -> None:
    world = World(ORGANIZATION)
    world.l1.set_level(4)
    reply = await world.get()
    assert (b"ok", "b1; fwd=uri-miss", 0) == (reply.body, status_of(reply), world.responses.counts.stored)
