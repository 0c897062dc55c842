"""Scenarios of the strongest public suites, written anew; each names where it comes from.

| suite | file |
|---|---|
| idempot-dev/idempot-js | tests/spec/idempotency.feature |
| julik/idempo | spec/idempo_spec.rb, spec/idempo/redis_backend_spec.rb |
| ronango/fastapi-idempotency | tests/test_middleware.py, test_streaming.py, test_body_buffer.py |
| brandur/rocket-rides-atomic | spec/api_spec.rb (its recovery points: test_recovery_points.py) |
| nestarc/idempotency | test/support/shared-storage-contract.ts, test/regression |
| snok/asgi-idempotency-header | tests/test_middleware.py |
| aws-powertools/powertools-lambda-python | tests/functional/idempotency |

Where a suite expects what would be a fault here, the case is inverted and says why. What the wire table has already
(malformed keys, mismatches, statuses, in flight, expiry, store away) is not repeated.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from b1.clock import ManualClock
from b1.idempotency import Answer, Attempt, Idempotency, IdempotencyOptions, Keyed, Proceed, Record
from b1.store.base import ClaimState
from b1.store.memory import MemoryStore
from b1.types import Headers, Message, Receive, Scope, Send
from b1.units import MIB
from tests.idempotency.harness import Reply, World, post, until

UUID = "8e03978e-40d5-43e8-bc93-6894a57f9324"
JSON: Headers = [(b"content-type", b"application/json")]


@dataclass
class App:
    """A plain ASGI application: each run gives another body unless one is set."""

    status: int = 200
    headers: Headers = field(default_factory=list)
    pieces: list[bytes] | None = None
    runs: int = 0
    fails_at: int = -1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.runs += 1
        message: Message = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
        pieces = self.pieces if self.pieces is not None else [f"run {self.runs}".encode()]
        headers = list(self.headers)
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for number, piece in enumerate(pieces):
            if number == self.fails_at and self.runs == 1:
                raise RuntimeError("boom")
            await send({"type": "http.response.body", "body": piece, "more_body": number + 1 < len(pieces)})


async def twice(app: App, first: dict[str, Any], second: dict[str, Any], **route: Any) -> tuple[Reply, Reply]:
    served = World(route=IdempotencyOptions(**route)).serve(app)
    common: dict[str, Any] = {"body": {"foo": "bar"}, "key": UUID}
    return await post(served, **{**common, **first}), await post(served, **{**common, **second})


# What a second request means after a first one.
SECOND: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "idempot-js: Duplicate request returns cached response": ({}, {}, True),
    "idempot-js: PATCH requests are protected": ({"method": "PATCH"}, {"method": "PATCH"}, True),
    "idempot-js: Empty request body is handled": ({"raw": b""}, {"raw": b""}, True),
    "idempot-js: GET requests bypass": ({"method": "GET"}, {"method": "GET"}, False),
    # Inverted: there PUT and DELETE pass unprotected, as naturally idempotent. A route that declares keys means it: a PUT
    # with an effect beside the resource is not.
    "idempot-js, inverted: PUT requests bypass": ({"method": "PUT"}, {"method": "PUT"}, True),
    "idempot-js, inverted: DELETE requests bypass": ({"method": "DELETE"}, {"method": "DELETE"}, True),
    # Inverted: there 409. Two payments of one amount with two keys are two payments.
    "idempot-js, inverted: Different key with same body returns 409": ({}, {"key": "another"}, False),
    "idempo: quoted and unquoted header value": ({"key": '"idem"'}, {"key": "idem"}, True),
    "idempo: the same HTTP auth": (
        {"headers": ((b"authorization", b"Bearer abc"),)},
        {"headers": ((b"authorization", b"Bearer abc"),)},
        True,
    ),
    # Inverted: there the value of Authorization makes another request, so a client that refreshed its token pays twice.
    # Who calls is in the scope here (test_isolation.py).
    "idempo, inverted: adds the Authorization header to the fingerprint": (
        {"headers": ((b"authorization", b"Bearer abc"),)},
        {"headers": ((b"authorization", b"Bearer mno"),)},
        True,
    ),
    "idempo: is not idempotent if the HTTP verb is different": ({}, {"method": "PATCH"}, False),
    "idempo: is not idempotent if the URL is different": ({"path": "/some"}, {"path": "/another"}, False),
    "idempo: is not saved if the request is a HEAD": ({"method": "HEAD"}, {"method": "HEAD"}, False),
    "idempo: is not idempotent without the key": ({"key": None}, {"key": None}, False),
    "ronango: options passes through": ({"method": "OPTIONS"}, {"method": "OPTIONS"}, False),
    "powertools: key order independence": ({"raw": b'{"a":1,"b":[2]}'}, {"raw": b'{"b":[2],"a":1}'}, True),
    # Inverted: there a key that is no UUID is refused. A key is the client's own.
    "asgi-idempotency-header, inverted: bad header formatting": ({"key": "test"}, {"key": "test"}, True),
    # Inverted: there shorter than 20 characters is refused. Keys are private to their caller, so nobody gains by guessing.
    "rocket-rides, inverted: a key that's too short": ({"key": "xxx"}, {"key": "xxx"}, True),
}


@pytest.mark.parametrize(("first", "second", "is_replay"), SECOND.values(), ids=SECOND.keys())
async def test_the_second_request(first: dict[str, Any], second: dict[str, Any], is_replay: bool) -> None:
    app = App()
    one, two = await twice(app, first, second)
    assert (one.status, two.status, one.replayed, two.replayed) == (200, 200, False, is_replay)
    assert (app.runs, two.body == one.body) == ((1, True) if is_replay else (2, False))


# Inverted: idempo runs another body under a used key, as if the key were new. A reused key is a client's bug, and told.
# powertools tampers with values at the top and below it.
@pytest.mark.parametrize(
    "other",
    [{"foo": "baz"}, {"foo": ["bar"]}, {"foo": "bar", "more": None}, {}, {"foo": {"bar": 1}}],
    ids=["top level", "type", "a member more", "nothing", "nested"],
)
async def test_idempo_inverted_the_body_is_different(other: dict[str, Any]) -> None:
    app = App()
    _, two = await twice(app, {}, {"body": other, "raw": None if other else b"{}"})
    assert (two.status, two.code, app.runs) == (409, "IDEMPOTENCY_KEY_REUSED", 1)


async def test_idempot_js_multiple_duplicates() -> None:
    app = App()
    served = World().serve(app)
    replies = [await post(served, {"foo": "bar"}, UUID) for _ in range(4)]
    assert [reply.replayed for reply in replies] == [False, True, True, True] and app.runs == 1


@pytest.mark.parametrize("key", ["", '""'])
async def test_ronango_an_empty_header_is_invalid_and_not_missing(key: str) -> None:
    app = App()
    reply = await post(World(route=IdempotencyOptions(required=True)).serve(app), key=key)
    assert (reply.status, reply.code, app.runs) == (400, "IDEMPOTENCY_KEY_INVALID", 0)


# asgi-idempotency-header replays JSON alone, and loses Location. Inverted: every answer that is whole is replayed.
@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, JSON, b"[1]"),
        (200, [(b"content-type", b"text/html")], b"<p>"),
        (200, [(b"content-type", b"application/xml")], b"<a/>"),
        (200, [(b"content-type", b"application/octet-stream")], bytes(range(256))),
        (200, [], b"no type"),
        (302, [(b"location", b"/elsewhere")], b""),
        (201, [(b"location", b"/things/1"), *JSON], b'{"id":1}'),
    ],
)
async def test_asgi_idempotency_header_inverted_any_kind_of_answer(status: int, headers: Headers, body: bytes) -> None:
    one, two = await twice(App(status, headers, [body]), {}, {})
    assert (two.status, two.body, two.replayed) == (status, body, True)
    assert [two.headers.get(name.decode()) for name, _ in headers] == [
        one.headers[name.decode()] for name, _ in headers
    ]


@pytest.mark.parametrize("falsy", [b"0", b'""', b"[]", b"null", b"false", b""])
async def test_powertools_falsy_results(falsy: bytes) -> None:
    """It turns them into None itself."""
    one, two = await twice(App(200, JSON, [falsy]), {}, {})
    assert (one.body, two.body, two.replayed) == (falsy, falsy, True)


async def test_idempo_a_body_of_several_pieces_with_a_length_is_one_answer() -> None:
    app = App(200, [(b"content-length", b"6")], [b"one", b"two"])
    one, two = await twice(app, {}, {})
    assert (one.body, two.body, two.replayed, app.runs) == (b"onetwo", b"onetwo", True, 1)


# Inverted for all of them: there the key of an answer that cannot be stored is free again, so its effect happens twice.
@pytest.mark.parametrize(
    "app",
    [
        App(200, [], [b"a", b"b"]),
        App(200, [], [b"", b"data"]),
        App(200, [(b"content-type", b"text/event-stream")], [b"a", b"b"]),
        App(200, [(b"content-length", b"9999999999999")], [b"x" * 70_000]),
        App(200, [], [b"x" * 70_000]),
    ],
    ids=[
        "ronango: releases slot",
        "ronango: empty first chunk",
        "ronango: events",
        "idempo: very large",
        "idempo: array",
    ],
)
async def test_inverted_an_answer_that_cannot_be_stored_is_not_repeated(app: App) -> None:
    app.runs = 0
    one, two = await twice(app, {}, {})
    assert (one.status, one.headers["idempotency-stored"], one.body) == (200, "false", b"".join(app.pieces or []))
    assert (two.status, two.code, app.runs) == (409, "IDEMPOTENCY_OUTCOME_NOT_STORED", 1)


async def test_ronango_inverted_a_stream_that_fails_in_the_middle() -> None:
    """There a retry runs. The status was 200 and its effect may be there: without knowing, it is not repeated."""
    app = App(200, [], [b"a", b"b"], fails_at=1)
    served = World().serve(app)
    with pytest.raises(RuntimeError, match="boom"):
        await post(served)
    again = await post(served)
    assert (again.code, app.runs) == ("IDEMPOTENCY_OUTCOME_NOT_STORED", 1)


async def test_ronango_an_answer_in_one_piece_that_fails_before_its_end_frees_the_key() -> None:
    app = App(200, [(b"content-length", b"2")], [b"a", b"b"], fails_at=1)
    served = World().serve(app)
    with pytest.raises(RuntimeError, match="boom"):
        await post(served)
    assert ((await post(served)).body, app.runs) == (b"ab", 2)


async def test_ronango_the_application_s_own_messages_are_not_changed() -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b"y"})

    reply = await post(World().serve(app))
    assert (start["headers"], reply.headers["idempotency-stored"]) == ([(b"a", b"b")], "false")


async def test_ronango_a_body_before_its_start_is_no_answer_and_stores_nothing() -> None:
    """There RuntimeError; here the server judges the protocol, and the key is free."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"x"})

    world = World()
    reply = await post(world.serve(app))
    assert (reply.starts, world.service.snapshot().in_flight, world.service.snapshot().records) == (0, 0, 0)


async def test_ronango_inverted_a_body_whose_client_left_is_no_body() -> None:
    """Its test_disconnect_mid_stream_returns_partial_body asserts that half a body is processed, and then stored."""
    app, world = App(), World()
    half: list[Message] = [
        {"type": "http.request", "body": b"hel", "more_body": True},
        {"type": "http.disconnect"},
    ]
    reply = await post(world.serve(app), messages=half)
    assert (reply.starts, app.runs, world.store.snapshot().keys) == (0, 0, 0)


@pytest.mark.parametrize(("size", "status"), [(100, 200), (101, 413)])
async def test_ronango_a_body_at_exactly_the_limit_passes(size: int, status: int) -> None:
    app = App()
    served = World(route=IdempotencyOptions(request_limit_bytes=100)).serve(app)
    assert (await post(served, raw=b"x" * size)).status == status


async def test_idempo_inverted_a_concurrent_request_is_429() -> None:
    """429 is about how much a client asks; this is 409 with Retry-After, as the IETF draft has it."""
    go_on = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await App()(scope, receive, send)

    world = World(route=IdempotencyOptions(wait_s=0.0))
    served = world.serve(slow)
    first = asyncio.create_task(post(served))
    await until(lambda: world.service.snapshot().in_flight == 1)
    second = await post(served)
    go_on.set()
    assert (second.status, "retry-after" in second.headers, (await first).status) == (409, True, 200)


def keyed() -> Keyed:
    return Keyed(store_key="idempotency:1:k", digest=b"k" * 32, fingerprint=b"f", organization="1", actor="ann")


DONE = Answer(201, [], b"first")


@pytest.fixture
def service(clock: ManualClock) -> Idempotency:
    return Idempotency(MemoryStore(MIB, clock), clock=clock)


async def begun(service: Idempotency) -> Attempt:
    found = await service.begin(keyed(), IdempotencyOptions(wait_s=0.0))
    assert isinstance(found, Attempt)
    return found


async def overtaken(service: Idempotency, clock: ManualClock) -> tuple[Attempt, Attempt]:
    """An owner that fell silent, and who follows it in another process on the same store."""
    late = await begun(service)
    clock.advance(31)
    return late, await begun(Idempotency(service.store, clock=clock))


async def test_nestarc_race_completed_winner(service: Idempotency, clock: ManualClock) -> None:
    """The late owner's complete() is stale: the winner's answer stays."""
    late, winner = await overtaken(service, clock)
    assert await winner.settle(DONE) == Proceed()
    assert await late.settle(Answer(201, [], b"late")) == Proceed(stored=False)
    again = await service.begin(keyed(), IdempotencyOptions())
    assert isinstance(again, Record) and again.body == b"first"


async def test_nestarc_complete_failure_cascade(service: Idempotency, clock: ManualClock) -> None:
    """A late owner that fails must not free the key that another one holds."""
    late, winner = await overtaken(service, clock)
    await late.settle(None)
    assert (await service.store.claim("idempotency:1:k", b"f", lease_ms=1)).state is ClaimState.IN_FLIGHT
    assert await winner.settle(DONE) == Proceed()


async def test_idempo_redis_backend_the_lock_was_lost_and_nothing_is_saved(
    service: Idempotency, clock: ManualClock
) -> None:
    late, winner = await overtaken(service, clock)
    assert await late.settle(DONE) == Proceed(stored=False)
    assert (await service.store.claim("idempotency:1:k", b"f", lease_ms=1)).state is ClaimState.IN_FLIGHT
    await winner.settle(None)


async def test_rocket_rides_passes_for_keys_with_a_stale_lock(service: Idempotency, clock: ManualClock) -> None:
    _, winner = await overtaken(service, clock)
    assert await winner.settle(DONE) == Proceed()


async def test_rocket_rides_denies_requests_without_authentication() -> None:
    app = App(401)
    reply = await post(World(route=IdempotencyOptions(required=True)).serve(app), principal=None, key=None)
    assert (reply.status, app.runs) == (401, 1)  # the application's own refusal, not one about the key


async def test_asgi_idempotency_header_an_expired_key_is_no_lasting_conflict(clock: ManualClock) -> None:
    """Its issue 16: after the expiry of a crashed request the key answers 409 for ever."""
    service = Idempotency(MemoryStore(MIB, clock), clock=clock)
    await begun(service)  # and nobody ever settles it
    clock.advance(86_400)
    follower = Idempotency(service.store, clock=clock)
    assert await (await begun(follower)).settle(DONE) == Proceed()
