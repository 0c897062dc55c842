"""Where the short way could differ from the layers: schemes, costs, odd targets, failures, and the end of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import Request

from b1 import Policy
from b1.asgi.express import EXPRESS_STATE, Express
from b1.profile import ensure_wrapped
from b1.server.cycle import ANSWERED, Waiting
from b1.server.serving import B1Server
from b1.types import Principal, Scope
from tests.asgi.test_express import SECRET, Site, bare, running, warm

WHOSE: ContextVar[str] = ContextVar("whose", default="nobody's")


def add_routes(site: Site) -> None:
    """What no other test of the short way needs."""
    app, b1 = site.app, site.b1

    @app.get("/scheme")
    @b1.cached(ttl_s=60, vary="public")
    async def scheme(request: Request) -> str:
        return request.url.scheme

    @app.get("/echo")
    @b1.cached(ttl_s=60, vary="public")
    async def echo(request: Request) -> str:
        return request.url.query

    def breaking(principal: Principal) -> bool:
        if site.runs < 0:
            raise LookupError("a table is missing")
        return True

    @app.get("/breaking")
    @b1.cached(ttl_s=60, vary="organization", allow=breaking)
    async def checked() -> str:
        return "checked"

    @app.get("/settled")
    @b1.limit("few")
    @b1.cached(ttl_s=60, vary="organization", tags=("settled",))
    async def settled() -> str:
        b1.settle("few", 1)
        return "settled"

    @app.get("/whose")
    @b1.cached(ttl_s=60, vary="organization", tags=("whose",))
    async def whose(request: Request) -> list[str]:
        return [WHOSE.get(), *request.headers.getlist("authorization")]


@pytest.fixture
async def memory() -> AsyncIterator[Site]:
    async with running(prepare=add_routes) as site:
        yield site


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Site]:
    async with running(prepare=add_routes, REDIS_URL=redis_url) as site:
        yield site


def express_of(site: Site) -> Express:
    return cast("Express", site.state[EXPRESS_STATE])


async def test_an_answer_made_for_one_scheme_is_not_served_for_the_other() -> None:
    async with running(prepare=add_routes, B1_PROXY="1") as site:
        plain, secure = bare("/scheme", "x-forwarded-proto: http"), bare("/scheme", "x-forwarded-proto: https")
        await warm(site, plain)
        line = site.line()
        [first], [second] = await line.ask(secure), await line.ask(plain)
        assert (b'"https"', b'"http"') == (first.body, second.body)


async def test_behind_a_proxy_that_ends_tls_a_hit_is_answered_without_a_task() -> None:
    async with running(prepare=add_routes, B1_PROXY="1") as site:
        await warm(site, bare("/scheme", "x-forwarded-proto: https"))
        line = site.line()
        [answer] = await line.ask(bare("/scheme", "x-forwarded-proto: https"))
        assert (b'"https"', 0) == (answer.body, line.tasks)


async def test_where_scripts_of_other_origins_may_ask_every_answer_varies_by_origin() -> None:
    async with running(prepare=add_routes, CORS_ORIGINS="https://a.example") as site:
        await warm(site, site.get("/text"), site.get("/few"))
        line = site.line()
        answers = [(await line.ask(site.get(path)))[0] for path in ("/text", "/few", "/few", "/few")]
        assert ([200, 200, 200, 429], 0) == ([answer.status for answer in answers], line.tasks)
        assert all(b"Origin" in answer.fields[b"vary"] for answer in answers)


async def test_a_fragment_is_no_part_of_the_query(memory: Site) -> None:
    await warm(memory, bare("/echo?a=1%23b"))
    [answer] = await memory.line().ask(bare("/echo?a=1#b"))
    assert answer.body == b'"a=1"'


async def test_long_paths_are_not_remembered(memory: Site) -> None:
    line = memory.line()
    for number in range(20):
        await line.ask(bare(f"/{number:0>8000}"))
    assert "paths=0" in repr(express_of(memory))


async def test_a_check_that_fails_is_the_servers_error_and_no_bad_request(memory: Site) -> None:
    await warm(memory, memory.get("/breaking"))
    memory.runs = -1
    [expected] = await memory.line(is_short=False).ask(memory.get("/breaking"))
    [answer] = await memory.line().ask(memory.get("/breaking"))
    assert (500, expected.lasting) == (answer.status, answer.lasting)


async def test_a_connection_of_http_1_0_is_closed_after_its_answer(memory: Site) -> None:
    for path in ("/open", "/plain"):
        line = memory.line()
        request = bare(path, "connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
        [answer] = await line.ask(request)
        assert (200, b"close", True) == (answer.status, answer.fields[b"connection"], line.transport.is_closing())


async def test_when_every_answer_is_the_last_the_short_way_closes_too(memory: Site) -> None:
    await warm(memory, bare("/open"))
    line = memory.line()
    line.server_state.default_headers = [(b"connection", b"close")]
    line.protocol.data_received(bare("/open") + bare("/open") + bare("/plain"))
    assert [1] == [answer.names.count(b"connection") for answer in line._answers(0)]
    assert (True, 0) == (line.transport.is_closing(), line.tasks)


async def test_the_last_answer_that_had_to_wait_says_so_once(redis: Site) -> None:
    await warm(redis, redis.get("/text"))
    line = redis.line()
    line.protocol.data_received(redis.get("/text"))
    line.server_state.default_headers = [(b"connection", b"close")]
    line.protocol.shutdown()
    await until(line.transport.is_closing)
    assert [1] == [answer.names.count(b"connection") for answer in line._answers(0)]


async def test_the_end_of_streams_passes_by_what_the_short_way_answers(redis: Site) -> None:
    await warm(redis, redis.get("/text"))
    waiting, answered = redis.line(), redis.line()
    waiting.protocol.data_received(redis.get("/text"))
    answered.protocol.cycle = ANSWERED
    assert isinstance(waiting.protocol.cycle, Waiting)
    server = SimpleNamespace(server_state=SimpleNamespace(connections=[waiting.protocol, answered.protocol]))
    B1Server._end_streams(cast("Any", server))
    await until(lambda: len(waiting._answers(0)) == 1)
    assert not waiting.transport.is_closing()


async def test_a_request_that_the_short_way_charged_can_be_settled(redis: Site) -> None:
    await warm(redis, redis.get("/settled"))
    line = redis.line()
    line.protocol.data_received(redis.get("/settled"))
    redis.b1.cache.invalidate(("settled",))  # so that it is charged, and has to be made
    await until(lambda: len(line._answers(0)) == 1)
    [answer] = line._answers(0)
    assert (200, b'"settled"', b"1", 1) == (
        answer.status, answer.body, answer.fields[b"x-ratelimit-remaining"], line.tasks,
    )  # fmt: skip


async def test_what_the_layers_make_does_not_run_in_the_context_of_whoever_told(redis: Site) -> None:
    await warm(redis, redis.get("/whose"))
    line = redis.line()
    line.protocol.data_received(redis.get("/whose"))
    waiting = cast("Any", line.protocol.cycle)
    redis.b1.cache.invalidate(("whose",))
    WHOSE.set("somebody else's")
    waiting.take(None, None)
    await until(lambda: len(line._answers(0)) == 1)
    assert line._answers(0)[0].body.startswith(b'["nobody\'s"')


async def test_a_request_that_waited_behind_another_does_not_run_in_its_context(memory: Site) -> None:
    line = memory.line(is_short=False)
    start = line.protocol._start_asgi_task
    seen: list[str] = []

    def noted(*args: Any) -> None:
        seen.append(WHOSE.get())
        start(*args)
        args[0].scope["state"]["set"] = True

    line.protocol._start_asgi_task = noted  # type: ignore[method-assign]
    inner = line.protocol.app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        WHOSE.set("the first one's")
        await inner(scope, receive, send)

    line.protocol.app = cast("Any", app)
    await line.ask(memory.get("/plain"), memory.get("/plain"))
    assert ["nobody's", "nobody's"] == seen


async def test_an_answer_that_cannot_be_sent_costs_its_own_connection_alone(redis: Site) -> None:
    await warm(redis, redis.get("/text"))
    line, other = redis.line(), redis.line()

    def failing(_: Any) -> None:
        raise OSError("no descriptor is left")

    line.protocol.give_through(failing)
    line.protocol.data_received(redis.get("/text"))
    [answer] = await other.ask(redis.get("/text"))
    assert (200, 0) == (answer.status, other.tasks)
    assert line.transport.ended == "abort"
    assert cast("Any", redis.b1.runtime.link).snapshot().connects == 1


async def test_a_handler_sees_the_one_authorization_that_was_believed(memory: Site) -> None:
    [mine, theirs] = [memory.get("/whose", actor=name).split(b"\r\n")[2] for name in ("ann", "eve")]
    request = bare("/whose", mine.decode(), theirs.decode())
    [answer] = await memory.line().ask(request)
    assert answer.body == b'["nobody\'s","%b"]' % theirs.partition(b": ")[2]


async def test_of_two_authorizations_both_ways_believe_the_same(memory: Site) -> None:
    [mine, theirs] = [
        memory.get("/text", actor="ann", organization=1).split(b"\r\n")[2],
        memory.get("/text", actor="eve", organization=2).split(b"\r\n")[2],
    ]
    await warm(memory, bare("/text", mine.decode()), bare("/text", theirs.decode()))
    for pair in ((mine, theirs), (theirs, mine)):
        request = bare("/text", *[field.decode() for field in pair])
        [expected] = await memory.line(is_short=False).ask(request)
        [answer] = await memory.line().ask(request)
        assert expected.lasting == answer.lasting


async def test_a_price_that_the_request_names_is_charged_by_both_ways() -> None:
    def prepare(site: Site) -> None:
        price = Policy("priced", 1000, 60, cost=lambda scope: 10 if scope and b"big" in scope["query_string"] else 1)

        @site.app.get("/priced")
        @site.b1.limit(price)
        @site.b1.cached(ttl_s=60, vary="public")
        async def priced() -> str:
            return "priced"

    async with running(prepare=prepare) as site:
        await warm(site, bare("/priced?big=1"))
        line = site.line()
        answers = [(await line.ask(bare("/priced?big=1")))[0] for _ in range(2)]
        assert [b"960", b"950"] == [answer.fields[b"x-ratelimit-remaining"] for answer in answers]


async def test_what_stands_around_an_application_with_a_profile_is_not_passed_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTH_JWT_SECRET", SECRET)
    monkeypatch.setenv("LOG_LEVEL", "error")

    def gated(app: Any) -> Any:
        async def gate(scope: Scope, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
            else:
                await app(scope, receive, send)

        return ensure_wrapped(gate)

    async with running(around=gated) as site:
        await warm(site, bare("/open"))
        assert site.state[EXPRESS_STATE] is None


@pytest.fixture(params=["memory", "redis"])
async def both(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Site]:
    has_redis = request.param == "redis"
    async with running(add_routes, REDIS_URL=redis_url) if has_redis else running(add_routes) as site:
        yield site


def break_after_the_decision(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def decided(*_: object) -> None:
        raise LookupError("a table is missing")

    monkeypatch.setattr(express_of(site), "decided", decided)


def failures(site: Site) -> bytes:
    text: bytes = site.b1.runtime.metrics.exposition("")[0]
    return next(line for line in text.splitlines() if line.startswith(b"b1_short_way_failures_total "))


async def test_a_failure_after_the_decision_is_charged_once_and_counted(
    both: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await warm(both, both.get("/few"))  # spends three of five
    break_after_the_decision(both, monkeypatch)
    line = both.line()
    [answer] = await line.ask(both.get("/few"))
    assert (200, b'"few"', b"1", 1) == (
        answer.status, answer.body, answer.fields[b"x-ratelimit-remaining"], line.tasks,
    )  # fmt: skip
    assert b"b1_short_way_failures_total 1.0" == failures(both)


async def test_a_request_whose_head_is_known_is_charged_once_too(both: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    request = both.get("/few")
    await warm(both, request)
    line = both.line()
    [first] = await line.ask(request)
    break_after_the_decision(both, monkeypatch)
    [second], [third] = await line.ask(request), await line.ask(request)
    assert [b"1", b"0", b"0"] == [one.fields[b"x-ratelimit-remaining"] for one in (first, second, third)]
    assert ([200, 200, 429], 2) == ([one.status for one in (first, second, third)], line.tasks)
    assert b"b1_short_way_failures_total 2.0" == failures(both)


async def test_a_failure_after_a_refusal_lets_nobody_pass(both: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await warm(both, both.get("/few"))
    [_, _, expected] = [(await both.line().ask(both.get("/few")))[0] for _ in range(3)]
    break_after_the_decision(both, monkeypatch)
    [answer] = await both.line().ask(both.get("/few"))
    assert (429, expected.lasting) == (answer.status, answer.lasting)


async def test_a_failure_before_the_decision_is_counted_and_charged_by_the_layers_alone(memory: Site) -> None:
    await warm(memory, memory.get("/breaking"))
    memory.runs = -1
    await memory.line().ask(memory.get("/breaking"))
    assert b"b1_short_way_failures_total 1.0" == failures(memory)


async def test_without_a_failure_nothing_is_counted(both: Site) -> None:
    await warm(both, both.get("/few"))
    await both.line().ask(both.get("/few"))
    assert b"b1_short_way_failures_total 0.0" == failures(both)


async def until(is_so: Any) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)
