"""The wire table: what a client gets, case by case, over memory, over Redis and in the effect's own transaction.

Every case ends with what is there (effects, keys) and with nothing held: no attempt, no waiter, no connection, no body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import HTTPException
from starlette.responses import RedirectResponse, Response, StreamingResponse

from b1.errors import StoreUnavailable
from b1.idempotency import Attempt, ServiceOptions
from b1.store.base import Claim
from b1.types import ASGIApp, Message
from tests.idempotency.harness import BOB, Reply, World, post, until
from tests.idempotency.modes import Mode

REPLAY = ("idempotent-replayed", "x-idempotency-replay", "x-original-timestamp")
AT_ONCE: dict[str, Any] = {"wait_s": 0.0}
PATIENT: dict[str, Any] = {"wait_s": 15.0}


async def ends(mode: Mode, *, effects: int, keys: int | None = None) -> None:
    """Check what is there at the end of a case."""
    await until(mode.has_left)
    assert await mode.effects() == effects
    if keys is not None:
        assert mode.keys() == keys


def refused(reply: Reply) -> tuple[int, str | None, bool]:
    """Status, code, and whether the client is told when to come back."""
    assert reply.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code"} <= reply.json.keys() and reply.json["status"] == reply.status
    assert not set(REPLAY) & reply.headers.keys() and reply.headers["cache-control"] == "no-store"
    return reply.status, reply.code, "retry-after" in reply.headers


class Gate:
    """A handler of `mode` that waits in the middle of its work until it may go on."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._go_on = asyncio.Event()
        self.runs = 0

    def open(self) -> None:
        self._go_on.set()

    async def handle(self, attempt: Attempt, body: dict[str, Any]) -> dict[str, Any]:
        self.runs += 1
        await self._go_on.wait()
        return await self._mode.make(attempt, body)


async def held(mode: Mode, options: ServiceOptions | None = None, **route: Any) -> tuple[Gate, ASGIApp, World]:
    gate, world = Gate(mode), mode.world(options, **route)
    return gate, world.handle(gate.handle), world


async def running(gate: Gate, app: ASGIApp, body: Any, key: str = "k") -> asyncio.Task[Reply]:
    task = asyncio.create_task(post(app, body, key))
    await until(lambda: gate.runs == 1)
    return task


async def test_no_key_where_one_is_required(mode: Mode) -> None:
    reply = await post(mode.serve(required=True), {"a": 1}, None)
    assert refused(reply) == (400, "IDEMPOTENCY_KEY_MISSING", False)
    await ends(mode, effects=0, keys=0)


MALFORMED: dict[str, tuple[bytes, ...]] = {
    "empty": (b"",),
    "an empty string": (b'""',),
    "too long": (b"k" * 256,),
    "too long in quotes": (b'"' + b"k" * 256 + b'"',),
    "two lines": (b"k", b"k"),
    "a list": (b'"a", "b"',),
    "a bare list": (b"a,b",),
    "a parameter": (b'"a";x=1',),
    "an open quote": (b'"a',),
    "a wrong escape": (b'"a\\b"',),
    "a space": (b"a b",),
    "a control character": (b"a\x01",),
    "latin": (b"\xe9",),
    "utf-8": ("ключ".encode(),),
}


@pytest.mark.parametrize("values", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_key(mode: Mode, values: tuple[bytes, ...]) -> None:
    headers = tuple((b"idempotency-key", value) for value in values)
    reply = await post(mode.serve(), {"a": 1}, None, headers=headers)
    assert refused(reply) == (400, "IDEMPOTENCY_KEY_INVALID", False)
    await ends(mode, effects=0, keys=0)


async def test_two_headers_that_disagree(mode: Mode) -> None:
    reply = await post(mode.serve(), {"a": 1}, "a", headers=((b"x-idempotency-key", b"b"),))
    assert refused(reply) == (400, "IDEMPOTENCY_KEY_INVALID", False)
    await ends(mode, effects=0, keys=0)


async def test_the_first_use_is_the_handler_s_answer(mode: Mode) -> None:
    reply = await post(mode.serve(), {"a": 1})
    assert (reply.status, reply.json) == (201, {"id": 1, "body": {"a": 1}})
    assert not {*REPLAY, "idempotency-stored", "idempotency-key-source"} & reply.headers.keys()
    await ends(mode, effects=1, keys=1)


KEYS = [
    b'"8e03978e-40d5-43e8-bc93-6894a57f9324"',
    b'"clkyoesmbgybucifusbbtdsbohtyuuwz"',
    b'"a,b;c"',
    b'"\\"\\\\"',
    b"k" * 255,
]


@pytest.mark.parametrize("key", KEYS)
async def test_the_same_request_again_is_the_stored_answer(mode: Mode, key: bytes) -> None:
    app, headers = mode.serve(), ((b"idempotency-key", key),)
    first, again = [await post(app, {"a": 1}, None, headers=headers) for _ in range(2)]
    assert (again.status, again.body, again.headers["content-type"]) == (201, first.body, "application/json")
    assert again.headers["idempotent-replayed"] == again.headers["x-idempotency-replay"] == "true"
    assert again.headers["x-original-timestamp"].endswith("Z")
    await ends(mode, effects=1, keys=1)


async def test_bare_quoted_and_the_other_header_are_one_key(mode: Mode) -> None:
    app = mode.serve()
    spellings = [(b"idempotency-key", b"k"), (b"idempotency-key", b' "k" '), (b"x-idempotency-key", b"k")]
    replies = [await post(app, {"a": 1}, None, headers=(one,)) for one in spellings]
    assert [reply.replayed for reply in replies] == [False, True, True]
    await ends(mode, effects=1, keys=1)


async def test_to_the_letter_of_the_draft(mode: Mode) -> None:
    options = ServiceOptions(quoted_only=True, mismatch_status=422, described_by="https://example.com/keys")
    app = mode.serve(options, required=True)

    async def ask(*headers: tuple[bytes, bytes], body: Any = None) -> Reply:
        return await post(app, body or {"a": 1}, None, headers=headers)

    bare, legacy = await ask((b"idempotency-key", b"k")), await ask((b"x-idempotency-key", b'"k"'))
    quoted = (b"idempotency-key", b'"k"')
    first, again, other = await ask(quoted), await ask(quoted), await ask(quoted, body={"a": 2})
    assert [bare.code, legacy.code] == ["IDEMPOTENCY_KEY_INVALID", "IDEMPOTENCY_KEY_MISSING"]
    assert (first.status, again.replayed, refused(other)) == (201, True, (422, "IDEMPOTENCY_KEY_REUSED", False))
    link = '<https://example.com/keys>; rel="describedby"; type="text/html"'
    assert [reply.headers.get("link") for reply in (bare, legacy, other, first, again)] == [link] * 3 + [None] * 2
    await ends(mode, effects=1, keys=1)


@pytest.mark.parametrize(
    ("service", "route", "status"), [(409, None, 409), (422, None, 422), (409, 422, 422), (422, 409, 409)]
)
async def test_another_payload_after_the_end(mode: Mode, service: int, route: int | None, status: int) -> None:
    app = mode.serve(ServiceOptions(mismatch_status=service), mismatch_status=route)
    await post(app, {"a": 1})
    assert refused(await post(app, {"a": 2})) == (status, "IDEMPOTENCY_KEY_REUSED", False)
    assert (await post(app, {"a": 1})).replayed
    await ends(mode, effects=1, keys=1)


async def test_another_payload_meets_a_record_that_only_the_first_process_knows(mode: Mode) -> None:
    """With Postgres the record is found there although this process's store is empty; else the store is one."""
    await post(mode.serve(), {"a": 1})
    if mode.database is not None:
        mode.store = World().store
    app = mode.serve(mismatch_status=422)
    assert refused(await post(app, {"a": 2})) == (422, "IDEMPOTENCY_KEY_REUSED", False)
    assert (await post(app, {"a": 1})).replayed
    await ends(mode, effects=1)


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_another_payload_while_the_first_runs(mode: Mode, is_elsewhere: bool) -> None:
    gate, app, _ = await held(mode, **PATIENT)
    first = await running(gate, app, {"a": 1})
    asked = (await held(mode, **PATIENT))[1] if is_elsewhere else app
    assert refused(await post(asked, {"a": 2})) == (409, "IDEMPOTENCY_KEY_REUSED", False)
    gate.open()
    assert (await first).status == 201
    await ends(mode, effects=1, keys=1)


@pytest.mark.parametrize("wait_s", [0.0, 0.02])
async def test_the_same_request_while_the_first_runs_is_told_to_come_back(mode: Mode, wait_s: float) -> None:
    gate, app, _ = await held(mode, wait_s=wait_s)
    first = await running(gate, app, {"a": 1})
    assert refused(await post(app, {"a": 1})) == (409, "IDEMPOTENCY_IN_FLIGHT", True)
    gate.open()
    assert (await first).status == 201 and (await post(app, {"a": 1})).replayed
    await ends(mode, effects=1, keys=1)


async def test_the_same_request_waits_for_the_first_and_holds_no_connection(mode: Mode) -> None:
    gate, app, world = await held(mode, **PATIENT)
    first = await running(gate, app, {"a": 1})
    waiters = [asyncio.create_task(post(app, {"a": 1})) for _ in range(4)]
    await until(lambda: world.service.snapshot().waiting == 4)
    assert refused(await post(app, {"a": 1})) == (409, "IDEMPOTENCY_IN_FLIGHT", True)  # the fifth
    assert mode.database is None or mode.database.snapshot().in_use == 0
    gate.open()
    replies = await asyncio.gather(first, *waiters)
    assert {reply.body for reply in replies} == {replies[0].body} and sum(reply.replayed for reply in replies) == 4
    await ends(mode, effects=1, keys=1)


async def test_a_duplicate_in_another_process_gets_the_answer_too(mode: Mode) -> None:
    gate, app, _ = await held(mode, **PATIENT)
    first = await running(gate, app, {"a": 1})
    _, elsewhere, other = await held(mode, **PATIENT)
    second = asyncio.create_task(post(elsewhere, {"a": 1}))
    await until(lambda: other.service.snapshot().in_flight == 1)
    gate.open()
    replies = await asyncio.gather(first, second)
    assert [reply.replayed for reply in replies] == [False, True] and replies[0].body == replies[1].body
    await ends(mode, effects=1, keys=1)


async def claimed_by_the_dead(mode: Mode, monkeypatch: pytest.MonkeyPatch, lease_ms: int) -> None:
    """Leave the claim of a process that was killed: of key ``k``, with the payload ``{"a": 1}``."""
    asked: list[tuple[str, bytes]] = []
    claim: Callable[..., Awaitable[Claim]] = mode.store.claim

    async def spying(key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        asked.append((key, fingerprint))
        return await claim(key, fingerprint, lease_ms=lease_ms)

    async def fail(attempt: Attempt, body: dict[str, Any]) -> Any:
        raise HTTPException(503)

    with monkeypatch.context() as patch:
        patch.setattr(mode.store, "claim", spying)
        assert (await post(mode.world().handle(fail), {"a": 1})).status == 503
    await mode.store.claim(*asked[0], lease_ms=lease_ms)


async def test_a_dead_owner_is_followed(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a transaction after its lease; with one at once, since Postgres knows that nothing was committed."""
    transactional = mode.database is not None
    await claimed_by_the_dead(mode, monkeypatch, lease_ms=30_000)
    app = mode.serve(wait_s=0.0 if transactional else 15.0)
    asked = asyncio.create_task(post(app, {"a": 1}))
    if not transactional:
        await until(lambda: mode.worlds[-1].service.snapshot().in_flight == 1)
        await mode.age(31)
    reply = await asked
    assert (reply.status, reply.replayed, (await post(app, {"a": 1})).replayed) == (201, False, True)
    await ends(mode, effects=1)


async def test_a_dead_owner_s_lease_is_respected(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    await claimed_by_the_dead(mode, monkeypatch, lease_ms=30_000)
    if mode.database is not None:
        return  # the case above
    assert refused(await post(mode.serve(**AT_ONCE), {"a": 1})) == (409, "IDEMPOTENCY_IN_FLIGHT", True)
    await ends(mode, effects=0, keys=1)


async def test_an_answer_that_cannot_be_stored(mode: Mode) -> None:
    async def stream(attempt: Attempt, body: dict[str, Any]) -> Response:
        await mode.make(attempt, body)

        async def pieces() -> Any:
            yield b"one"
            yield b"two"

        return StreamingResponse(pieces())

    app = mode.world().handle(stream)
    first, again = await post(app, {"a": 1}), await post(app, {"a": 1})
    assert (first.status, first.body, first.headers["idempotency-stored"]) == (200, b"onetwo", "false")
    assert refused(again) == (409, "IDEMPOTENCY_OUTCOME_NOT_STORED", False)
    await ends(mode, effects=1, keys=1)


async def test_an_answer_over_the_cap(mode: Mode) -> None:
    async def long(attempt: Attempt, body: dict[str, Any]) -> Response:
        await mode.make(attempt, body)
        return Response(b"x" * 3000)

    app = mode.world(body_cap_bytes=2000).handle(long)
    first, again = await post(app, {"a": 1}), await post(app, {"a": 1})
    assert (first.body, first.headers["idempotency-stored"]) == (b"x" * 3000, "false")
    assert refused(again) == (409, "IDEMPOTENCY_OUTCOME_NOT_STORED", False)
    await ends(mode, effects=1, keys=1)


async def test_nobody_can_say(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the store: 503, and nothing runs. With a transaction Postgres says it."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(mode.store, "claim", fail)
    app = mode.serve()
    replies = [await post(app, {"a": 1}) for _ in range(2)]
    if mode.database is None:
        assert {refused(reply) for reply in replies} == {(503, "STORE_UNAVAILABLE", True)}
    else:
        assert [(reply.status, reply.replayed) for reply in replies] == [(201, False), (201, True)]
    await ends(mode, effects=0 if mode.database is None else 1, keys=0)


async def test_a_body_over_the_limit(mode: Mode) -> None:
    assert refused(await post(mode.serve(), {"a": "x" * 5000})) == (413, "BODY_TOO_LARGE", False)
    await ends(mode, effects=0, keys=0)


async def test_a_body_that_breaks_off(mode: Mode) -> None:
    half: list[Message] = [
        {"type": "http.request", "body": b'{"a": 1', "more_body": True},
        {"type": "http.disconnect"},
    ]
    assert (await post(mode.serve(), messages=half)).starts == 0
    await ends(mode, effects=0, keys=0)


def answering(mode: Mode, status: int) -> Callable[[Attempt, dict[str, Any]], Awaitable[Any]]:
    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        made = await mode.make(attempt, body)
        if status >= 400:
            raise HTTPException(status, "no")
        return RedirectResponse("/elsewhere", status) if status >= 300 else Response(str(made["id"]), status)

    return handler


@pytest.mark.parametrize("status", [200, 201, 202, 204, 303, 307, 400, 402, 404, 410, 418, 422])
async def test_a_final_answer_is_stored(mode: Mode, status: int) -> None:
    body = {"a": 1}
    app = mode.world().handle(answering(mode, status))
    first, again = await post(app, body), await post(app, body)
    assert [(reply.status, reply.replayed) for reply in (first, again)] == [(status, False), (status, True)]
    assert (again.body, again.headers.get("location")) == (first.body, first.headers.get("location"))
    # Without a transaction nobody undoes what a refusing handler did.
    await ends(mode, effects=int(status < 400 or mode.database is None), keys=1)


@pytest.mark.parametrize("status", [401, 403, 407, 408, 409, 421, 425, 429, 500, 502, 503, 504])
async def test_a_passing_answer_is_not(mode: Mode, status: int) -> None:
    world = mode.world()
    failing = world.handle(answering(mode, status))
    replies = [await post(failing, {"a": 1}) for _ in range(2)]
    retried = await post(mode.serve(), {"a": 1})
    assert [(reply.status, reply.replayed) for reply in replies] == [(status, False)] * 2
    assert (retried.status, retried.replayed) == (201, False)
    await ends(mode, effects=1 if mode.database is not None else 3, keys=1)


async def test_a_validation_error_is_not_stored_and_a_corrected_body_is_another_payload(mode: Mode) -> None:
    app = mode.serve()
    broken = [await post(app, raw=b"[]") for _ in range(2)]
    assert [(reply.status, reply.replayed) for reply in broken] == [(422, False)] * 2
    assert (await post(app, {"a": 1})).status == 201
    await ends(mode, effects=1, keys=1)


async def test_an_exception_frees_the_key(mode: Mode) -> None:
    fail = True

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        if fail:
            raise LookupError("bad happened")
        return await mode.make(attempt, body)

    app = mode.world().handle(handler)
    with pytest.raises(LookupError, match="bad happened"):
        await post(app, {"a": 1})
    fail = False
    assert (await post(app, {"a": 1})).status == 201
    await ends(mode, effects=1, keys=1)


async def test_a_client_that_leaves_after_the_start_finds_its_answer(mode: Mode) -> None:
    gate, app, _ = await held(mode, **PATIENT)
    first = await running(gate, app, {"a": 1})
    first.cancel()
    await until(first.done)
    retry = asyncio.create_task(post(app, {"a": 1}))
    gate.open()
    assert (await retry).replayed and gate.runs == 1
    await ends(mode, effects=1, keys=1)


async def test_a_record_ends(mode: Mode) -> None:
    app = mode.serve(ttl_s=60.0)
    assert not (await post(app, {"a": 1})).replayed
    await mode.age(61)
    assert not (await post(app, {"a": 2})).replayed  # even another payload: the key is free
    await ends(mode, effects=2, keys=1)


async def test_off_means_that_the_key_means_nothing(mode: Mode) -> None:
    runs: list[Any] = []

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        runs.append(attempt)
        return {}

    world = mode.world(enabled=False)
    app = world.handle(handler)
    replies = [await post(app, {"a": 1}, key) for key in ("k", "k", "a b")]
    assert ([reply.status for reply in replies], runs) == ([201] * 3, [None] * 3)
    await ends(mode, effects=0, keys=0)


async def test_the_same_key_of_another_actor_is_another(mode: Mode) -> None:
    app = mode.serve()
    replies = [await post(app, {"a": 1}), await post(app, {"a": 2}, principal=BOB)]
    assert [(reply.status, reply.replayed) for reply in replies] == [(201, False)] * 2
    await ends(mode, effects=2, keys=2)
