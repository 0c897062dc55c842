"""Limits written inline, as dependencies, and asked for by name: what becomes a policy, who is counted, what is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from b1.asgi.callers import caller_of
from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.limiting import Allowance, Limiting, show
from b1.asgi.limits import LimitExceeded
from b1.asgi.options import declared
from b1.asgi.rates import read_rate
from b1.asgi.routes import NO_ROUTE
from b1.clock import ManualClock
from b1.errors import ConfigurationError, NotRunning, RateLimited
from b1.limiter import Caller, Decision, Limiter, Policy, PolicyTable, decision_headers
from b1.store.memory import MemoryStore
from b1.types import Headers, Principal
from b1.units import MIB
from tests.asgi.raw import ANN, BOB, http

TABLE = PolicyTable(
    (
        Policy("chat", 2, 60, scope="actor"),
        Policy("search", 3, 60, scope="actor", anonymous_quota=1),
        Policy("door", 2, 60, scope="address"),
        Policy("team", 3, 60, scope="organization"),
        Policy("reports", 1, 60, algorithm="concurrency"),
    )
)


class Deciding:
    """What `Limits` is to `Limiting`, without an application around it."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter

    async def decide(self, policies: Sequence[str], caller: Caller, *, cost: int = 1) -> Decision:
        return await self.limiter.check(policies, caller, cost=cost, blame="nobody")

    def headers(self, decision: Decision) -> Headers:
        return decision_headers(decision)

    def refusal(self, decision: Decision) -> LimitExceeded:
        return LimitExceeded(decision, upgrade_url="/plans")


class World:
    """An application's limits while it runs; the table is read when it starts, which is at the first question."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.clock = ManualClock()
        self.limiting = Limiting(TABLE, charging=self._charging)
        self._enabled = enabled
        self._running: Deciding | None = None

    def _charging(self) -> Deciding | None:
        if self._running is None:
            self._running = Deciding(Limiter(MemoryStore(MIB, self.clock), self.limiting.table))
        return self._running if self._enabled else None

    async def used(self, policy: str, caller: Caller) -> int:
        charging = self._charging()
        assert charging is not None
        return (await charging.limiter.check((policy,), caller, cost=0, commit=False)).states[0].used


@contextmanager
def request_of(principal: Principal | None = None, client: str = "203.0.113.9", **headers: str) -> Iterator[Any]:
    """Stand in the middle of a request; yields its connection."""
    fields = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    context = RequestContext("request-1", 0.0, NO_ROUTE, {}, fields)
    context.principal, context.client = principal, client
    scope = {**http(headers=list(fields.items())), "b1": context}
    token = CONTEXT.set(context)
    try:
        yield HTTPConnection(scope)
    finally:
        CONTEXT.reset(token)


def context_of(connection: HTTPConnection) -> RequestContext:
    context: RequestContext = connection.scope["b1"]
    return context


class TestRates:
    @pytest.mark.parametrize(
        ("text", "rate"),
        [
            ("100/minute", (100, 60, 0)),
            ("10 per hour", (10, 3600, 0)),
            ("5/10s", (5, 10, 0)),
            ("1000/day", (1000, 86_400, 0)),
            ("50/minute+10", (50, 60, 10)),
            ("50/minute + 10", (50, 60, 10)),
        ],
    )
    def test_the_accepted_forms(self, text: str, rate: tuple[int, int, int]) -> None:
        assert rate == read_rate(text)

    @pytest.mark.parametrize(
        "text",
        ["", "100", "fast", "0/minute", "100/fortnight", "100/minute+", "100/minute+0", "100/minute+-1", "100/minute+1+1",
         "100/minute+x", "100/minute+\u0661", "1/day;2/hour", "-1/minute", None, 5],
    )  # fmt: skip
    def test_anything_else_is_refused_with_the_accepted_forms(self, text: Any) -> None:
        with pytest.raises(ConfigurationError, match=r'is not a rate: use "100/minute", "10 per hour"'):
            read_rate(text)


class TestDeclaring:
    def test_a_rate_becomes_a_policy_named_after_the_endpoint(self) -> None:
        limiting = World().limiting

        @limiting.limit("100/minute", "5/s", by="address")
        async def Export_All() -> None: ...

        assert declared(Export_All).limits == ("export_all-60s", "export_all-1s")
        policy = limiting.table["export_all-60s"]
        assert (100, 60, "address") == (policy.quota, policy.window_s, policy.scope)

    def test_a_burst_makes_it_gcra(self) -> None:
        limiting = World().limiting
        limiting.limit("50/minute+10")(_endpoint("find"))
        policy = limiting.table["find-60s"]
        assert ("gcra", 10) == (policy.algorithm, policy.burst)

    def test_names_and_policies_are_used_as_they_are(self) -> None:
        limiting = World().limiting
        endpoint = limiting.limit("chat", Policy("exports", 5, 60))(_endpoint("a"))
        assert declared(endpoint).limits == ("chat", "exports")
        assert "exports" in limiting.table

    def test_decorators_add_up(self) -> None:
        limiting = World().limiting
        endpoint = limiting.limit("chat")(limiting.limit("5/s")(_endpoint("a")))
        assert declared(endpoint).limits == ("chat", "a-1s")

    def test_endpoints_of_one_name_have_counters_of_their_own(self) -> None:
        limiting = World().limiting
        first, second = _endpoint("export", where="one"), _endpoint("export", where="two")
        limiting.limit("1/minute")(first)
        limiting.limit("1/minute")(second)
        names = declared(first).limits, declared(second).limits
        assert names == (("export-60s",), ("export-60s-2",))
        assert limiting.table["export-60s"].counter != limiting.table["export-60s-2"].counter

    def test_a_counter_keeps_its_name_when_the_rate_changes(self) -> None:
        one, other = World().limiting, World().limiting
        one.limit("1/minute")(_endpoint("export"))
        other.limit("9/minute")(_endpoint("export"))
        assert one.table["export-60s"].counter == other.table["export-60s"].counter

    @pytest.mark.parametrize("name", ["\u00fcbung", "_", "x" * 90, "\u8a66"])
    def test_an_endpoint_whose_name_headers_cannot_carry_still_gets_one(self, name: str) -> None:
        limiting = World().limiting
        endpoint = limiting.limit("1/day")(_endpoint(name))
        assert declared(endpoint).limits == (list(limiting.table)[-1],)

    def test_a_policy_that_differs_from_one_of_its_name_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="'chat' is in the table and differs"):
            World().limiting.limit(Policy("chat", 9, 60))(_endpoint("a"))

    def test_a_wrong_rate_or_count_is_refused_where_it_is_written(self) -> None:
        limiting = World().limiting
        with pytest.raises(ConfigurationError, match="'100/fortnight' is not a rate"):
            limiting.limit("100/fortnight")(_endpoint("a"))
        with pytest.raises(ConfigurationError, match="by is 'ip'"):
            limiting.limit("1/s", by="ip")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="without a name"):
            limiting.limited("1/s")
        with pytest.raises(ConfigurationError, match="names no limit"):
            limiting.limited()


class TestTaking:
    async def test_a_key_has_a_quota_of_its_own(self) -> None:
        limiting = World().limiting
        answers = [await limiting.allow("chat", key) for key in ("room:1", "room:1", "room:1", "room:2")]
        assert [True, True, False, True] == [bool(answer) for answer in answers]
        assert (Allowance(True, 0, 1), Allowance(True, 0, 0)) == (answers[0], answers[1])
        assert answers[2].retry_after_s >= 1

    async def test_a_key_may_be_any_text(self) -> None:
        limiting = World().limiting
        for key in ("::1", "a:b", "", "\udcff", "x" * 10_000, "1.2.3.4"):
            assert await limiting.allow("team", key)

    async def test_taking_raises_and_says_when_to_come_back(self) -> None:
        world = World()
        for _ in range(2):
            await world.limiting.take("chat", "room:1")
        with pytest.raises(RateLimited) as refused:
            await world.limiting.take("chat", "room:1")
        assert refused.value.retry_after is not None
        world.clock.advance(refused.value.retry_after)
        assert await world.limiting.take("chat", "room:1")

    async def test_a_refusal_spends_nothing_of_any_policy(self) -> None:
        world = World()
        answers = [await world.limiting.allow(("chat", "team"), "k") for _ in range(5)]
        assert [True, True, False, False, False] == [bool(answer) for answer in answers]
        assert await world.limiting.allow("team", "k")

    async def test_a_cost_counts_as_often(self) -> None:
        limiting = World().limiting
        assert not await limiting.allow("chat", "k", cost=3)
        assert await limiting.allow("chat", "k", cost=2)
        assert not await limiting.allow("chat", "k")

    async def test_a_principal_and_a_caller_are_counted_as_in_their_requests(self) -> None:
        world = World()
        await world.limiting.take("chat", ANN)
        await world.limiting.take("chat", Caller("203.0.113.9", "ann", "1"))
        with request_of(ANN):
            assert not await world.limiting.allow("chat")
        with request_of(BOB):
            assert await world.limiting.allow("chat")

    async def test_without_a_key_the_sender_of_the_request_spends(self) -> None:
        world = World()
        with request_of(client="198.51.100.7"):
            answers = [bool(await world.limiting.allow("door")) for _ in range(3)]
        with request_of(client="198.51.100.8"):
            answers.append(bool(await world.limiting.allow("door")))
        assert [True, True, False, True] == answers

    async def test_a_websocket_is_counted_by_its_address(self) -> None:
        world = World()
        socket = HTTPConnection({"type": "websocket", "client": ("198.51.100.7", 5), "headers": []})
        assert [True, True, False] == [bool(await world.limiting.allow("door", socket)) for _ in range(3)]
        assert await world.used("door", Caller("198.51.100.7")) == 2

    async def test_outside_of_requests_somebody_must_be_named(self) -> None:
        with pytest.raises(NotRunning, match="say who spends"):
            await World().limiting.take("chat")

    @pytest.mark.parametrize("enabled", [True, False])
    async def test_a_misspelt_name_fails_also_where_limits_are_off(self, enabled: bool) -> None:
        with pytest.raises(ConfigurationError, match="did you mean chat"):
            await World(enabled=enabled).limiting.allow("chatt", "k")

    async def test_what_is_held_at_a_time_is_for_routes_alone(self) -> None:
        with pytest.raises(ConfigurationError, match="declare it on a route"):
            await World().limiting.take("reports", "k")

    async def test_switched_off_everything_passes(self) -> None:
        limiting = World(enabled=False).limiting
        assert {Allowance(True, 0, None)} == {await limiting.take("chat", "k") for _ in range(5)}


class TestDepending:
    def test_fastapi_takes_it_for_a_dependency_without_parameters(self) -> None:
        app = FastAPI()
        limiting = World().limiting

        @app.get("/found", dependencies=[Depends(limiting.limited("search"))])
        async def found() -> None: ...

        operation = app.openapi()["paths"]["/found"]["get"]
        assert "parameters" not in operation

    async def test_it_spends_shows_and_refuses(self) -> None:
        world = World()
        limited = world.limiting.limited("search")
        with request_of(ANN) as connection:
            for _ in range(3):
                await limited(connection)
            shown = dict(context_of(connection).response_headers)
            assert b"0" == shown[b"x-ratelimit-remaining"]
            with pytest.raises(LimitExceeded) as refused:
                await limited(connection)
        assert dict(refused.value.headers)[b"x-ratelimit-limit"] == b"3"
        assert not context_of(connection).response_headers  # the error carries them, once

    async def test_it_has_a_cost_and_a_rate_of_its_own(self) -> None:
        world = World()
        limited = world.limiting.limited("10/minute", name="exports", cost=6)
        with request_of(ANN) as connection:
            await limited(connection)
            with pytest.raises(RateLimited):
                await limited(connection)

    async def test_a_callable_says_what_is_counted(self) -> None:
        world = World()
        limited = world.limiting.limited("2/minute", name="keys", by=lambda request: request.headers.get("x-api-key"))
        answers = []
        for key in ("one", "one", "one", "two"):
            with request_of(ANN, x_api_key=key) as connection:
                answers.append(await _passes(limited, connection))
        assert [True, True, False, True] == answers

    async def test_a_callable_that_says_nothing_leaves_nobody_uncounted(self) -> None:
        world = World()
        limited = world.limiting.limited("2/minute", name="keys", by=lambda request: request.headers.get("x-api-key"))
        answers = []
        for _ in range(3):
            with request_of() as connection:
                answers.append(await _passes(limited, connection))
        assert [True, True, False] == answers

    @pytest.mark.parametrize(("name", "says"), [("serach", "did you mean search"), ("reports", "limits concurrency")])
    def test_a_name_that_cannot_work_is_found_when_the_table_is_complete(self, name: str, says: str) -> None:
        limiting = World().limiting
        limiting.limited(name)
        with pytest.raises(ConfigurationError, match=says):
            limiting.require_dependencies()

    def test_a_policy_may_be_declared_after_the_dependency_that_names_it(self) -> None:
        limiting = World().limiting
        limiting.limited("later")
        limiting.limited(Policy("later", 2, 60))
        limiting.require_dependencies()


class TestShowing:
    async def test_of_two_decisions_the_nearest_to_exhaustion_is_shown_once(self) -> None:
        limiter = Limiter(MemoryStore(MIB, ManualClock()), TABLE)
        wide, narrow = [await limiter.check((name,), Caller("a", "b", "c")) for name in ("search", "chat")]
        for first, second in ((wide, narrow), (narrow, wide)):
            headers = [(b"x-other", b"1"), *decision_headers(first)]
            show(headers, second, decision_headers(second))
            assert [b"1"] == [value for name, value in headers if name == b"x-ratelimit-remaining"]
            assert len(headers) == len({name for name, _ in headers})
            assert (b"x-other", b"1") in headers


async def _passes(limited: Any, connection: HTTPConnection) -> bool:
    try:
        await limited(connection)
    except RateLimited:
        return False
    return True


def _endpoint(name: str, where: str = "module") -> Any:
    async def endpoint() -> None: ...

    endpoint.__name__ = endpoint.__qualname__ = name
    endpoint.__module__ = where
    return endpoint


def test_who_is_counted_is_the_principal_or_the_address() -> None:
    with request_of(ANN) as connection:
        assert caller_of(context_of(connection)) == Caller("203.0.113.9", "ann", "1", "MEMBER", "pro")
    with request_of() as connection:
        assert caller_of(context_of(connection)) == Caller("203.0.113.9")
