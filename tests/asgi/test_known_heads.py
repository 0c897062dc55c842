"""Heads that came before are answered without the parser: the same answers and counts, and only while all of it holds."""

from __future__ import annotations

from asyncio import timeout
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import Request

from b1.asgi.express import Express, Way
from b1.asgi.known_heads import HEAD_BYTES, Head, KnownHeads
from b1.asgi.options import NOTHING_DECLARED
from b1.limiter.policy import scaled
from b1.types import Principal
from tests.asgi.test_express import Line, Site, bare, running, warm


@pytest.fixture(params=["memory", "redis", "ahead"])
async def site(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Site]:
    environment = {} if request.param == "memory" else {"REDIS_URL": redis_url}
    if request.param == "ahead":
        environment["B1_LIMIT_AHEAD"] = "5"

    def prepare(site: Site) -> None:
        @site.app.post("/echo")
        async def echo(request: Request) -> int:
            return len(await request.body())

        @site.app.get("/fields")
        @site.b1.cached(ttl_s=60)
        async def fields(request: Request) -> dict[str, str]:
            return dict(request.headers)

    async with running(prepare, **environment) as site:
        yield site


async def known(site: Site, *requests: bytes) -> Line:
    """Return a connection on which these heads need no parser any more."""
    await warm(site, *requests)
    line = site.line()
    for request in requests * 2:
        await line.ask(request)
    parsed = line.protocol._messages
    for request in requests:
        await line.ask(request)
    assert line.protocol._messages == parsed
    return line


@pytest.mark.parametrize("path", ["/text?a=1", "/open", "/things/7", "/managers", "/fields"])
async def test_a_head_that_came_before_is_answered_as_it_was_without_the_parser(site: Site, path: str) -> None:
    role = "MANAGER" if path == "/managers" else "MEMBER"
    request = bare(path) if path == "/open" else site.get(path, "accept: */*", role=role)
    line = await known(site, request)
    (layers,) = await site.line(is_short=False).ask(request)
    parsed, tasks = line.protocol._messages, line.tasks
    answers = [(await line.ask(request))[0] for _ in range(3)]
    assert [answer.lasting for answer in answers] == [layers.lasting] * 3
    assert [answer.names for answer in answers] == [layers.names] * 3
    assert (line.protocol._messages, line.tasks) == (parsed, tasks)
    assert len({answer.fields[b"x-request-id"] for answer in answers}) == 3
    left = [int(answer.fields[b"x-ratelimit-remaining"]) for answer in (layers, *answers)]
    assert left == list(range(left[0], left[0] - 4, -1))


async def test_who_is_refused_by_a_limit_is_refused_in_the_same_words(site: Site) -> None:
    request = site.get("/few", actor="eve")
    await warm(site, site.get("/few", actor="ann"))  # another actor of the same organisation spends the warming
    line = site.line()
    answers = [(await line.ask(request))[0] for _ in range(7)]
    assert [answer.status for answer in answers] == [200] * 5 + [429] * 2
    (layers,) = await site.line(is_short=False).ask(request)
    (again,) = await line.ask(request)
    assert again.lasting == layers.lasting


async def test_an_actor_who_was_forgotten_is_looked_up_again(site: Site) -> None:
    request = site.get("/text", actor="joe")
    line = await known(site, request)
    parsed = line.protocol._messages
    identity = site.b1.runtime.identity
    misses = identity.misses
    identity.forget("joe")
    (answer,) = await line.ask(request)
    assert (answer.status, identity.misses) == (200, misses + 1)
    assert line.protocol._messages == parsed + 1


async def test_what_was_invalidated_is_not_served_to_a_known_head(site: Site) -> None:
    request = site.get("/text")
    line = await known(site, request)
    (before,) = await line.ask(request)
    await site.b1.cache.invalidate(tags=["texts"])
    (after,) = await line.ask(request)
    assert before.body != after.body
    assert b"hit" not in after.fields[b"cache-status"]


async def test_another_table_of_limits_holds_from_the_next_request_on(site: Site) -> None:
    request = site.get("/text")
    line = await known(site, request)
    limiter = site.b1.runtime.limiter
    (before,) = await line.ask(request)
    limiter.replace(scaled(limiter.table, 2))
    (after,) = await line.ask(request)
    assert int(after.fields[b"x-ratelimit-limit"]) == 2 * int(before.fields[b"x-ratelimit-limit"])


async def test_a_body_that_looks_like_a_known_head_is_a_body(site: Site) -> None:
    request = site.get("/text")
    line = await known(site, request)
    token = request.split(b"authorization: ")[1].split(b"\r\n")[0].decode()
    head = bare("/echo", f"authorization: {token}", f"content-length: {len(request)}", method="POST")
    written = len(line.transport.written)
    line.protocol.data_received(head)
    (answer,) = await line.ask(request)
    assert (answer.status, answer.body) == (200, str(len(request)).encode())
    assert bytes(line.transport.written[written:]).count(b"HTTP/1.1 ") == 1


async def test_known_heads_in_one_piece_or_in_two_are_each_answered_once_and_in_order(site: Site) -> None:
    first, second = site.get("/text"), site.get("/things/3")
    line = await known(site, first, second)
    answers = await line.ask(first, second, first)
    assert [b"run" in answer.body for answer in answers] == [True] * 3
    assert [b"number" in answer.body for answer in answers] == [False, True, False]
    line.protocol.data_received(first[:20])
    (answer,) = await line.ask(first[20:])
    assert answer.status == 200
    line.protocol.data_received(first[:-4])
    (answer,) = await line.ask(b"\r\n\r\n")
    assert answer.status == 200


async def test_a_known_head_waits_for_the_answer_before_it(site: Site) -> None:
    slow, quick = site.get("/plain"), site.get("/text")
    line = await known(site, quick)
    written = len(line.transport.written)
    line.protocol.data_received(slow)
    line.protocol.data_received(quick)
    answers = await line.ask()
    while len(answers) < 2:
        answers = line._answers(written)
        await _turn()
    assert [b"plain" in answer.body for answer in answers] == [True, False]


async def test_where_the_store_cannot_decide_the_layers_get_the_whole_request(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = site.get("/fields", "x-request-id: abcdefgh-1", "accept: text/x-mine")
    line = await known(site, request)
    parsed = line.protocol._messages

    def silent(names: Any, caller: Any, fields: Any, tell: Any) -> bool:
        from asyncio import get_running_loop

        get_running_loop().call_soon(tell, None)
        return True

    monkeypatch.setattr(site.b1.runtime.limits, "decide_soon", silent)
    (answer,) = await line.ask(request)
    assert (answer.status, answer.fields[b"x-request-id"]) == (200, b"abcdefgh-1")
    assert line.protocol._messages == parsed
    assert line.tasks >= 1


async def test_the_answer_that_says_it_is_the_last_ends_the_connection(site: Site) -> None:
    request = site.get("/text")
    line = await known(site, request)
    line.server_state.default_headers = [(b"connection", b"close")]
    (answer,) = await line.ask(request)
    assert answer.fields[b"connection"] == b"close"
    assert line.transport.is_closing()


async def test_a_head_is_known_to_the_address_that_sent_it(site: Site) -> None:
    request = site.get("/text")
    await known(site, request)
    other = site.line()
    other.protocol.client = ("198.51.100.9", 1)
    (answer,) = await other.ask(request)
    assert (answer.status, other.protocol._messages) == (200, 1)


async def test_no_token_is_kept(site: Site) -> None:
    request = site.get("/text", "cookie: session=secret")
    await known(site, request)
    express: Express = site.state["b1.express"]
    (head,) = express._heads._heads.values()
    kept = [*head.fields.items(), *head.headers, *express._heads._heads]
    assert b"host" in head.fields
    assert not any(secret in repr(kept) for secret in ("Bearer", "session", "secret"))


ODD = {
    "HTTP/1.0": (b"HTTP/1.1", b"HTTP/1.0"),
    "HEAD": (b"GET ", b"HEAD "),
    "closing": (b"host:", b"connection: close\r\nhost:"),
    "an upgrade": (b"host:", b"connection: upgrade\r\nupgrade: websocket\r\nhost:"),
    "an empty body": (b"host:", b"content-length: 0\r\nhost:"),
    "a continuation": (b"host:", b"expect: 100-continue\r\nhost:"),
    "a large head": (b"host:", b"x: " + b"y" * HEAD_BYTES + b"\r\nhost:"),
}


@pytest.mark.parametrize(("old", "new"), ODD.values(), ids=ODD)
async def test_what_is_not_plain_is_never_kept(site: Site, old: bytes, new: bytes) -> None:
    plain = site.get("/text")
    await warm(site, plain)
    for _ in range(4):
        line = site.line()
        line.protocol.data_received(plain.replace(old, new, 1))
        async with timeout(10):
            while b"HTTP/1.1 " not in line.transport.written:
                await _turn()
        line.transport.abort()
    express: Express = site.state["b1.express"]
    assert len(express._heads) == 0


async def test_another_organisation_in_the_same_words_is_another_head(site: Site) -> None:
    first, second = site.get("/text", "x-organization-id: 1"), site.get("/text", "x-organization-id: 2")
    line = await known(site, first)
    misses = site.b1.runtime.identity.misses
    (answer,) = await line.ask(second)
    assert (answer.status, site.b1.runtime.identity.misses) == (200, misses + 1)


async def test_the_timer_of_a_slow_head_runs_between_known_heads_too(site: Site) -> None:
    request = site.get("/text")
    await known(site, request)
    line = site.line()
    assert line.protocol._timer is not None
    await line.ask(request)
    assert line.protocol._timer is None
    line.protocol.data_received(request[:30])
    assert line.protocol._timer is not None
    (answer,) = await line.ask(request[30:])
    assert (answer.status, line.protocol._timer) == (200, None)


async def test_a_connection_is_not_given_away_while_a_known_head_waits_for_its_answer(site: Site) -> None:
    request = site.get("/text")
    line = await known(site, request)
    written = len(line.transport.written)
    line.protocol.data_received(request)
    if not bytes(line.transport.written[written:]):
        assert line.protocol.descriptor_between() is None
    async with timeout(10):
        while not bytes(line.transport.written[written:]):
            await _turn()


def test_heads_that_differ_each_time_are_not_kept_and_the_table_is_bounded() -> None:
    heads = KnownHeads()
    for number in range(500):
        heads.keep(b"%d" % number, _head())
    assert len(heads) == 0
    for number in range(1000):
        for _ in range(2):
            heads.keep(b"twice %d" % number, _head())
        assert heads.find(b"twice %d" % number) is not None
    assert len(heads) == 512
    assert heads.find(b"twice 0") is None
    assert heads.find(b"twice 999") is not None
    heads.forget(b"twice 999")
    assert heads.find(b"twice 999") is None


def test_where_no_head_comes_twice_they_are_not_looked_at_for_a_while() -> None:
    heads = KnownHeads()
    for _ in range(2):
        heads.keep(b"again", _head())
    for number in range(512):
        assert heads.find(b"%d" % number) is None
        heads.keep(b"%d" % number, _head())
    assert heads.find(b"again") is None
    for _ in range(2):
        heads.keep(b"new", _head())
    rested = 1
    while heads.find(b"again") is None:
        rested += 1
    assert rested == 8191  # the last of the 512 was not looked at either
    assert heads.find(b"new") is None


def _head() -> Head:
    return Head(Way(None, NOTHING_DECLARED, "", 0), "/", "key", [], {}, Principal("ann"), "identity:1")


async def _turn() -> None:
    from asyncio import sleep

    await sleep(0.001)


async def test_a_body_and_the_request_behind_it_are_not_one_head(site: Site) -> None:
    first, second = bare("/open?n=1"), bare("/open?n=2")
    await warm(site, first, second)
    refused = bare("/plain", f"content-length: {len(first)}", method="POST")
    for _ in range(3):  # the POST is refused before its body came, which then comes along with the next request
        line = site.line()
        assert (await line.ask(refused))[0].status == 405
        written = len(line.transport.written)
        line.protocol.data_received(first + second)
        await _turn()
        assert bytes(line.transport.written[written:]).count(b"HTTP/1.1 200") <= 1
    answers = await site.line().ask(first, second)
    assert [answer.status for answer in answers] == [200, 200]


async def test_what_comes_on_a_closing_connection_is_not_taken_for_the_last_request_of_another(site: Site) -> None:
    mine, theirs = site.get("/text"), bare("/text", "authorization: Bearer nonsense")
    await warm(site, mine)
    for _ in range(3):
        line = site.line()
        await line.ask(mine)
        await site.line().ask(bare("/text", *mine.decode().split("\r\n")[2:-2], "a: b"))  # somebody else, meanwhile
        line.transport.close()
        line.protocol.data_received(theirs)  # TLS hands on what it had decrypted
    (answer,) = await site.line().ask(theirs)
    assert answer.status == 401


async def test_a_connection_may_begin_with_a_known_head_and_is_charged_once(site: Site) -> None:
    request = site.get("/text")
    first = await known(site, request)
    left = []
    for line in (first, site.line(), site.line()):
        parsed, tasks = line.protocol._messages, line.tasks
        (answer,) = await line.ask(request)
        left.append(int(answer.fields[b"x-ratelimit-remaining"]))
        assert (answer.status, line.protocol._messages, line.tasks) == (200, parsed, tasks)
    assert left == [left[0], left[0] - 1, left[0] - 2]


async def test_a_head_of_many_fields_is_not_kept(site: Site) -> None:
    many = bare("/open", *[f"a{number}: b" for number in range(40)])
    await warm(site, many)
    line = site.line()
    for _ in range(4):
        assert (await line.ask(many))[0].status == 200
    express: Express = site.state["b1.express"]
    assert len(express._heads) == 0
    assert (line.protocol._messages, line.tasks) == (4, 0)
