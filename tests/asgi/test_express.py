"""The short way gives the layers' answers, with their fields and their counts, in memory and with a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from uvicorn.config import Config
from uvicorn.server import ServerState

from b1 import B1, Policy, PolicyTable, Settings
from b1.asgi.express import EXPRESS_STATE
from b1.clock import SystemClock
from b1.limiter import DEFAULT_POLICIES
from b1.server.heads import HeadLimits
from b1.server.protocol import B1Protocol
from b1.server.refusals import Refusals
from b1.types import Message, Scope
from tests.server.wire import FakeTransport
from tests.servers import RedisServer

SECRET = "a test secret of 32 characters!!"
FEW = Policy("few", 5, 60)
LIMITS = HeadLimits(limit_bytes=20_000, limit_fields=50, timeout_s=10.0)
# What differs between any two answers.
PASSING = {b"x-request-id", b"age", b"x-ratelimit-remaining", b"x-ratelimit-used", b"ratelimit", b"x-ratelimit-reset"}
LONG = "a line of text that repeats itself\n" * 100


class Answer:
    """One answer as it was written."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        self.status = int(first.split()[1])
        self.names = [line.partition(b":")[0].lower() for line in lines]
        self.fields = {name: line.partition(b": ")[2] for name, line in zip(self.names, lines, strict=True)}
        self.body = body

    @property
    def lasting(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """What is the same whoever answers."""
        fields = {name: re.sub(rb"ttl=\d+", b"ttl=0", value) for name, value in self.fields.items()}
        body = re.sub(rb'"requestId":"[^"]*"|"reset":"[^"]*"|"retryAfter":\d+|again in \d+', b"", self.body)
        return self.status, {name: value for name, value in fields.items() if name not in PASSING}, body


class Line:
    """One connection of our server to the application."""

    def __init__(self, app: Any, state: dict[str, Any]) -> None:
        self.app = app
        self.transport = FakeTransport()
        self.tasks = 0
        config = Config(app, log_config=None, lifespan="off", ws="none", proxy_headers=False)
        config.load()
        self.server_state = ServerState()
        self.protocol = B1Protocol(config, self.server_state, state, limits=LIMITS, refusals=Refusals(SystemClock()))
        start = self.protocol._start_asgi_task

        def counted(*args: Any) -> None:
            self.tasks += 1
            start(*args)

        self.protocol._start_asgi_task = counted  # type: ignore[method-assign]
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)  # type: ignore[arg-type]

    async def ask(self, *requests: bytes) -> list[Answer]:
        """Send the requests in one piece, and return the answers in their order."""
        before = len(self.transport.written)
        self.protocol.data_received(b"".join(requests))
        async with asyncio.timeout(10):
            while len(answers := self._answers(before)) < len(requests):
                await asyncio.sleep(0.001)
        return answers

    def _answers(self, at: int) -> list[Answer]:
        found, rest = [], bytes(self.transport.written[at:])
        while b"\r\n\r\n" in rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            size = int(length[1]) if length and b" 304 " not in head.split(b"\r\n")[0] else 0
            if len(rest) < size:
                break
            found.append(Answer(head, rest[:size]))
            rest = rest[size:]
        return found


class Site:
    """A small application with the whole profile around it."""

    def __init__(self, **environment: str) -> None:
        settings = Settings.from_env({"AUTH_JWT_SECRET": SECRET, "LOG_LEVEL": "error", **environment})
        self.runs = 0
        self.app = FastAPI()
        self.b1 = b1 = B1(policies=PolicyTable((*DEFAULT_POLICIES.values(), FEW)), settings=settings)
        self._tokens: dict[tuple[str, int, str], str] = {}
        self.state: dict[str, Any] = {}

        @self.app.get("/text")
        @b1.cached(ttl_s=60, vary="organization", tags=("texts",))
        async def text(request: Request) -> dict[str, Any]:
            self.runs += 1
            return {"run": self.runs, "query": str(request.query_params), "text": "short"}

        @self.app.get("/long")
        @b1.cached(ttl_s=60, vary="organization")
        async def long() -> dict[str, Any]:
            return {"text": LONG}

        @self.app.get("/things/{number}")
        @b1.cached(ttl_s=60, vary="organization", client_ttl_s=30, tags=("thing:{number}",))
        async def thing(number: int) -> dict[str, int]:
            self.runs += 1
            return {"number": number, "run": self.runs}

        @self.app.get("/few")
        @b1.limit("few")
        @b1.cached(ttl_s=60)
        async def few() -> str:
            return "few"

        @self.app.get("/managers")
        @b1.cached(ttl_s=60, vary="organization", allow=lambda principal: principal.role == "MANAGER")
        async def managers() -> str:
            return "managers"

        @self.app.get("/open")
        @b1.cached(ttl_s=60, vary="public")
        async def for_everybody() -> str:
            return "open"

        @self.app.get("/plain")
        async def plain() -> str:
            return "plain"

        b1.install(self.app)

    def line(self, *, is_short: bool = True) -> Line:
        state = dict(self.state)
        if not is_short:
            state[EXPRESS_STATE] = None
        return Line(self.app, state)

    def get(self, path: str, *fields: str, actor: str = "ann", organization: int = 1, role: str = "MEMBER") -> bytes:
        # One token for each caller: what is issued in another second is another token, which nobody knows yet.
        who = actor, organization, role
        token = self._tokens.get(who)
        if token is None:
            claims = {"org": organization, "tier": "pro", "role": role}
            token = self._tokens[who] = self.b1.tokens.issue(actor, claims, ttl_s=600)
        return bare(path, f"authorization: Bearer {token}", *fields)


def bare(path: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: site", *fields, "", ""]).encode()


@asynccontextmanager
async def running(
    prepare: Callable[[Site], None] = lambda _: None, around: Callable[[Any], Any] = lambda app: app, **environment: str
) -> AsyncIterator[Site]:
    """Run a site; `prepare` may add routes before it starts, `around` put something around the application."""
    site = Site(**environment)
    prepare(site)
    served = around(site.app)
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": site.state}
    life = asyncio.create_task(served(scope, inbox.get, outbox.put))  # type: ignore[arg-type]
    await inbox.put({"type": "lifespan.startup"})
    try:
        async with asyncio.timeout(30):
            assert (await outbox.get())["type"] == "lifespan.startup.complete"
            yield site
            await inbox.put({"type": "lifespan.shutdown"})
            assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
            await life
    finally:
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life


@pytest.fixture(params=["memory", "redis"])
async def site(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Site]:
    environment = {"REDIS_URL": redis_url} if request.param == "redis" else {}
    async with running(**environment) as site:
        yield site


async def warm(site: Site, *requests: bytes) -> None:
    """Have everything in the cache: the second answer in a preferred encoding is kept."""
    for request in requests:
        for _ in range(3):
            await site.line(is_short=False).ask(request)


async def test_a_hit_is_answered_without_a_task(site: Site) -> None:
    await warm(site, site.get("/text"))
    line = site.line()
    [answer] = await line.ask(site.get("/text"))
    assert (200, 0, 1) == (answer.status, line.tasks, site.runs)
    assert answer.fields[b"cache-status"].startswith(b"b1; hit; ttl=")


CASES = {
    "a hit": ("/text", ()),
    "a query": ("/text?b=2&a=1", ()),
    "the same query in another order": ("/text?a=1&b=2", ()),
    "a path with a parameter": ("/things/7", ()),
    "compressed": ("/long", ("accept-encoding: gzip",)),
    "compressed better": ("/long", ("accept-encoding: gzip, zstd",)),
    "not compressed": ("/long", ("accept-encoding: identity",)),
    "a request id of the caller's": ("/text", ("x-request-id: from-the-caller-1",)),
    "a range": ("/open", ("range: bytes=0-3",)),
    "reload": ("/text", ("cache-control: no-cache",)),
    "only if cached": ("/text", ("cache-control: only-if-cached",)),
    "an unknown path": ("/nothing", ()),
    "a route without a cache": ("/plain", ()),
    "a path with an escape": ("/%74ext", ()),
    "an absolute target": ("http://site/text", ()),
    "another origin": ("/text", ("origin: https://elsewhere.example",)),
    "a condition that fails": ("/text", ('if-none-match: "other"',)),
    "any": ("/text", ("if-none-match: *",)),
    "a public answer": ("/open", ()),
}


@pytest.mark.parametrize(("path", "fields"), CASES.values(), ids=CASES)
async def test_the_answer_is_the_layers_answer(site: Site, path: str, fields: tuple[str, ...]) -> None:
    request = site.get(path, *fields)
    await warm(site, request)
    [expected] = await site.line(is_short=False).ask(request)
    [answer] = await site.line().ask(request)
    assert expected.lasting == answer.lasting
    assert set(expected.names) == set(answer.names)
    assert len(answer.names) == len(set(answer.names))


async def test_a_known_tag_is_answered_with_304(site: Site) -> None:
    await warm(site, site.get("/text"))
    [whole] = await site.line().ask(site.get("/text"))
    request = site.get("/text", f"if-none-match: {whole.fields[b'etag'].decode()}")
    line = site.line()
    [answer] = await line.ask(request)
    [expected] = await site.line(is_short=False).ask(request)
    assert (304, b"", 0) == (answer.status, answer.body, line.tasks)
    assert expected.lasting == answer.lasting


async def test_bytes_are_those_of_the_encoding(site: Site) -> None:
    await warm(site, site.get("/long", "accept-encoding: gzip"))
    [answer] = await site.line().ask(site.get("/long", "accept-encoding: gzip"))
    assert answer.fields[b"content-encoding"] == b"gzip"
    assert LONG.replace("\n", "\\n") in gzip.decompress(answer.body).decode()


async def test_each_answer_costs_a_unit_and_a_refusal_is_the_layers_refusal(site: Site) -> None:
    await warm(site, site.get("/few"))  # three
    line = site.line()
    answers = [(await line.ask(site.get("/few")))[0] for _ in range(3)]
    [expected] = await site.line(is_short=False).ask(site.get("/few"))
    assert [200, 200, 429] == [answer.status for answer in answers]
    assert [b"1", b"0"] == [answer.fields[b"x-ratelimit-remaining"] for answer in answers[:2]]
    assert expected.lasting == answers[2].lasting
    assert line.tasks == 0


async def test_a_token_that_is_not_known_goes_the_long_way(site: Site) -> None:
    await warm(site, site.get("/text"))
    line = site.line()
    [first] = await line.ask(site.get("/text", actor="bob"))
    [wrong] = await line.ask(bare("/text", "authorization: Bearer nonsense"))
    [nobody] = await line.ask(bare("/text"))
    assert ([200, 401], 3) == ([first.status, wrong.status], line.tasks)
    assert nobody.status == 200 and b"b1; hit" not in nobody.fields.get(b"cache-status", b"")


async def test_another_organisation_never_gets_it(site: Site) -> None:
    mine, theirs = site.get("/text"), site.get("/text", actor="eve", organization=2)
    await warm(site, mine, theirs)
    line = site.line()
    bodies = [(await line.ask(request))[0].body for request in (mine, theirs, mine)]
    assert bodies[0] == bodies[2] != bodies[1]


async def test_the_routes_own_authorisation_is_asked_for_each_caller(site: Site) -> None:
    manager, member = site.get("/managers", actor="mia", role="MANAGER"), site.get("/managers", actor="max")
    await warm(site, manager)
    line = site.line()
    statuses = [(await line.ask(request))[0].status for request in (manager, member, manager)]
    assert [200, 403, 200] == statuses


async def test_what_was_invalidated_is_not_served(site: Site) -> None:
    await warm(site, site.get("/text"))
    line = site.line()
    [before] = await line.ask(site.get("/text"))
    await site.b1.cache.invalidate(("texts",))
    [after] = await line.ask(site.get("/text"))
    assert (b'"run":1', b'"run":2') == (before.body[1:8], after.body[1:8])


async def test_requests_in_a_row_are_answered_in_their_order(site: Site) -> None:
    paths = ["/text", "/plain", "/things/7", "/text", "/things/8", "/plain", "/text"]
    requests = [site.get(path) for path in paths]
    await warm(site, *requests)
    [answers, expected] = [await line.ask(*requests) for line in (site.line(), site.line(is_short=False))]
    assert [answer.body for answer in expected] == [answer.body for answer in answers]


async def test_the_connection_closes_when_the_client_wants_it(site: Site) -> None:
    await warm(site, site.get("/text"))
    line = site.line()
    [answer] = await line.ask(site.get("/text", "connection: close"))
    assert (200, b"close") == (answer.status, answer.fields[b"connection"])
    assert line.transport.is_closing()


async def test_a_stop_while_the_store_is_asked_closes_after_the_answer(site: Site) -> None:
    await warm(site, site.get("/text"))
    line = site.line()
    line.protocol.data_received(site.get("/text"))
    line.protocol.shutdown()
    async with asyncio.timeout(10):
        while not line.transport.is_closing():
            await asyncio.sleep(0.001)
    assert [200] == [answer.status for answer in line._answers(0)]


async def test_a_client_that_hangs_up_meanwhile_hurts_nobody(site: Site) -> None:
    await warm(site, site.get("/text"))
    line = site.line()
    line.protocol.data_received(site.get("/text"))
    line.transport.abort()
    [answer] = await site.line().ask(site.get("/text"))
    assert answer.status == 200


async def test_both_ways_count_alike(site: Site) -> None:
    await warm(site, site.get("/text"))

    def counts() -> tuple[int, ...]:
        state = site.b1.runtime.state()
        layers = {name: hits for name, hits, _ in state.cache_layers}
        assert state.admission is not None
        return layers["responses"], layers["identity"], dict(state.admission.admitted)["normal"]

    async def added(is_short: bool) -> list[int]:
        before = counts()
        await site.line(is_short=is_short).ask(site.get("/text"))
        return [after - was for was, after in zip(before, counts(), strict=True)]

    assert await added(False) == await added(True) == [1, 1, 1]


async def test_a_redis_that_goes_away_is_no_reason_not_to_answer(own_redis: Any) -> None:
    redis: RedisServer = own_redis()
    async with running(REDIS_URL=redis.url) as site:
        await warm(site, site.get("/text"))
        line = site.line()
        await line.ask(site.get("/text"))
        redis.kill()
        statuses = [(await line.ask(site.get("/text")))[0].status for _ in range(5)]
        assert [200] * 5 == statuses
        assert site.runs == 1


async def test_a_redis_that_hangs_is_not_waited_for_long(own_redis: Any) -> None:
    redis: RedisServer = own_redis()
    async with running(REDIS_URL=redis.url) as site:
        await warm(site, site.get("/text"))
        line = site.line()
        redis.suspend()
        try:
            [answer] = await line.ask(site.get("/text"))
        finally:
            redis.resume()
        assert (200, 1) == (answer.status, site.runs)
