"""Entity tags and 304 after the authorisation; never for another representation, principal or route."""

from __future__ import annotations

import pytest

from b1.asgi.options import CacheOptions
from b1.types import Principal
from tests.asgi.caching.world import ORGANIZATION, World
from tests.asgi.raw import ANN, BOB

STRANGER = Principal("carl", "2", tier="pro")


async def etag_of(world: World, **more: object) -> bytes:
    return (await world.get(**more)).headers["etag"].encode()  # type: ignore[arg-type]


async def test_a_tag_is_strong_quoted_and_the_same_everywhere() -> None:
    tags = [await etag_of(World()) for _ in range(2)]
    assert tags[0] == tags[1]
    assert (b'"', b'"', 34) == (tags[0][:1], tags[0][-1:], len(tags[0]))


async def test_another_body_or_type_is_another_tag() -> None:
    worlds = [World() for _ in range(3)]
    worlds[1].handler.body = b"no"
    worlds[2].handler.headers = [(b"content-type", b"text/plain")]
    assert 3 == len({await etag_of(world) for world in worlds})


async def test_a_304_says_what_a_200_would_and_has_no_body() -> None:
    world = World()
    world.handler.headers = [(b"content-type", b"text/plain"), (b"content-location", b"/x/1")]
    tag = await etag_of(world)
    reply = await world.get(headers=[(b"if-none-match", tag)])
    assert (304, b"", 1) == (reply.status, reply.body, world.runs)
    assert {"etag", "cache-control", "vary", "content-location", "age", "cache-status"} == reply.headers.keys()


async def test_the_first_answer_may_be_a_304_and_is_stored_whole() -> None:
    tag = await etag_of(World())
    world = World()
    first = await world.get(headers=[(b"if-none-match", tag)])
    assert (304, "b1; fwd=uri-miss; stored") == (first.status, first.headers["cache-status"])
    assert world.handler.header(b"if-none-match") is None
    assert (b"ok", 1) == ((await world.get()).body, world.runs)


async def test_the_handlers_own_validators_are_respected() -> None:
    world = World()
    world.handler.headers = [(b"etag", b'W/"v1"'), (b"last-modified", b"Sun, 06 Nov 1994 08:49:37 GMT")]
    assert b'W/"v1"' == await etag_of(world)
    conditions = [(b"if-none-match", b'"v1"')], [(b"if-modified-since", b"Sun, 06 Nov 1994 08:49:37 GMT")]
    assert [304, 304] == [(await world.get(headers=condition)).status for condition in conditions]


async def test_a_handlers_broken_tag_is_replaced() -> None:
    world = World()
    world.handler.headers = [(b"etag", b"unquoted")]
    assert 34 == len(await etag_of(world))


async def test_a_failed_precondition_is_a_412() -> None:
    world = World()
    await world.get()
    reply = await world.get(headers=[(b"if-match", b'"other"')])
    assert (412, "PRECONDITION_FAILED", 1) == (reply.status, reply.code, world.runs)


@pytest.mark.parametrize("principal", [STRANGER, None])
async def test_a_foreign_tag_tells_nothing(principal: Principal | None) -> None:
    """Another organisation, or nobody, is not told that its guess is right: its own answer is what counts."""
    world = World()
    tag = await etag_of(world)
    world.handler.body = b"foreign"
    reply = await world.get(principal=principal, headers=[(b"if-none-match", tag)])
    assert (200, b"foreign") == (reply.status, reply.body)


async def test_the_routes_authorisation_comes_before_a_304() -> None:
    allowed = {"ann"}
    world = World(CacheOptions(ttl_s=60, vary="organization", allow=lambda who: who.actor in allowed))
    tag = await etag_of(world)
    reply = await world.get(principal=BOB, headers=[(b"if-none-match", tag)])
    assert (403, "FORBIDDEN") == (reply.status, reply.code)
    assert (304, 1) == ((await world.get(principal=ANN, headers=[(b"if-none-match", tag)])).status, world.runs)


async def test_a_tag_of_one_path_is_none_of_another() -> None:
    world = World(ORGANIZATION)
    tag = await etag_of(world, path="/a")
    world.handler.body = b"secret"
    assert 200 == (await world.get(path="/b", headers=[(b"if-none-match", tag)])).status


async def test_an_unstorable_answer_with_a_tag_of_its_own_may_be_a_304() -> None:
    world = World()
    world.handler.headers = [(b"etag", b'"v1"'), (b"cache-control", b"private"), (b"x-own", b"1")]
    reply = await world.get(headers=[(b"if-none-match", b'"v1"')])
    assert (304, b"", "private") == (reply.status, reply.body, reply.headers["cache-control"])
    assert "x-own" not in reply.headers


async def test_a_head_with_a_matching_tag_is_a_304() -> None:
    world = World()
    tag = await etag_of(world)
    assert 304 == (await world.get(method="HEAD", headers=[(b"if-none-match", tag)])).status
