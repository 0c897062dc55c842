"""More of http-tests/cache-tests, through the whole layer: parsing at the edges, conditions, queries, methods, ranges, 1xx.

Ids are the suite's. Not here, because they do not apply to a cache in front of its own handler: heuristic freshness
(a route says its `ttl_s`), updates of stored headers by a 304 or a HEAD (the handler is run again, never revalidated),
storing of parts and answering ranges from a whole (ranges pass), and invalidation by unsafe methods (tags invalidate).
"""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest

from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.options import CacheOptions
from b1.clock import ManualClock
from b1.types import Receive, Scope, Send
from tests.asgi.caching.world import PUBLIC, Lines, World
from tests.asgi.raw import ANN, BOB

PAUSE_S = 3


def date(offset_s: float) -> bytes:
    return formatdate(ManualClock().wall() + offset_s, usegmt=True).encode()


NOW = (b"date", date(0))
FRESH = (b"cache-control", b"max-age=3600")


def options(**more: Any) -> CacheOptions:
    return CacheOptions(ttl_s=86_400, vary="organization", stale_s=0, stale_if_error_s=0, **more)


def control(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"cache-control", value) for value in values]


async def is_reused(world: World, answer: Lines, **second: Any) -> bool:
    world.handler.headers = list(answer)
    await world.get()
    world.clock.advance(PAUSE_S)
    await world.get(**second)
    return world.runs == 1


CACHED = [
    ("age-parse-float", [FRESH, (b"age", b"7200.0")]),
    ("age-parse-parameter", [FRESH, (b"age", b"7200;foo=bar")]),
    ("age-parse-numeric-parameter", [FRESH, (b"age", b"7200;foo=111")]),
    ("age-parse-dup-0", [FRESH, (b"age", b"0, 0")]),
    ("age-parse-prefix-twoline", [FRESH, (b"age", b"0"), (b"age", b"7200")]),
    ("age-empty", [FRESH, (b"age", b"")]),
    ("cc-resp-immutable-fresh", control(b"max-age=3600, immutable")),
    ("freshness-max-age-leading-zero", control(b"max-age=003600")),
    ("freshness-max-age-extension-quoted", control(b'ext="a, no-store", max-age=3600')),
    ("cc-parse-empty-elements", control(b", ,max-age=3600,,")),
    ("cc-parse-tabs", control(b"\tmax-age=3600\t,\tfoo")),
    ("freshness-expires-rfc850", [(b"expires", b"Thursday, 18-Aug-50 02:01:18 GMT"), NOW]),
    ("freshness-expires-ansi-c", [(b"expires", b"Thu Aug  8 02:01:18 2050"), NOW]),
    ("freshness-expires-far-future", [(b"expires", b"Sun, 21 Nov 2286 04:46:39 GMT"), NOW]),
    ("freshness-expires-age-fast-date", [(b"expires", date(20)), (b"date", date(10)), (b"age", b"2")]),
    ("cdn-max-age-is-not-ours", [FRESH, (b"cdn-cache-control", b"no-store")]),
    ("surrogate-control-is-not-ours", [FRESH, (b"surrogate-control", b"max-age=0")]),
    ("pragma-response-extension", [FRESH, (b"pragma", b"foo")]),
    ("warning", [FRESH, (b"warning", b'110 - "Response is Stale"')]),
    ("vary-empty", [FRESH, (b"vary", b"")]),
    ("vary-empty-elements", [FRESH, (b"vary", b", foo ,")]),
    ("vary-case", [FRESH, (b"vary", b"FOO")]),
    ("other-content-disposition-attachment", [FRESH, (b"content-disposition", b"attachment; filename=a")]),
    ("interim-link", [FRESH, (b"link", b"</a.css>; rel=preload")]),
]

NOT_CACHED = [
    ("age-parse-larger", [FRESH, (b"age", b"99999999999")]),
    ("age-parse-larger-minus-one", [FRESH, (b"age", b"2147483647")]),
    ("age-parse-suffix-twoline", [FRESH, (b"age", b"7200"), (b"age", b"0")]),
    ("age-beyond-expires", [(b"expires", date(100)), NOW, (b"age", b"200")]),
    ("cc-resp-immutable-stale", control(b"max-age=1, immutable")),
    ("cc-resp-no-store-old-max-age", control(b"max-age=3600", b"no-store")),
    ("cc-resp-must-understand", control(b"max-age=3600, must-understand, no-store")),
    ("cc-resp-private-field", control(b'private="x-own", max-age=3600')),
    ("cc-resp-no-cache-field", control(b'no-cache="set-cookie", max-age=3600')),
    ("cc-parse-no-store-quoted", control(b'no-store="", max-age=3600')),
    ("cc-parse-unterminated", control(b'ext="max-age=3600, no-store')),
    ("freshness-max-age-two-fresh-stale-sameline", control(b"max-age=3600, max-age=1")),
    ("freshness-max-age-two-stale-fresh-sepline", control(b"max-age=1", b"max-age=3600")),
    ("freshness-max-age-decimal-five", control(b"max-age=3600.5")),
    ("freshness-max-age-empty", control(b"max-age=")),
    ("freshness-max-age-none", control(b"max-age")),
    ("freshness-max-age-plus", control(b"max-age=+3600")),
    ("freshness-max-age-unicode-digits", control("max-age=３６００".encode())),
    ("freshness-max-age-superscript", control("max-age=²".encode("latin-1"))),
    ("freshness-expires-empty", [(b"expires", b""), NOW]),
    ("freshness-expires-two-lines", [(b"expires", date(100)), (b"expires", date(100)), NOW]),
    ("freshness-expires-invalid-aest", [(b"expires", b"Thu, 18 Aug 2050 02:01:18 AEST"), NOW]),
    ("freshness-expires-invalid-1-digit-hour", [(b"expires", b"Thu, 18 Aug 2050 2:01:18 GMT"), NOW]),
    ("freshness-expires-invalid-2-digit-year", [(b"expires", b"Thu, 18 Aug 50 02:01:18 GMT"), NOW]),
    ("freshness-expires-invalid-date-dashes", [(b"expires", b"Thu, 18-Aug-2050 02:01:18 GMT"), NOW]),
    ("freshness-expires-invalid-multiple-spaces", [(b"expires", b"Thu, 18  Aug  2050 02:01:18 GMT"), NOW]),
    ("freshness-expires-invalid-no-comma", [(b"expires", b"Thu 18 Aug 2050 02:01:18 GMT"), NOW]),
    ("freshness-expires-invalid-time-periods", [(b"expires", b"Thu, 18 Aug 2050 02.01.18 GMT"), NOW]),
    ("freshness-expires-wrong-case-tz", [(b"expires", b"Thu, 18 Aug 2050 02:01:18 gMT"), NOW]),
    ("freshness-expires-wrong-case-month", [(b"expires", b"Thu, 18 AUG 2050 02:01:18 GMT"), NOW]),
    ("freshness-expires-no-such-day", [(b"expires", b"Thu, 38 Aug 2050 02:01:18 GMT"), NOW]),
    ("freshness-expires-no-such-month", [(b"expires", b"Thu, 18 Abc 2050 02:01:18 GMT"), NOW]),
    ("freshness-expires-year-0", [(b"expires", b"Thu, 18 Aug 0000 02:01:18 GMT"), NOW]),
    ("freshness-expires-age-slow-date", [(b"expires", date(10)), (b"date", date(9))]),
    ("vary-undeclared-among-declared", [FRESH, (b"vary", b"foo, cookie")]),
    ("vary-undeclared-second-line", [FRESH, (b"vary", b"foo"), (b"vary", b"user-agent")]),
    ("other-set-cookie-empty", [FRESH, (b"set-cookie", b"")]),
]


@pytest.mark.parametrize("headers", [pytest.param(headers, id=name) for name, headers in CACHED])
async def test_a_fresh_answer_is_reused(headers: Lines) -> None:
    assert await is_reused(World(options(vary_headers=("foo",))), headers)


@pytest.mark.parametrize("headers", [pytest.param(headers, id=name) for name, headers in NOT_CACHED])
async def test_what_is_stale_unclear_or_forbidden_is_not(headers: Lines) -> None:
    assert not await is_reused(World(options(vary_headers=("foo",))), headers)


# Conditions, against what the handler said of itself.
LM = (b"last-modified", b"Sun, 06 Nov 1994 08:49:37 GMT")
CONDITIONS: list[tuple[str, Lines, Lines, int]] = [
    ("conditional-etag-strong-respond", [(b"etag", b'"a"')], [(b"if-none-match", b'"a"')], 304),
    ("conditional-etag-weak-respond", [(b"etag", b'W/"a"')], [(b"if-none-match", b'"a"')], 304),
    ("conditional-etag-weak-weak", [(b"etag", b'W/"a"')], [(b"if-none-match", b'W/"a"')], 304),
    ("conditional-etag-strong-asked-weakly", [(b"etag", b'"a"')], [(b"if-none-match", b'W/"a"')], 304),
    ("conditional-etag-star", [(b"etag", b'"a"')], [(b"if-none-match", b"*")], 304),
    ("conditional-etag-star-without", [], [(b"if-none-match", b"*")], 304),
    ("conditional-etag-star-in-a-list", [(b"etag", b'"a"')], [(b"if-none-match", b'"b", *')], 200),
    ("conditional-etag-star-quoted", [(b"etag", b'"a"')], [(b"if-none-match", b'"*"')], 200),
    ("conditional-etag-two-lines", [(b"etag", b'"a"')], [(b"if-none-match", b'"b"'), (b"if-none-match", b'"a"')], 304),
    ("conditional-etag-empty-elements", [(b"etag", b'"a"')], [(b"if-none-match", b', "b",, "a" ,')], 304),
    ("conditional-etag-comma-inside", [(b"etag", b'"a,b"')], [(b"if-none-match", b'"a,b"')], 304),
    ("conditional-etag-part-of-another", [(b"etag", b'"b"')], [(b"if-none-match", b'"a,"b"')], 200),
    ("conditional-etag-obs-text", [(b"etag", b'"\xe4"')], [(b"if-none-match", b'"\xe4"')], 304),
    ("conditional-etag-empty-tag", [(b"etag", b'""')], [(b"if-none-match", b'""')], 304),
    ("conditional-etag-case", [(b"etag", b'"A"')], [(b"if-none-match", b'"a"')], 200),
    ("conditional-etag-no-unescaping", [(b"etag", b'"a\\b"')], [(b"if-none-match", b'"ab"')], 200),
    ("conditional-etag-quoted-respond-unquoted", [(b"etag", b'"a"')], [(b"if-none-match", b"a")], 200),
    ("conditional-etag-unquoted-respond-unquoted", [(b"etag", b"a")], [(b"if-none-match", b"a")], 200),
    ("conditional-etag-unquoted-respond-quoted", [(b"etag", b"a")], [(b"if-none-match", b'"a"')], 200),
    ("conditional-etag-empty-field", [(b"etag", b'"a"')], [(b"if-none-match", b"")], 200),
    ("conditional-etag-precedence", [(b"etag", b'"a"'), LM],
     [(b"if-none-match", b'"b"'), (b"if-modified-since", LM[1])], 200),
    ("conditional-lm-fresh", [LM], [(b"if-modified-since", LM[1])], 304),
    ("conditional-lm-fresh-no-lm", [NOW], [(b"if-modified-since", NOW[1])], 200),
    ("conditional-lm-earlier", [LM], [(b"if-modified-since", b"Sun, 06 Nov 1994 08:49:36 GMT")], 200),
    ("conditional-lm-ansi-c", [LM], [(b"if-modified-since", b"Sun Nov  6 08:49:37 1994")], 304),
    ("conditional-lm-rfc850", [LM], [(b"if-modified-since", b"Sunday, 06-Nov-94 08:49:37 GMT")], 304),
    ("conditional-lm-zone", [LM], [(b"if-modified-since", b"Sun, 06 Nov 1994 08:49:37 +0000")], 200),
    ("conditional-lm-invalid-lm", [(b"last-modified", b"yesterday")], [(b"if-modified-since", NOW[1])], 200),
    ("conditional-lm-epoch", [LM], [(b"if-modified-since", b"0")], 200),
    ("if-match-weak", [(b"etag", b'W/"a"')], [(b"if-match", b'W/"a"')], 412),
    ("if-match-list", [(b"etag", b'"a"')], [(b"if-match", b'"b", "a"')], 200),
    ("if-match-unquoted", [(b"etag", b'"a"')], [(b"if-match", b"a")], 412),
    ("if-unmodified-since-invalid", [LM], [(b"if-unmodified-since", b"yesterday")], 200),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "asked", "status"), [pytest.param(*case[1:], id=case[0]) for case in CONDITIONS])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_conditions_are_judged_against_the_stored_answer(
    answer: Lines, asked: Lines, status: int, method: str
) -> None:
    world = World(options())
    world.handler.headers = list(answer)
    await world.get()
    reply = await world.get(method=method, headers=asked)
    assert (status, 1) == (reply.status, world.runs)


@pytest.mark.parametrize(("answer", "asked", "status"), [pytest.param(*case[1:], id=case[0]) for case in CONDITIONS])
async def test_the_answer_that_is_just_made_is_judged_alike(answer: Lines, asked: Lines, status: int) -> None:
    world = World(options())
    world.handler.headers = list(answer)
    reply = await world.get(headers=asked)
    assert (status, None) == (reply.status, world.handler.header(b"if-none-match"))  # conditional-etag-forward: never


async def test_a_304_has_the_fields_that_a_200_would_have_and_no_body() -> None:  # conditional-304-etag, other
    world = World(options())
    world.handler.headers = [(b"etag", b'"a"'), FRESH, (b"vary", b"accept-encoding"), (b"content-language", b"de")]
    await world.get()
    world.clock.advance(10)
    reply = await world.get(headers=[(b"if-none-match", b'"a"')])
    kept = {
        name: reply.headers.get(name) for name in ("etag", "cache-control", "age", "content-length", "content-type")
    }
    assert (304, b"", '"a"', "max-age=3600", "10", None, None) == (reply.status, reply.body, *kept.values())
    assert "accept-encoding" in reply.headers["vary"].lower()


async def test_an_etag_that_is_generated_answers_the_condition_of_the_next_request() -> None:  # …-strong-generate
    world = World(options())
    etag = (await world.get()).headers["etag"].encode()
    assert (304, 1) == ((await world.get(headers=[(b"if-none-match", etag)])).status, world.runs)
    assert not etag.startswith(b"W/")


async def test_a_negative_answer_is_no_304() -> None:
    """RFC 9110 §13.2.1: without the condition it would be no 2xx, so there is nothing to judge."""
    world = World(options(negative_ttl_s=60))
    world.handler.status, world.handler.headers = 404, [(b"etag", b'"a"'), LM]
    for _ in range(2):
        asked = [(b"if-none-match", b'"a"'), (b"if-modified-since", LM[1])]
        assert 404 == (await world.get(headers=asked)).status


async def test_stale_answers_are_judged_and_a_new_one_again() -> None:  # conditional-lm-stale
    world = World(CacheOptions(ttl_s=10, vary="organization", stale_s=0, stale_if_error_s=0))
    world.handler.headers = [(b"etag", b'"a"')]
    await world.get()
    world.clock.advance(11)
    world.handler.headers = [(b"etag", b'"b"')]
    assert (200, 2) == ((await world.get(headers=[(b"if-none-match", b'"a"')])).status, world.runs)


# Queries: query-args-different, query-args-same.
@pytest.mark.parametrize(
    ("first", "second", "runs"),
    [
        (b"a=1", b"a=1", 1), (b"a=1", b"a=2", 2), (b"a=1", b"", 2), (b"a=1&b=2", b"b=2&a=1", 1),
        (b"a=1&a=2", b"a=2&a=1", 2),
        (b"a", b"a=", 1), (b"a=%31", b"a=1", 1), (b"a=+", b"a=%20", 1), (b"a=1;b=2", b"a=1&b=2", 2), (b"A=1", b"a=1", 2),
        (b"a=%26b=1", b"a=&b=1", 2), (b"a=\xff", b"a=\xfe", 2), (b"&&a=1&", b"a=1", 1),
    ],
)  # fmt: skip
async def test_queries_are_the_same_when_the_framework_reads_the_same(first: bytes, second: bytes, runs: int) -> None:
    world = World(options())
    for query in (first, second):
        await world.get(query=query)
    assert runs == world.runs


async def test_a_parameter_that_does_not_count_is_not_seen() -> None:
    world = World(options(query=("q",)))
    for query in (b"q=1&utm=2", b"utm=3&q=1"):
        await world.get(query=query)
    assert (1, b"q=1") == (world.runs, world.handler.seen[0]["query_string"])


# Methods: an answer with explicit freshness to an unsafe method is nobody's.
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "QUERY"])
async def test_what_another_method_was_answered_is_not_given_to_a_get(method: str) -> None:  # method-POST
    world = World(options())
    world.handler.headers = [FRESH]
    await world.get(method=method)
    await world.get()
    assert 2 == world.runs


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_unsafe_methods_invalidate_nothing_by_themselves(method: str) -> None:  # a documented deviation
    world = World(options())
    await world.get()
    await world.get(method=method)
    await world.get()
    assert 2 == world.runs  # the write, and the first read


async def test_a_head_that_says_gone_leaves_the_stored_answer_alone() -> None:  # head-410-update
    world = World(options())
    await world.get()
    world.handler.status = 410
    assert [200, 200] == [(await world.get(method=method)).status for method in ("HEAD", "GET")]


# Ranges: partial-*.
@pytest.mark.parametrize("stored_first", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param([(b"range", b"bytes=0-1")], id="partial-store-partial-reuse-partial"),
        pytest.param([(b"range", b"bytes=-1")], id="partial-suffix"),
        pytest.param([(b"range", b"bytes=0-")], id="partial-no-last"),
        pytest.param([(b"range", b"lines=1-2")], id="another-unit"),
        pytest.param([(b"range", b"bytes=0-1"), (b"if-range", b'"a"')], id="if-range-etag"),
        pytest.param([(b"range", b"bytes=0-1"), (b"if-range", b'W/"a"')], id="if-range-weak"),
        pytest.param([(b"range", b"bytes=0-1"), (b"if-range", LM[1])], id="if-range-date"),
        pytest.param([(b"range", b"bytes=0-1"), (b"if-none-match", b'"a"')], id="with-a-condition"),
    ],
)
async def test_a_range_is_the_handlers_and_what_it_answers_is_not_stored(asked: Lines, stored_first: bool) -> None:
    def part(scope: Scope) -> tuple[int, Lines, bytes]:
        if b"range" not in dict(scope["headers"]):
            return 200, [FRESH, (b"etag", b'"a"')], b"abc"
        return 206, [FRESH, (b"content-range", b"bytes 0-1/3"), (b"etag", b'"a"')], b"ab"

    world = World(options())
    world.handler.answer = part
    if stored_first:
        await world.get()
    reply = await world.get(headers=asked)
    assert (206, b"ab") == (reply.status, reply.body)
    assert set(asked) <= set(world.handler.seen[-1]["headers"])
    assert (200, b"abc") == ((whole := await world.get()).status, whole.body)
    assert 2 == world.runs


async def test_if_range_alone_means_nothing() -> None:
    world = World(options())
    await world.get()
    assert (200, 1) == ((await world.get(headers=[(b"if-range", b'"other"')])).status, world.runs)


async def test_a_206_that_nobody_asked_for_is_not_stored() -> None:  # partial-store-partial-…
    world = World(options(negative_ttl_s=60))
    world.handler.status = 206
    assert not await is_reused(world, [FRESH, (b"content-range", b"bytes 0-1/2")])


# Fields.
async def test_every_field_of_the_handler_comes_back_in_its_order_and_repeated_ones_stay_apart() -> None:
    world = World(options())  # headers-store-*
    own = [
        (b"content-type", b"text/plain; charset=x"), (b"content-language", b"de"), (b"x-a", b"1"), (b"x-a", b"2"),
        (b"link", b"<a>"), (b"link", b"<b>"), (b"content-security-policy", b"default-src 'self'"),
        (b"x-frame-options", b"DENY"), (b"strict-transport-security", b"max-age=1"), (b"cdn-cache-control", b"max-age=60"),
        (b"surrogate-control", b"max-age=7"),
        (b"clear-site-data", b'"cache"'), (b"x-empty", b""), (b"x-latin", b"\xe4"), (b"content-location", b"/y"),
    ]  # fmt: skip
    world.handler.headers = list(own)
    first, second = await world.get(), await world.get()
    names = {name for name, _ in own}
    assert 1 == world.runs
    assert [own, own] == [[line for line in reply.lines if line[0] in names] for reply in (first, second)]


async def test_a_cdns_own_directives_reach_it_and_are_not_obeyed_here() -> None:  # cdn-cache-control
    world = World(PUBLIC, settings=ResponseCacheOptions(surrogate_header="Surrogate-Key", tag_header="Cache-Tag"))
    world.handler.headers = [(b"cdn-cache-control", b"private, max-age=0"), (b"cache-control", b"max-age=60")]
    replies = [await world.get(principal=None) for _ in range(2)]
    assert ({"private, max-age=0"}, 1) == ({reply.headers["cdn-cache-control"] for reply in replies}, world.runs)
    assert all("surrogate-key" in reply.headers and "cache-tag" in reply.headers for reply in replies)


async def test_vary_may_change_from_answer_to_answer_without_mixing_them() -> None:  # vary-invalidate and its like
    def answer(scope: Scope) -> tuple[int, Lines, bytes]:
        foo = dict(scope["headers"]).get(b"foo", b"")
        return 200, [FRESH] if foo == b"1" else [FRESH, (b"vary", b"foo")], foo

    world = World(options(vary_headers=("foo",)))
    world.handler.answer = answer
    asked = [(b"foo", b"1"), (b"foo", b"2"), (b"foo", b"1"), (b"foo", b"2")]
    assert [b"1", b"2", b"1", b"2"] == [(await world.get(headers=[pair])).body for pair in asked]
    assert 2 == world.runs


@pytest.mark.parametrize(
    ("first", "second", "runs"),
    [
        pytest.param(b"en", b"EN", 2, id="vary-normalise-lang-case"),
        pytest.param(b"en, de", b"de, en", 2, id="vary-normalise-lang-order"),
        pytest.param(b"en,de", b"en, de", 1, id="vary-normalise-lang-space"),
        pytest.param(b"en, ,de", b"en,de", 1, id="vary-normalise-empty"),
        pytest.param(b"", b"en", 2, id="vary-empty-and-not"),
    ],
)
async def test_values_are_the_same_when_no_reader_could_tell_them_apart(first: bytes, second: bytes, runs: int) -> None:
    world = World(options(vary_headers=("accept-language",)))
    for value in (first, second):
        await world.get(headers=[(b"accept-language", value)])
    assert runs == world.runs


# Age and Date.
async def test_age_grows_and_nobody_gets_the_date_of_another_answer() -> None:  # other-age-gen, other-date-update
    world = World(options())
    world.handler.headers = [NOW, FRESH]
    await world.get()
    world.clock.advance(7.9)
    reply = await world.get()
    assert ("7", None) == (reply.headers["age"], reply.headers.get("date"))  # the server writes its own


async def test_an_answer_whose_time_is_over_by_its_age_is_made_again() -> None:  # freshness-max-age-age
    world = World(options())
    world.handler.headers = [(b"cache-control", b"max-age=100"), (b"age", b"95")]
    await world.get()
    world.clock.advance(4)
    assert "99" == (await world.get()).headers["age"]
    world.clock.advance(2)
    await world.get()
    assert 2 == world.runs


# Requests: directives that only look like ones, and combinations.
@pytest.mark.parametrize(
    ("directive", "is_obeyed"),
    [
        (b"NO-CACHE", True), (b"no-cache=x", True), (b"max-age=0, max-stale=100", True), (b"max-age=x", True),
        (b"max-stale", False), (b"max-stale=100", False), (b"min-fresh=1", False), (b"foo=no-cache", False),
        (b'foo="no-cache"', False), (b"max-age=3600", False), (b"no-transform", False), (b"", False),
    ],
)  # fmt: skip
async def test_only_what_asks_for_something_newer_runs_the_handler(directive: bytes, is_obeyed: bool) -> None:
    world = World(options(obey_no_cache=True))
    await world.get()
    world.clock.advance(PAUSE_S)
    await world.get(headers=[(b"cache-control", directive)])
    assert 1 + is_obeyed == world.runs


async def test_only_if_cached_and_no_cache_together_never_run_it() -> None:
    world = World(options(obey_no_cache=True))
    await world.get()
    reply = await world.get(headers=[(b"cache-control", b"only-if-cached, no-cache")])
    assert (504, 1) == (reply.status, world.runs)


async def test_only_if_cached_gets_nothing_of_another_owner() -> None:
    world = World(CacheOptions(ttl_s=60))
    await world.get(principal=ANN)
    reply = await world.get(principal=BOB, headers=[(b"cache-control", b"only-if-cached")])
    assert (504, 1) == (reply.status, world.runs)


# Interim answers, and messages that are no answer.
@pytest.mark.parametrize("kind", ["http.response.early_hint", "http.response.debug", "http.response.push"])
async def test_what_comes_before_an_answer_is_passed_on_and_not_stored(kind: str) -> None:  # interim-103
    runs = 0

    async def hinting(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal runs
        runs += 1
        await send({"type": kind, "links": [b"</a.css>; rel=preload"]})
        await send({"type": "http.response.start", "status": 200, "headers": [FRESH, (b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    world = World(options(), app=hinting)
    replies = [await world.get() for _ in range(2)]
    assert ([(200, b"ok")] * 2, 1) == ([(reply.status, reply.body) for reply in replies], runs)
