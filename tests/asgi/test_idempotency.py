"""Idempotency at the edge of HTTP: what is refused, what is replayed, what survives a client that leaves."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, HTTPException, Response
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from b1.asgi.deadlines import Deadlines
from b1.asgi.middleware.deadline import Deadline
from b1.asgi.middleware.idempotency import IdempotencyMiddleware
from b1.clock import SystemClock
from b1.db import Database
from b1.errors import ConfigurationError
from b1.idempotency import Attempt, IdempotencyOptions
from b1.idempotency.transactional import Transaction
from b1.types import ASGIApp, Message, Receive, Scope, Send
from tests.idempotency.conftest import database, shared_postgres_url
from tests.idempotency.harness import ANN, BOB, World, attempt, effects, make_thing, post, records, until

__all__ = ["database", "shared_postgres_url"]


class Counted:
    """A plain ASGI application that counts its runs."""

    def __init__(self, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = (), *bodies: bytes) -> None:
        self.runs = 0
        self._status = status
        self._headers = headers
        self._bodies = bodies or (b"done",)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.runs += 1
        await receive()
        await send({"type": "http.response.start", "status": self._status, "headers": list(self._headers)})
        for number, body in enumerate(self._bodies, 1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(self._bodies)})


LENGTH = (b"content-length", b"4")


def cut_at_its_answer(app: ASGIApp) -> ASGIApp:
    """Cancel `app` once, as a deadline would, while the outcome of its answer is being made certain."""
    cut: list[bool] = []

    async def cutting(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None

        async def tapped(message: Message) -> None:
            if message["type"] == "http.response.body" and not cut:
                cut.append(True)
                asyncio.get_running_loop().call_soon(task.cancel)
            await send(message)

        try:
            await app(scope, receive, tapped)
        except asyncio.CancelledError:
            task.uncancel()
            await PlainTextResponse("too late", 503)(scope, receive, send)

    return cutting


@pytest.mark.parametrize("key", ["", "a,b", '"a', "x" * 256, "a b"])
async def test_a_malformed_key_is_400_before_the_body_is_read(key: str) -> None:
    app = Counted()
    reply = await post(World().serve(app), key=key, messages=[{"type": "must not be read"}])
    assert (reply.status, reply.code, app.runs) == (400, "IDEMPOTENCY_KEY_INVALID", 0)


async def test_a_missing_key_is_400_where_one_is_required() -> None:
    app, world = Counted(), World(route=IdempotencyOptions(required=True))
    reply = await post(world.serve(app), key=None, messages=[{"type": "must not be read"}])
    assert (reply.status, reply.code, app.runs) == (400, "IDEMPOTENCY_KEY_MISSING", 0)


async def test_a_missing_key_runs_every_time_where_none_is_required() -> None:
    app = Counted()
    served = World().serve(app)
    assert [(await post(served, key=None)).status for _ in range(2)] == [200, 200] and app.runs == 2


async def test_the_two_headers_must_agree() -> None:
    served = World().serve(Counted(200, (LENGTH,)))
    assert (await post(served, key="a", headers=((b"x-idempotency-key", b"b"),))).status == 400
    assert (await post(served, key='"a"', headers=((b"x-idempotency-key", b"a"),))).status == 200
    assert (await post(served, key=None, headers=((b"x-idempotency-key", b"a"),))).replayed


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_safe_methods_pass(method: str) -> None:
    app = Counted()
    served = World(route=IdempotencyOptions(required=True)).serve(app)
    assert [(await post(served, key="a,b", method=method)).status for _ in range(2)] == [200, 200] and app.runs == 2


async def test_anonymous_requests_pass() -> None:
    app = Counted(401)
    served = World(route=IdempotencyOptions(required=True)).serve(app)
    assert (await post(served, principal=None)).status == 401 and app.runs == 1


async def test_other_scopes_pass() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    layer = IdempotencyMiddleware(app, World().service)
    await layer({"type": "websocket"}, nothing, nothing)
    await layer({"type": "lifespan"}, nothing, nothing)
    assert seen == ["websocket", "lifespan"]


async def test_another_actor_with_the_same_key_runs() -> None:
    app = Counted(200, (LENGTH,))
    served = World().serve(app)
    replies = [await post(served, principal=one) for one in (ANN, BOB, ANN)]
    assert [reply.replayed for reply in replies] == [False, False, True] and app.runs == 2


async def test_a_caller_who_lost_the_right_gets_no_stored_answer() -> None:
    allowed = {"ann"}
    route = IdempotencyOptions(allow=lambda principal: principal.actor in allowed)
    served = World(route=route).serve(Counted(200, (LENGTH,)))
    assert (await post(served)).status == 200
    allowed.clear()
    assert (await post(served)).status == 403


async def test_a_body_over_the_cap_is_413_and_leaves_no_claim() -> None:
    app, world = Counted(), World(body_limit_bytes=10)
    reply = await post(world.serve(app), {"long": "x" * 100})
    assert (reply.status, reply.code, app.runs) == (413, "BODY_TOO_LARGE", 0)
    assert world.store.snapshot().keys == 0


async def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    world, app = World(), Counted(200, (LENGTH,))
    served = world.serve(app)
    half: list[Message] = [
        {"type": "http.request", "body": b'{"a":', "more_body": True},
        {"type": "http.disconnect"},
    ]
    reply = await post(served, messages=half)
    assert (reply.starts, app.runs, world.store.snapshot().keys) == (0, 0, 0)
    assert (await post(served, {"a": 1})).status == 200


async def test_a_body_in_chunks_is_the_same_payload() -> None:
    served = World().serve(Counted(200, (LENGTH,)))
    chunks: list[Message] = [
        {"type": "http.request", "body": b'{"a":', "more_body": True},
        {"type": "http.request", "body": b" 1}", "more_body": False},
    ]
    await post(served, {"a": 1})
    assert (await post(served, messages=chunks)).replayed


async def test_only_the_outcomes_headers_are_replayed() -> None:
    headers = (
        (b"Content-Type", b"text/plain"),
        LENGTH,
        (b"Location", b"/things/1"),
        (b"ETag", b'"1"'),
        (b"set-cookie", b"session=1"),
        (b"x-request-id", b"first"),
    )
    served = World().serve(Counted(201, headers))
    first, again = await post(served), await post(served)
    assert first.headers["set-cookie"] == "session=1" and "idempotent-replayed" not in first.headers
    assert set(again.headers) == {
        "content-type", "location", "etag", "content-length", "cache-control",
        "idempotent-replayed", "x-idempotency-replay", "x-original-timestamp",
    }  # fmt: skip
    assert (again.body, again.headers["content-length"], again.headers["cache-control"]) == (b"done", "4", "no-store")


@pytest.mark.parametrize("body", [b"", b"0", b"null", b"false", b"[]", b'""'])
async def test_falsy_answers_are_replayed(body: bytes) -> None:
    app = Counted(200, ((b"content-length", str(len(body)).encode()),), body)
    served = World().serve(app)
    replies = [await post(served) for _ in range(2)]
    assert [reply.body for reply in replies] == [body, body] and replies[1].replayed and app.runs == 1


async def test_a_204_is_replayed_without_a_length() -> None:
    served = World().serve(Counted(204, (), b""))
    replies = [await post(served) for _ in range(2)]
    assert replies[1].status == 204 and replies[1].replayed and "content-length" not in replies[1].headers


UNSTORABLE = {
    "streamed": Counted(200, (), b"one", b"two", b""),
    "events": Counted(200, ((b"content-type", b"text/event-stream"), (b"content-length", b"6")), b"one", b"two"),
    "over the cap": Counted(200, ((b"content-length", b"90000"),), b"x" * 90_000),
    "over the cap in parts": Counted(200, ((b"content-length", b"90000"),), b"x" * 60_000, b"x" * 30_000),
}


@pytest.mark.parametrize("app", UNSTORABLE.values(), ids=UNSTORABLE.keys())
async def test_an_answer_that_cannot_be_stored_is_sent_whole_and_never_repeated(app: Counted) -> None:
    world = World()
    served = world.serve(app)
    first, again = await post(served), await post(served)
    assert first.body == b"".join(app._bodies)
    assert (first.status, first.headers["idempotency-stored"], first.starts) == (200, "false", 1)
    assert (again.status, again.code, app.runs) == (409, "IDEMPOTENCY_OUTCOME_NOT_STORED", 1)
    assert world.service.snapshot().not_storable == 1


async def test_a_stream_reaches_the_client_while_it_runs() -> None:
    go_on = asyncio.Event()
    got: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async def tap(scope: Scope, receive: Receive, send: Send) -> None:
        async def copy(message: Message) -> None:
            got.append(message.get("body", b""))
            await send(message)

        await served(scope, receive, copy)

    served = World().serve(app)
    request = asyncio.create_task(post(tap))
    await until(lambda: b"first" in got)
    go_on.set()
    assert (await request).body == b"firstlast"


async def test_a_failed_stream_frees_the_key() -> None:
    app = Counted(500, (), b"one", b"two")
    served = World().serve(app)
    replies = [await post(served) for _ in range(2)]
    assert [reply.status for reply in replies] == [500, 500] and app.runs == 2
    assert "idempotency-stored" not in replies[0].headers


@pytest.mark.parametrize(
    ("status", "runs"), [(200, 1), (303, 1), (404, 1), (422, 1), (401, 2), (409, 2), (429, 2), (500, 2)]
)
async def test_what_is_stored_depends_on_the_status(status: int, runs: int) -> None:
    app = Counted(status, (LENGTH,))
    served = World().serve(app)
    replies = [await post(served) for _ in range(2)]
    assert [reply.status for reply in replies] == [status] * 2 and app.runs == runs


async def test_an_application_that_never_answers_frees_the_key() -> None:
    runs = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal runs
        runs += 1

    world = World()
    served = world.serve(app)
    assert [(await post(served)).starts for _ in range(2)] == [0, 0] and runs == 2
    assert world.service.snapshot().in_flight == 0


async def test_transaction_without_a_database_says_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        await post(World().handle(make_thing))


async def test_an_answer_in_flight_is_409_with_retry_after() -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        inside.set()
        await go_on.wait()
        await JSONResponse({"id": 1})(scope, receive, send)

    world = World(route=IdempotencyOptions(wait_s=0.0))
    served = world.serve(app)
    first = asyncio.create_task(post(served))
    await inside.wait()
    early, other = await post(served), await post(served, {"a": 2})
    assert (early.status, early.code, early.headers["retry-after"]) == (409, "IDEMPOTENCY_IN_FLIGHT", "1")
    assert (other.status, other.code) == (409, "IDEMPOTENCY_KEY_REUSED")
    go_on.set()
    assert (await first).status == 200
    snapshot = world.service.snapshot()
    assert (snapshot.conflicts, snapshot.mismatches, snapshot.in_flight) == (2, 1, 0)


async def test_a_client_that_leaves_after_dispatch_finds_its_outcome(database: Database) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(attempt: Attempt, body: dict[str, Any]) -> Any:
        made = await make_thing(attempt, body)
        inside.set()
        await go_on.wait()
        return made

    world = World(database)
    app = world.handle(slow)
    left = asyncio.create_task(post(app, {"a": 1}))
    await inside.wait()
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    go_on.set()
    again = await post(app, {"a": 1})
    assert (again.status, again.replayed, again.json["id"]) == (201, True, 1)
    assert (await effects(database), await records(database)) == (1, 1)


async def test_closing_waits_for_what_runs(database: Database) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(attempt: Attempt, body: dict[str, Any]) -> Any:
        made = await make_thing(attempt, body)
        inside.set()
        await go_on.wait()
        return made

    world = World(database)
    left = asyncio.create_task(post(world.handle(slow)))
    await inside.wait()
    left.cancel()
    closing = asyncio.create_task(world.service.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    await closing
    assert (await effects(database), await records(database)) == (1, 1)


async def test_a_deadline_in_the_handler_undoes_its_effect(database: Database) -> None:
    async def stuck(attempt: Attempt, body: dict[str, Any]) -> Any:
        await make_thing(attempt, body)
        await asyncio.Event().wait()

    world = World(database)
    world.handle(stuck)
    served = world.serve(Deadline(world.app, clock=SystemClock(), deadlines=Deadlines(), default_s=0.2))
    reply = await post(served)
    assert (reply.status, reply.code) == (503, "DEADLINE_EXCEEDED")
    assert (await effects(database), await records(database), world.service.snapshot().in_flight) == (0, 0, 0)


async def test_a_deadline_between_answer_and_commit_does_not_cut_the_commit(database: Database) -> None:
    world = World(database)
    world.handle(make_thing)
    served = world.serve(cut_at_its_answer(world.app))
    first, again = await post(served), await post(served)
    assert (first.status, first.starts) == (201, 1)
    assert (again.replayed, again.body, await effects(database)) == (True, first.body, 1)


async def test_a_deadline_at_the_first_byte_of_a_stream_is_honest(database: Database) -> None:
    world = World(database)

    @world.app.post("/things")
    async def things() -> StreamingResponse:
        await make_thing(attempt(), {})
        return StreamingResponse(iter([b"one", b"two"]))

    served = world.serve(cut_at_its_answer(world.app))
    replies = [await post(served) for _ in range(2)]
    assert [reply.code for reply in replies] == ["IDEMPOTENCY_OUTCOME_NOT_STORED"] * 2
    assert await effects(database) == 1


async def test_background_tasks_run_once_and_after_the_commit(database: Database) -> None:
    world = World(database)
    seen: list[int] = []

    async def look() -> None:
        seen.append(await effects(database))

    @world.app.post("/things", status_code=201)
    async def things(tasks: BackgroundTasks) -> Any:
        tasks.add_task(look)
        return await make_thing(attempt(), {})

    served = world.serve(world.app)
    assert [(await post(served)).status for _ in range(2)] == [201, 201] and seen == [1]


async def transaction() -> Any:
    async with attempt().transaction() as tx:
        yield tx


async def test_a_dependency_may_hold_the_block(database: Database) -> None:
    async def run(world: World) -> ASGIApp:
        @world.app.post("/things", status_code=201)
        async def things(body: dict[str, Any], tx: Annotated[Any, Depends(transaction)]) -> Any:
            assert isinstance(tx, Transaction)
            await tx.execute("INSERT INTO effects VALUES ('x')")
            if body.get("fail"):
                raise HTTPException(404, "gone")
            return {"id": await tx.fetchval("SELECT count(*) FROM effects")}

        return world.serve(world.app)

    served = await run(World(database))
    first, again = await post(served), await post(await run(World(database)))
    refused = await post(served, {"fail": True}, "other")
    assert (first.status, again.replayed, again.body) == (201, True, first.body)
    assert (refused.status, await effects(database), await records(database)) == (404, 1, 2)


async def test_a_base_http_middleware_in_between_changes_nothing(database: Database) -> None:
    async def run(world: World) -> ASGIApp:
        async def stamp(request: Any, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["x-stamp"] = "1"
            return response

        world.app.add_middleware(BaseHTTPMiddleware, dispatch=stamp)
        return world.handle(make_thing)

    first = await post(await run(World(database)))
    again = await post(await run(World(database)))
    assert (first.status, first.headers["x-stamp"], "idempotency-stored" in first.headers) == (201, "1", False)
    assert (again.status, again.replayed, again.body) == (201, True, first.body)


async def test_except_exception_in_the_handler_does_not_hide_the_replay(database: Database) -> None:
    async def careless(attempt: Attempt, body: dict[str, Any]) -> Any:
        try:
            return await make_thing(attempt, body)
        except Exception:
            return {"swallowed": True}

    async def reckless(attempt: Attempt, body: dict[str, Any]) -> Any:
        try:
            return await make_thing(attempt, body)
        except BaseException:
            return {"swallowed": True}

    first = await post(World(database).handle(make_thing))
    for handler in (careless, reckless):
        again = await post(World(database).handle(handler))
        assert (again.replayed, again.body) == (True, first.body)


async def test_a_streamed_answer_commits_its_effect_once(database: Database) -> None:
    world = World(database)

    @world.app.post("/things")
    async def things() -> StreamingResponse:
        await make_thing(attempt(), {})

        async def parts() -> Any:
            yield b"made "
            yield str(await effects(database)).encode()  # committed before the first byte left

        return StreamingResponse(parts())

    served = world.serve(world.app)
    first, again = await post(served), await post(served)
    flushed = World(database)
    later = await post(flushed.handle(make_thing))
    assert (first.body, first.headers["idempotency-stored"]) == (b"made 1", "false")
    assert [again.code, later.code] == ["IDEMPOTENCY_OUTCOME_NOT_STORED"] * 2 and await effects(database) == 1
