"""Keys made from the request: a guard against double submits, for routes that ask for it, and nothing more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from b1.clock import ManualClock
from b1.db import Database
from b1.errors import InvalidSetting, StoreUnavailable
from b1.idempotency import IdempotencyOptions, ServiceOptions
from b1.store.memory import MemoryStore
from b1.types import Message, Principal, Receive, Scope, Send
from b1.units import KIB
from tests.idempotency.harness import ANN, BOB, Reply, World, effects, make_thing, post, records, until

AUTO = IdempotencyOptions(auto_key=True)
CREATES = IdempotencyOptions(auto_key=lambda members: members.get("operation") == "CREATE")


class Counting:
    """A plain ASGI application that answers with the number of its run, and the body that it read."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[bytes] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, message = b"", await receive()
        body += message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        self.bodies.append(body)
        await self.go_on.wait()
        answer = str(len(self.bodies)).encode()
        await send({"type": "http.response.start", "status": self._status, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": answer})


def source(reply: Reply) -> str | None:
    return reply.headers.get("idempotency-key-source")


async def test_the_same_request_within_ten_seconds_is_one(clock: ManualClock) -> None:
    served = World(clock=clock, route=AUTO).serve(Counting())
    first = await post(served, {"a": 1}, key=None)
    clock.advance(9.9)
    again = await post(served, {"a": 1}, key=None)
    clock.advance(0.2)
    later = await post(served, {"a": 1}, key=None)
    assert [reply.body for reply in (first, again, later)] == [b"1", b"1", b"2"]
    assert [reply.replayed for reply in (first, again, later)] == [False, True, False]
    assert [source(reply) for reply in (first, again, later)] == ["auto"] * 3


async def test_a_double_click_waits_for_the_first() -> None:
    app, world = Counting(), World(route=AUTO)
    served = world.serve(app)
    app.go_on.clear()
    clicks = [asyncio.create_task(post(served, {"a": 1}, key=None)) for _ in range(2)]
    await until(lambda: world.service.snapshot().waiting == 1)
    app.go_on.set()
    replies = await asyncio.gather(*clicks)
    assert [reply.body for reply in replies] == [b"1", b"1"] and len(app.bodies) == 1


DIFFERENT: dict[str, dict[str, Any]] = {
    "body": {"body": {"a": 2}},
    "a number in other words": {"raw": b'{"a": 1.0}'},
    "query": {"query": b"a=1"},
    "method": {"method": "PUT"},
    "path": {"path": "/others"},
    "media type": {"content_type": b"text/plain"},
    "actor": {"principal": BOB},
    "organisation": {"principal": Principal(actor="ann", organization="2")},
    "no organisation": {"principal": Principal(actor="ann", organization=None)},
}


@pytest.mark.parametrize("other", DIFFERENT.values(), ids=DIFFERENT.keys())
async def test_two_requests_that_differ_are_two(other: dict[str, Any]) -> None:
    app = Counting()
    served = World(route=AUTO).serve(app)
    await post(served, {"a": 1}, key=None)
    second = await post(served, **{"body": {"a": 1}, "key": None, **other})
    assert (second.status, second.replayed, len(app.bodies)) == (200, False, 2)


async def test_white_space_and_member_order_make_no_second_request() -> None:
    app = Counting()
    served = World(route=AUTO).serve(app)
    for raw in (b'{"a":1,"b":2}', b'{ "b": 2, "a": 1 }'):
        await post(served, raw=raw, key=None)
    assert len(app.bodies) == 1


async def test_a_real_key_wins_and_says_nothing_of_a_source() -> None:
    app = Counting()
    served = World(route=AUTO).serve(app)
    replies = [await post(served, {"a": 1}, key=key) for key in ("one", "two", "one")]
    assert ([reply.replayed for reply in replies], len(app.bodies)) == ([False, False, True], 2)
    assert [source(reply) for reply in replies] == [None] * 3


async def test_a_real_key_never_meets_one_that_was_made(clock: ManualClock) -> None:
    app, world = Counting(), World(clock=clock, route=AUTO)
    served = world.serve(app)
    await post(served, {"a": 1}, key=None)
    assert isinstance(world.store, MemoryStore)
    (made,) = world.store.claims.keys()
    for key in (made, made.rpartition(":")[2]):
        assert (await post(served, {"a": 1}, key=key)).replayed is False
    assert len(app.bodies) == 3


@pytest.mark.parametrize("key", ["", "a b"])
async def test_a_malformed_key_is_not_replaced(key: str) -> None:
    app = Counting()
    assert (await post(World(route=AUTO).serve(app), key=key)).status == 400 and app.bodies == []


@pytest.mark.parametrize("changes", [{"method": "GET"}, {"method": "HEAD"}, {"method": "OPTIONS"}, {"principal": None}])
async def test_safe_methods_and_strangers_get_none(changes: dict[str, Any]) -> None:
    app = Counting()
    served = World(route=AUTO).serve(app)
    replies = [await post(served, {"a": 1}, key=None, **changes) for _ in range(2)]
    assert ([source(reply) for reply in replies], len(app.bodies)) == ([None, None], 2)


async def test_without_the_declaration_there_is_none() -> None:
    app = Counting()
    served = World(route=IdempotencyOptions()).serve(app)
    replies = [await post(served, {"a": 1}, key=None) for _ in range(2)]
    assert ([source(reply) for reply in replies], len(app.bodies)) == ([None, None], 2)


@pytest.mark.parametrize(
    ("raw", "runs"),
    [
        (b'{"operation": "CREATE"}', 1),
        (b'{"operation": "READ"}', 2),
        (b"{}", 2),
        (b'["CREATE"]', 2),
        (b"no JSON", 2),
        (b'{"operation": "CREATE", "much": "%b"}' % (b"x" * 300 * KIB), 2),
    ],
    ids=["create", "read", "nothing", "an array", "no JSON", "too large to look at"],
)
async def test_the_body_may_say_whether_there_is_one(raw: bytes, runs: int) -> None:
    app, world = Counting(), World(route=CREATES)
    served = world.serve(app)
    replies = [await post(served, raw=raw, key=None) for _ in range(2)]
    assert (len(app.bodies), set(app.bodies)) == (runs, {raw})
    assert [source(reply) for reply in replies] == (["auto"] if runs == 1 else [None]) * 2
    await world.service.aclose()
    assert world.service.snapshot().spooled_bytes == 0


async def test_a_failure_frees_the_next_try() -> None:
    app = Counting(503)
    served = World(route=AUTO).serve(app)
    assert [(await post(served, {"a": 1}, key=None)).status for _ in range(2)] == [503, 503] and len(app.bodies) == 2


async def test_without_a_store_the_request_runs_unguarded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    app, world = Counting(), World(route=AUTO)
    served = world.serve(app)

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(world.store, "claim", fail)
    reply = await post(served, {"a": 1}, key=None)
    assert (reply.status, reply.headers["idempotency-stored"], source(reply)) == (200, "false", "auto")
    assert (await post(served, {"a": 1}, key="k")).status == 503  # who asked for a promise is not given less


async def test_when_too_much_runs_the_request_runs_unguarded() -> None:
    app = Counting()
    world = World(route=AUTO, options=ServiceOptions(max_running=1))
    served = world.serve(app)
    app.go_on.clear()
    first = asyncio.create_task(post(served, {"a": 1}, key=None))
    await until(lambda: world.service.snapshot().in_flight == 1)
    second = asyncio.create_task(post(served, {"a": 2}, key=None))
    await until(lambda: len(app.bodies) == 2)
    app.go_on.set()
    assert [reply.status for reply in await asyncio.gather(first, second)] == [200, 200]
    assert (await second).headers["idempotency-stored"] == "false"


async def test_a_truncated_body_makes_none() -> None:
    app, world = Counting(), World(route=AUTO)
    half: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    assert (await post(world.serve(app), key=None, messages=half)).starts == 0
    assert (app.bodies, world.store.snapshot().keys) == ([], 0)


async def test_in_a_transaction_the_row_lives_as_short(database: Database) -> None:
    world = World(database, route=IdempotencyOptions(auto_key=True, transactional=True))
    app = world.handle(make_thing)
    first = await post(app, {"a": 1}, key=None)
    fresh = World(database, route=world.route)  # another process, whose store knows nothing
    again = await post(fresh.handle(make_thing), {"a": 1}, key=None)
    left_s = await database.fetchval("SELECT extract(epoch FROM expires_at - created_at) FROM b1_idempotency")
    assert (again.replayed, again.body, source(again)) == (True, first.body, "auto")
    assert (await effects(database), await records(database), 9 < left_s < 60) == (1, 1, True)


def test_a_required_key_cannot_be_made_from_the_request() -> None:
    with pytest.raises(InvalidSetting, match="auto_key"):
        IdempotencyOptions(required=True, auto_key=True)


async def test_another_actor_s_auto_key_is_another() -> None:
    app = Counting()
    served = World(route=AUTO).serve(app)
    replies = [await post(served, {"a": 1}, key=None, principal=one) for one in (ANN, BOB, ANN)]
    assert [reply.replayed for reply in replies] == [False, False, True]
