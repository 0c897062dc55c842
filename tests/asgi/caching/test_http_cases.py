"""What http-tests/cache-tests asks of a shared cache, as far as it applies to one that stands in front of its own handler.

Ids are the suite's. A cache that asks the handler again instead of revalidating is allowed everywhere; heuristics, ranges
and caches in browsers do not apply. A route's `ttl_s` stands in the place of explicit freshness where a case has none.
"""

from __future__ import annotations

from email.utils import formatdate

import pytest

from b1.asgi.options import CacheOptions
from b1.clock import ManualClock
from tests.asgi.caching.world import PUBLIC, Lines, World
from tests.asgi.raw import ANN, BOB

PAUSE_S = 3


def date(offset_s: float) -> bytes:
    return formatdate(ManualClock().wall() + offset_s, usegmt=True).encode()


def control(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"cache-control", value) for value in values]


NOW = (b"date", date(0))


def options(**more: object) -> CacheOptions:
    return CacheOptions(ttl_s=86_400, vary="organization", stale_s=0, stale_if_error_s=0, **more)  # type: ignore[arg-type]


async def is_reused(world: World, answer: Lines, **second: object) -> bool:
    world.handler.headers = list(answer)
    await world.get()
    world.clock.advance(PAUSE_S)
    await world.get(**second)  # type: ignore[arg-type]
    return world.runs == 1


CACHED = [
    ("freshness-max-age", control(b"max-age=3600")),
    ("freshness-max-age-quoted", control(b'max-age="3600"')),
    ("freshness-max-age-max", control(b"max-age=2147483648")),
    ("freshness-max-age-max-plus", control(b"max-age=99999999999")),
    ("freshness-max-age-extension", control(b"foobar, max-age=3600")),
    ("freshness-max-age-case-insenstive", control(b"MaX-aGe=3600")),
    ("freshness-max-age-expires", [*control(b"max-age=3600"), (b"expires", date(-10000)), NOW]),
    ("freshness-max-age-expires-invalid", [*control(b"max-age=3600"), (b"expires", b"0"), NOW]),
    ("freshness-s-maxage-shared", control(b"s-maxage=3600")),
    ("freshness-max-age-s-maxage-shared-shorter", control(b"max-age=1, s-maxage=3600")),
    ("freshness-expires-future", [(b"expires", date(10000)), NOW]),
    ("age-parse-nonnumeric", [*control(b"max-age=3600"), (b"age", b"abc")]),
    ("age-parse-negative", [*control(b"max-age=3600"), (b"age", b"-7200")]),
    ("age-parse-prefix", [*control(b"max-age=3600"), (b"age", b"0,7200")]),
    ("age-parse-dup-0-twoline", [*control(b"max-age=3600"), (b"age", b"0"), (b"age", b"0")]),
    ("cc-resp-must-revalidate-fresh", control(b"max-age=10000, must-revalidate")),
    ("headers-store-unknown", [*control(b"max-age=3600"), (b"x-own", b"1")]),
    ("pragma-response-no-cache", [*control(b"max-age=3600"), (b"pragma", b"no-cache")]),
]

NOT_CACHED = [
    ("freshness-max-age-single-quoted", control(b"max-age='3600'")),
    ("freshness-max-age-ignore-quoted", control(b'extension="max-age=100", max-age=1')),
    ("freshness-max-age-ignore-quoted-rev", control(b'max-age=1, extension="max-age=100"')),
    ("freshness-max-age-space-before-equals", control(b"max-age =100")),
    ("freshness-max-age-space-after-equals", control(b"max-age= 100")),
    ("freshness-max-age-0", control(b"max-age=0")),
    ("freshness-max-age-a100", control(b"max-age=a100")),
    ("freshness-max-age-100a", control(b"max-age=100a")),
    ("freshness-max-age-negative", control(b"max-age=-100")),
    ("freshness-max-age-age", [NOW, *control(b"max-age=10"), (b"age", b"15")]),
    ("freshness-max-age-0-expires", [(b"expires", date(10000)), *control(b"max-age=0"), NOW]),
    ("freshness-max-age-s-maxage-shared-longer", control(b"max-age=3600, s-maxage=1")),
    ("freshness-max-age-s-maxage-shared-longer-reversed", control(b"s-maxage=1, max-age=3600")),
    ("freshness-max-age-s-maxage-shared-longer-multiple", control(b"max-age=3600", b"s-maxage=1")),
    ("freshness-expires-past", [(b"expires", date(-10000)), NOW]),
    ("freshness-expires-present", [(b"expires", date(0)), NOW]),
    ("freshness-expires-invalid", [(b"expires", b"0"), NOW]),
    ("freshness-expires-invalid-utc", [(b"expires", b"Thu, 18 Aug 2050 02:01:18 UTC"), NOW]),
    ("freshness-expires-old-date", [(b"expires", date(1)), (b"date", date(0))]),
    ("age-parse-suffix", [*control(b"max-age=3600"), (b"age", b"7200,0")]),
    ("age-parse-dup-old", [*control(b"max-age=3600"), (b"age", b"7200, 7200")]),
    ("cc-resp-private-shared", control(b"private, max-age=3600")),
    ("cc-resp-no-store", control(b"no-store")),
    ("cc-resp-no-store-case-insensitive", control(b"No-StOrE")),
    ("cc-resp-no-store-fresh", [*control(b"max-age=10000, no-store"), (b"expires", date(10000)), NOW]),
    ("cc-resp-no-cache", [*control(b"max-age=10000, no-cache"), (b"expires", date(10000)), NOW]),
    ("cc-resp-no-cache-case-insensitive", control(b"max-age=10000, No-CaChE")),
    ("headers-omit-headers-listed-in-Cache-Control-no-cache", control(b'no-cache="a, b"', b"max-age=3600")),
    ("vary-syntax-star", [*control(b"max-age=3600"), (b"vary", b"*")]),
    ("vary-syntax-star-star", [*control(b"max-age=3600"), (b"vary", b"*, *")]),
    ("vary-syntax-star-star-lines", [*control(b"max-age=3600"), (b"vary", b"*"), (b"vary", b"*")]),
    ("vary-syntax-empty-star", [*control(b"max-age=3600"), (b"vary", b", *")]),
    ("vary-syntax-empty-star-lines", [*control(b"max-age=3600"), (b"vary", b""), (b"vary", b"*")]),
    ("vary-syntax-star-foo", [*control(b"max-age=3600"), (b"vary", b"*, Foo")]),
    ("vary-syntax-foo-star", [*control(b"max-age=3600"), (b"vary", b"Foo, *")]),
    ("vary-undeclared", [*control(b"max-age=3600"), (b"vary", b"User-Agent")]),
    ("other-set-cookie", [*control(b"max-age=3600"), (b"set-cookie", b"a=b")]),
    ("partial-content-range", [*control(b"max-age=3600"), (b"content-range", b"bytes 0-1/2")]),
]


@pytest.mark.parametrize("headers", [pytest.param(headers, id=name) for name, headers in CACHED])
async def test_a_fresh_answer_is_reused(headers: Lines) -> None:
    assert await is_reused(World(options(vary_headers=("foo",))), headers)


@pytest.mark.parametrize("headers", [pytest.param(headers, id=name) for name, headers in NOT_CACHED])
async def test_what_may_not_be_reused_is_not(headers: Lines) -> None:
    assert not await is_reused(World(options(vary_headers=("foo",))), headers)


@pytest.mark.parametrize(
    "status", [201, 202, 203, 204, 206, 299, 302, 303, 304, 307, 400, 401, 403, 405, 414, 500, 503, 599]
)
async def test_other_statuses_are_not_reused(status: int) -> None:
    world = World(options(negative_ttl_s=60))
    world.handler.status = status
    assert not await is_reused(world, control(b"max-age=3600"))


@pytest.mark.parametrize("status", [404, 410, 301, 308])
@pytest.mark.parametrize("negative_ttl_s", [0, 60])
async def test_negative_answers_are_reused_where_the_route_says_so(status: int, negative_ttl_s: float) -> None:
    world = World(options(negative_ttl_s=negative_ttl_s))
    world.handler.status = status
    assert bool(negative_ttl_s) == await is_reused(world, [])
    assert status == (await world.get()).status


async def test_a_404_of_ours_is_kept_without_what_belongs_to_one_request() -> None:
    world = World(options(negative_ttl_s=60))
    world.handler.status, world.handler.body = 404, b'{"status":404,"requestId":"of-the-first"}'
    problem = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
    assert await is_reused(world, problem)
    assert (await world.get()).json == {"status": 404}


# Vary: requests are (header, value) pairs; the last one is reused or not.
FOO = (b"foo", b"1")
VARY = [
    ("vary-match", b"Foo", [[FOO], [FOO]], 1),
    ("vary-no-match", b"Foo", [[FOO], [(b"foo", b"2")]], 2),
    ("vary-omit", b"Foo", [[FOO], []], 2),
    ("vary-invalidate", b"Foo", [[FOO], [(b"foo", b"2")], [FOO]], 2),
    ("vary-cache-key", b"Foo", [[FOO, (b"other", b"2")], [FOO, (b"other", b"3")]], 1),
    ("vary-2-match", b"Foo, Bar", [[FOO, (b"bar", b"abc")]] * 2, 1),
    ("vary-2-no-match", b"Foo, Bar", [[FOO, (b"bar", b"abc")], [(b"foo", b"2"), (b"bar", b"abc")]], 2),
    ("vary-2-match-omit", b"Foo, Bar", [[FOO], []], 2),
    ("vary-3-order", b"Foo, Bar", [[FOO, (b"bar", b"abc4")], [(b"bar", b"abc"), FOO]], 2),
    ("vary-3-omit", b"Foo, Bar", [[(b"bar", b"789")], [(b"bar", b"789")]], 1),
    ("vary-normalise-space", b"Foo", [[(b"foo", b"1,2")], [(b"foo", b" 1, 2 ")]], 1),
    ("vary-normalise-combine", b"Foo", [[(b"foo", b"1, 2")], [FOO, (b"foo", b"2")]], 1),
    ("swapped-values", b"Foo, Bar", [[FOO, (b"bar", b"2")], [(b"foo", b"2"), (b"bar", b"1")]], 2),
    ("forged-separator", b"Foo, Bar", [[(b"foo", b"1'|bar=b'2")], [FOO, (b"bar", b"2")]], 2),
]


@pytest.mark.parametrize(("vary", "requests", "runs"), [pytest.param(*case[1:], id=case[0]) for case in VARY])
async def test_answers_differ_by_the_declared_headers(vary: bytes, requests: list[Lines], runs: int) -> None:
    world = World(options(vary_headers=("Foo", "bar")))
    world.handler.headers = [(b"vary", vary)]
    for headers in requests:
        await world.get(headers=headers)
    assert runs == world.runs


async def test_declared_headers_stand_in_vary() -> None:
    world = World(options(vary_headers=("foo",)))
    assert "foo" in (await world.get()).headers["vary"].split(", ")


# Authorization: a route whose answer is public, asked by somebody known.
@pytest.mark.parametrize(
    ("headers", "reused"),
    [
        pytest.param([(b"expires", date(3600)), NOW], False, id="other-authorization"),
        pytest.param(control(b"max-age=3600, public"), True, id="other-authorization-public"),
        pytest.param(control(b"max-age=3600, must-revalidate"), True, id="other-authorization-must-revalidate"),
        pytest.param(control(b"s-maxage=3600"), True, id="other-authorization-smaxage"),
    ],
)
async def test_a_public_answer_to_somebody_known_is_kept_with_permission_alone(headers: Lines, reused: bool) -> None:
    world = World(PUBLIC)
    world.handler.headers = list(headers)
    await world.get(principal=ANN, headers=[(b"authorization", b"Bearer x")])
    await world.get(principal=None)
    assert reused == (world.runs == 1)


async def test_a_public_answer_to_nobody_is_everybodys() -> None:
    world = World(PUBLIC)
    replies = [await world.get(principal=who) for who in (None, ANN, BOB)]
    assert (1, "public, no-cache") == (world.runs, replies[2].headers["cache-control"])


# Request directives.
@pytest.mark.parametrize(
    ("name", "directive", "obeyed"),
    [
        ("ccreq-ma0", b"max-age=0", True),
        ("ccreq-ma1", b"max-age=1", True),
        ("ccreq-magreaterage", b"max-age=600", False),
        ("ccreq-min-fresh", b"min-fresh=200000", True),
        ("ccreq-no-cache", b"no-cache", True),
        ("ccreq-no-store", b"no-store", False),
        ("pragma-request-no-cache", b"", False),
    ],
)
@pytest.mark.parametrize("obey", [False, True])
async def test_clients_run_the_handler_only_where_the_route_lets_them(
    name: str, directive: bytes, obeyed: bool, obey: bool
) -> None:
    request = [(b"pragma", b"no-cache"), *([(b"cache-control", directive)] if directive else [])]
    reused = await is_reused(World(options(obey_no_cache=obey)), [], headers=request)
    assert (not (obey and obeyed)) == reused


async def test_only_if_cached_never_runs_the_handler() -> None:  # ccreq-oic
    world = World(options())
    request = [(b"cache-control", b"only-if-cached")]
    first = await world.get(headers=request)
    assert (504, "NOT_STORED", 0) == (first.status, first.code, world.runs)
    await world.get()
    assert (200, 1) == ((await world.get(headers=request)).status, world.runs)


async def test_an_answer_to_no_store_is_not_kept() -> None:
    world = World(options())
    assert "stored" not in (await world.get(headers=[(b"cache-control", b"no-store")])).headers["cache-status"]
    await world.get()
    assert 2 == world.runs


# Age.
async def test_age_counts_from_what_the_answer_came_with() -> None:
    world = World(options())
    world.handler.headers = [*control(b"max-age=3600"), (b"age", b"1800")]
    assert "1800" == (await world.get()).headers["age"]
    world.clock.advance(100.6)
    reply = await world.get()
    assert ("1900", "b1; hit; ttl=1699; detail=l1") == (reply.headers["age"], reply.headers["cache-status"])


async def test_the_handlers_own_cache_control_reaches_the_client() -> None:
    world = World(options())
    world.handler.headers = control(b"max-age=600, s-maxage=60")
    assert ["max-age=600, s-maxage=60"] * 2 == [(await world.get()).headers["cache-control"] for _ in range(2)]


async def test_by_default_clients_ask_each_time() -> None:
    assert "private, no-cache" == (await World(options()).get()).headers["cache-control"]


async def test_what_clients_may_keep_counts_from_the_moment_they_get_it() -> None:
    world = World(CacheOptions(ttl_s=300, client_ttl_s=10, stale_s=60, stale_if_error_s=0))
    await world.get()
    world.clock.advance(100)
    headers = (await world.get()).headers
    assert ("private, max-age=110, stale-while-revalidate=60", "100") == (headers["cache-control"], headers["age"])


# Methods.
async def test_head_is_answered_from_a_stored_get() -> None:
    world = World(options())
    get, head = await world.get(), await world.get(method="HEAD")
    assert (1, b"", "2") == (world.runs, head.body, head.headers["content-length"])
    assert get.headers["etag"] == head.headers["etag"]


async def test_head_itself_is_not_kept() -> None:
    world = World(options())
    await world.get(method="HEAD")
    await world.get()
    assert 2 == world.runs


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_pass(method: str) -> None:
    world = World(options())
    await world.get()
    assert "b1; fwd=method" == (await world.get(method=method)).headers["cache-status"]
    assert 2 == world.runs


async def test_a_range_passes_untouched() -> None:
    world = World(options())
    await world.get()
    reply = await world.get(headers=[(b"range", b"bytes=0-1"), (b"if-range", b'"x"'), (b"x-own", b"1")])
    assert (2, "b1; fwd=bypass; detail=range") == (world.runs, reply.headers["cache-status"])
    assert (b"bytes=0-1", b"1") == (world.handler.header(b"range"), world.handler.header(b"x-own"))


@pytest.mark.parametrize("length", [b"1", b"3", b"1000"])
async def test_half_an_answer_is_not_kept(length: bytes) -> None:
    world = World(options())
    assert not await is_reused(world, [(b"content-length", length)])


async def test_headers_of_a_connection_are_not_kept() -> None:
    world = World(options())
    world.handler.headers = [
        (b"Connection", b"close, X-Hop"), (b"X-Hop", b"1"), (b"keep-alive", b"2"), (b"date", date(0)), (b"X-Own", b"3"),
    ]  # fmt: skip
    await world.get()
    kept = (await world.get()).headers
    assert {"x-own"} == kept.keys() & {"connection", "x-hop", "keep-alive", "date", "x-own"}
