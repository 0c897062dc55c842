"""Nobody can put anything into an answer that another one gets: what is not in the key does not reach the handler."""

from __future__ import annotations

import random

import pytest

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.plan import RoutePlan
from b1.asgi.options import CacheOptions, RouteOptions
from b1.asgi.routes import Route
from b1.types import Principal, Scope
from tests.asgi.caching.world import ORGANIZATION, PUBLIC, Lines, World
from tests.asgi.raw import ANN, BOB, http

EVIL = [
    b"host", b"x-forwarded-host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-prefix", b"x-forwarded-scheme",
    b"x-forwarded-port", b"forwarded", b"x-host", b"x-original-url", b"x-rewrite-url", b"x-http-method-override",
    b"x-real-ip", b"true-client-ip", b"cookie", b"user-agent", b"referer", b"accept", b"accept-language", b"accept-charset",
    b"accept-encoding", b"x-anything", b"te", b"via", b"if-none-match", b"content-disposition",
]  # fmt: skip


def echo(scope: Scope) -> tuple[int, Lines, bytes]:
    """Reflect the whole request, as the worst handler would."""
    seen = b"\n".join(name + b": " + value for name, value in scope["headers"])
    return 200, [(b"x-seen", seen.replace(b"\n", b" "))], seen + b"\n" + scope["query_string"]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("options", [ORGANIZATION, PUBLIC], ids=["organization", "public"])
async def test_an_unkeyed_header_reaches_nobody_and_makes_no_new_entry(name: bytes, options: CacheOptions) -> None:
    world = World(options)
    world.handler.answer = echo
    attacker, victim = (BOB, ANN) if options is ORGANIZATION else (None, None)
    first = await world.get(principal=attacker, headers=[(name, b"evil.example")])
    second = await world.get(principal=victim, headers=[(name, b"good.example")])
    assert 1 == world.runs
    assert "evil.example" not in f"{first.body!r}{second.body!r}{second.headers}"


async def test_a_declared_header_is_seen_and_keyed() -> None:
    world = World(CacheOptions(ttl_s=60, vary="organization", vary_headers=("Host",)))
    world.handler.answer = echo
    replies = [await world.get(headers=[(b"host", host)]) for host in (b"a.example", b"b.example", b"a.example")]
    assert (2, replies[0].body) == (world.runs, replies[2].body)
    assert b"a.example" in replies[0].body


async def test_a_passed_header_is_seen_and_not_keyed() -> None:
    world = World(CacheOptions(ttl_s=60, pass_headers=("X-Api-Version",)))
    for version in (b"1", b"2"):
        await world.get(headers=[(b"x-api-version", version)])
    assert (1, b"1") == (world.runs, world.handler.header(b"x-api-version"))


async def test_the_caller_is_seen_because_it_is_keyed() -> None:
    world = World()
    await world.get(headers=[(b"authorization", b"Bearer a"), (b"x-organization-id", b"1"), (b"traceparent", b"00-1")])
    seen = [world.handler.header(name) for name in (b"authorization", b"x-organization-id", b"traceparent")]
    assert [b"Bearer a", b"1", b"00-1"] == seen


async def test_a_public_handler_does_not_learn_credentials() -> None:
    world = World(PUBLIC)
    await world.get(principal=None, headers=[(b"authorization", b"Basic a"), (b"cookie", b"session=1")])
    assert (None, None) == (world.handler.header(b"authorization"), world.handler.header(b"cookie"))


async def test_the_host_is_the_configured_one_or_the_servers_own() -> None:
    for host, seen in (("shop.example", b"shop.example"), (None, b"test")):
        world = World(settings=ResponseCacheOptions(host=host))
        await world.get(headers=[(b"host", b"evil.example")])
        assert seen == world.handler.header(b"host")


async def test_origins_have_an_answer_each_unless_our_own_layer_does_cors() -> None:
    runs = []
    for is_keyed in (True, False):
        world = World(settings=ResponseCacheOptions(is_origin_keyed=is_keyed))
        world.handler.headers = [(b"vary", b"Origin")] if is_keyed else []
        for origin in (b"https://a.example", b"https://b.example"):
            await world.get(headers=[(b"origin", origin)])
        runs.append((world.runs, world.handler.header(b"origin")))
    assert [(2, b"https://b.example"), (1, None)] == runs


# The query.


async def test_the_order_of_parameters_does_not_count_but_that_of_one_name_does() -> None:
    world = World()
    for query in (b"a=1&b=2", b"b=2&a=1", b"b=2&a=1&a=3", b"a=3&a=1&b=2"):
        await world.get(query=query)
    assert 3 == world.runs


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"a=1", b"a=1&b="),
        (b"a=1", b"a=2"),
        (b"a=1%26b%3D2", b"a=1&b=2"),
        (b"a=1;b=2", b"a=1&b=2"),
        (b"a=%C3%A9", b"a=%E9"),
        (b"a", b"b"),
        (b"a=1+2", b"a=1%2B2"),
        (b"q=1%00", b"q=1"),
    ],
)
async def test_parameters_that_the_framework_tells_apart_are_told_apart(one: bytes, other: bytes) -> None:
    world = World()
    for query in (one, other):
        await world.get(query=query)
    assert 2 == world.runs


async def test_parameters_that_do_not_count_do_not_reach_the_handler() -> None:
    world = World(CacheOptions(ttl_s=60, vary="organization", query=("page",)))
    world.handler.answer = echo
    queries = (b"page=1&utm=<script>", b"utm=x&page=1", b"%70age=1", b"page=2", b"page=1&page=2")
    replies = [await world.get(query=query) for query in queries]
    assert 3 == world.runs
    assert not any(b"utm" in reply.body for reply in replies)


# Keys.


async def test_no_text_in_one_part_of_a_key_passes_for_another_part() -> None:
    plan = RoutePlan(Route("/"), CacheOptions(ttl_s=1), ResponseCacheOptions())
    parts = ["", "1", "1:", "0:", "a", "/x", "|origin=b'1'", "\0", "m1:1a", "2:ab", "a&b"]
    random.seed(7)
    seen: dict[str, tuple[object, ...]] = {}
    for _ in range(20_000):
        actor, path = random.choice(parts) + random.choice(parts), random.choice(parts) + random.choice(parts)
        organization = random.choice([None, *parts])
        query, origin = random.choice([b"", b"a=1", b"1:0=2"]), random.choice([None, b"1", b"1'|x=b'2"])
        fields = {} if origin is None else {b"origin": origin}
        scope = http(path, query=query, headers=list(fields.items()))
        made_of = (actor, organization, path, query, origin)
        key = plan.key(scope, Principal(actor, organization), fields)
        assert made_of == seen.setdefault(key, made_of)


async def test_a_hostile_path_cannot_take_the_place_of_another_answer() -> None:
    world = World(template="/items/{name:path}")
    own = await world.get("/items/1")
    for path in ("/items/1\0", "/items/1?", "/items/1:0:", "/items/1|origin=b'x'"):
        world.handler.body = b"evil"
        await world.get(path)
    assert own.body == (await world.get("/items/1")).body


async def test_endless_names_are_answered_and_not_kept() -> None:
    world = World()
    reply = await world.get(query=b"q=" + b"x" * 3000)
    assert (200, "b1; fwd=bypass; detail=key", 0) == (reply.status, reply.headers["cache-status"], len(world.l1))


async def test_a_path_with_control_characters_is_answered_and_not_kept() -> None:
    world = World()
    assert (200, 0) == ((await world.get("/x\x1f1")).status, len(world.l1))


async def test_http_and_https_do_not_share_a_redirect() -> None:
    world = World(CacheOptions(ttl_s=60, negative_ttl_s=60))
    world.handler.status, world.handler.headers = 301, [(b"location", b"https://x")]
    await world.get(scheme="http")
    world.handler.status = 200
    assert 200 == (await world.get(scheme="https")).status


def test_tags_name_what_requests_have() -> None:
    from b1.errors import ConfigurationError

    route = Route("/x/{id}", RouteOptions(cache=CacheOptions(ttl_s=1, tags=("x:{id}:{organization}", "y:{nothing}"))))
    assert route.options.cache is not None
    with pytest.raises(ConfigurationError, match="nothing"):
        RoutePlan(route, route.options.cache, ResponseCacheOptions())
