"""The profile's own endpoints: what they say in each state, who may see them, and that nothing refuses a probe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from b1.asgi.context import RequestContext
from b1.asgi.endpoints.health import Health, LastReplacement, State, Workers, not_ready_reason, overall
from b1.asgi.limits import policies_by_method
from b1.asgi.middleware.probes import Answer, Endpoint, Probes, health_endpoints
from b1.db import Database, DatabaseOptions
from b1.governor import Reclaimed, Step
from b1.host import read_host
from b1.identity.identity import principal_from_claims
from b1.limiter import DEFAULT_POLICIES
from b1.plan import make_plan
from b1.runtime import Runtime
from b1.settings import Secret, Settings
from b1.types import ASGIApp
from tests.asgi.raw import App, bearer, call, inside, nothing

ADMIN = "an admin token of some length"


def _state() -> State:
    """Return what a runtime that was just built says, as if it had started and all was well."""
    settings, host = Settings(), read_host({})
    runtime = Runtime(
        settings,
        host,
        make_plan(host, settings),
        resolve=principal_from_claims,
        policies=DEFAULT_POLICIES,
        default_policies=policies_by_method,
    )
    now = runtime.state()
    return replace(
        now,
        phase="running",
        wall_s=1_750_000_000.0,
        database=DATABASE,
        is_redis_configured=True,
        redis_in_use=1,
        redis_reserve_used=0,
        store=replace(now.store, mode="redis", connected=True, latency_ms=0.4),
        memory=replace(now.memory, used_bytes=100, limit_bytes=1000),
    )


DATABASE = replace(
    Database(DatabaseOptions(url="postgresql://nobody@127.0.0.1:1/none", slots_dir=Path())).snapshot(),
    in_use=1,
    idle=2,
    connected=True,
)
STATE = _state()
STORE = STATE.store
POSTGRES_LOST = replace(STATE, database=replace(DATABASE, connected=False, away_since=1.0, away_s=14.9))
POSTGRES_AWAY = replace(STATE, database=replace(DATABASE, connected=False, away_since=1.0, away_s=15.0))
REDIS_AWAY = replace(STATE, store=replace(STORE, mode="local", connected=False))
NOTHING_CONFIGURED = replace(STATE, database=None, is_redis_configured=False, store=replace(STORE, mode="memory"))


def at_level(level: str, number: int) -> State:
    return replace(STATE, memory=replace(STATE.memory, level=level, level_number=number))


class TestVerdicts:
    @pytest.mark.parametrize(
        ("state", "live", "ready", "health", "status"),
        [
            pytest.param(STATE, 200, 200, 200, "healthy", id="all is well"),
            pytest.param(NOTHING_CONFIGURED, 200, 200, 200, "healthy", id="nothing configured is no fault"),
            pytest.param(replace(STATE, phase="starting"), 200, 503, 200, "degraded", id="starting"),
            pytest.param(replace(STATE, phase="draining"), 200, 503, 200, "degraded", id="draining"),
            pytest.param(replace(STATE, phase="stopped"), 503, 503, 503, "unhealthy", id="stopped"),
            pytest.param(POSTGRES_LOST, 200, 200, 200, "degraded", id="Postgres away for less than 15 s"),
            pytest.param(POSTGRES_AWAY, 200, 503, 200, "degraded", id="Postgres away for 15 s"),
            pytest.param(REDIS_AWAY, 200, 200, 200, "degraded", id="Redis away"),
            pytest.param(at_level("severe", 3), 200, 200, 200, "degraded", id="memory severe"),
            pytest.param(at_level("critical", 4), 200, 503, 200, "degraded", id="memory critical"),
        ],
    )
    def test_each_state(self, state: State, live: int, ready: int, health: int, status: str) -> None:
        now = Health(lambda: state)
        assert (live, ready, health) == (now.live()[0], now.ready()[0], now.short()[0])
        assert status == overall(state) == now.short()[1]["status"] == now.detailed()[1]["status"]

    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            (POSTGRES_AWAY, "postgres"),
            (at_level("emergency", 5), "memory"),
            (replace(STATE, phase="draining"), "draining"),
        ],
    )
    def test_not_ready_says_why(self, state: State, reason: str) -> None:
        assert reason == not_ready_reason(state) == Health(lambda: state).ready()[1]["reason"]


class TestDetailed:
    def report(self, state: State = STATE) -> dict[str, Any]:
        return Health(lambda: state).detailed()[1]

    def test_the_shape_is_the_contracts(self) -> None:
        report = self.report()
        assert {"status", "timestamp", "version", "components", "performance", "budgets", "memory", "event_loop"} <= {
            *report
        }
        assert {
            "api_gateway", "postgres", "redis", "rate_limiter", "idempotency", "cache", "streams", "jobs", "memory",
            "event_loop", "guardrails",
        } == {*report["components"]}  # fmt: skip
        assert all("status" in part for part in report["components"].values())
        assert {"redis_latency_ms", "caching_enabled", "rate_limiting_enabled", "idempotency_enabled"} == {
            *report["performance"]
        }
        assert report["budgets"]["db"] == {"limit": 3, "in_use": 1, "idle": 2, "waiting": 0}
        assert report["budgets"]["redis"] == {"limit": 2, "in_use": 1, "reserve_used": 0}
        assert report["memory"]["ratio"] == 0.1
        assert {"p50", "p99", "max"} == {*report["event_loop"]["lag_ms"]}
        assert report["timestamp"] == "2025-06-15T15:06:40Z"

    def test_what_is_not_configured_is_disabled(self) -> None:
        parts = self.report(NOTHING_CONFIGURED)["components"]
        assert ["disabled", "disabled", "disabled"] == [parts[name]["status"] for name in ("postgres", "redis", "jobs")]

    def test_redis_away_shows_that_limits_are_local(self) -> None:
        parts = self.report(REDIS_AWAY)["components"]
        assert parts["redis"]["status"] == "degraded"
        assert parts["rate_limiter"] == {"status": "degraded", "mode": "local"}

    def test_memory_says_where_the_limit_comes_from_what_presses_and_what_was_given_back(self) -> None:
        memory = replace(
            STATE.memory,
            limit_source="cgroup v2",
            time_to_limit_s=12.345,
            promoted_by="stalls",
            stall_some=11.5,
            stall_full=0.0,
            swap_in_pages_per_s=3.0,
            ballast_bytes=8,
            held=(("cache.l1", 7),),
            report="memory-1.json",
            report_path="/state/memory-1.json",
            last_reclaim=Reclaimed("high", 1_750_000_000.0, 100, 50, (Step("trim", 40, 0.0021),), 0.0003, True, 0.01),
        )
        report = self.report(replace(STATE, memory=memory))
        shown = report["memory"]
        assert ("cgroup v2", 12.3, "stalls", 8) == (
            shown["source"],
            shown["time_to_limit_s"],
            shown["promoted_by"],
            shown["ballast_bytes"],
        )
        assert {"some_avg10": 11.5, "full_avg10": 0.0, "swap_in_pages_per_s": 3.0} == shown["pressure"]
        assert {"trim": {"returned_bytes": 40, "took_ms": 2.1}} == shown["last_reclaim"]["steps"]
        assert (50, 40) == (shown["last_reclaim"]["evicted_bytes"], shown["last_reclaim"]["returned_bytes"])
        assert {"cache.l1": 7} == shown["held"]
        assert "memory-1.json" not in json.dumps(report)  # strangers read this page

    def test_the_ends_of_workers_and_their_replacements_are_shown(self) -> None:
        last = LastReplacement("handover", "memory", 0.02, 1_750_000_000.0)
        workers = Workers({"clean": 2, "killed": 1}, {("handover", "memory"): 2}, last, is_tripped=True)
        part = self.report(replace(STATE, workers=workers))["components"]["api_gateway"]
        assert ("degraded", 2, {"clean": 2, "killed": 1}) == (
            part["status"],
            part["workers"]["replacements"],
            part["workers"]["endings"],
        )
        assert {"kind": "handover", "reason": "memory", "pause_s": 0.02, "at": "2025-06-15T15:06:40Z"} == part[
            "workers"
        ]["last_replacement"]
        assert "workers" not in self.report()["components"]["api_gateway"]

    def test_guardrails_count_refusals_and_say_when_nobody_takes_the_alerts(self) -> None:
        gone = replace(STATE.alerts, has_receiver=True, is_disabled=True, dropped=3)
        part = self.report(replace(STATE, alerts=gone, refusals={"HEADERS_TOO_LARGE": 4}))["components"]["guardrails"]
        assert ("degraded", "gone", 3, {"HEADERS_TOO_LARGE": 4}) == (
            part["status"],
            part["alert_receiver"],
            part["alerts_dropped"],
            part["refused_by_protocol"],
        )
        assert "none" == self.report()["components"]["guardrails"]["alert_receiver"]

    def test_the_drafts_checks_observe_values_with_units(self) -> None:
        report = Health(lambda: at_level("critical", 4)).draft()[1]
        assert {"status", "version", "releaseId", "checks", "performance", "budgets"} == {*report}
        [ratio] = report["checks"]["memory:utilization"]
        assert {
            "componentType": "system",
            "observedValue": 0.1,
            "observedUnit": "ratio",
            "status": "warn",
            "time": "2025-06-15T15:06:40Z",
        } == ratio
        assert 3 == report["checks"]["postgres:connections"][0]["observedValue"]
        assert 0.4 == report["checks"]["redis:responseTime"][0]["observedValue"]
        statuses = {one["status"] for checks in report["checks"].values() for one in checks}
        assert statuses <= {"pass", "warn", "fail"}
        for component in self.report()["components"]:
            assert component in report["checks"]

    def test_the_drafts_shape_says_pass_warn_fail(self) -> None:
        status, report = Health(lambda: POSTGRES_LOST).draft()
        assert (status, report["status"], report["checks"]["postgres"][0]["status"]) == (200, "warn", "warn")
        assert report["checks"]["redis"][0]["status"] == "pass"


def probes(
    endpoints: dict[str, Endpoint] | None = None,
    *,
    admin: str | None = ADMIN,
    within: Callable[[str], bool] = lambda _: True,
    hidden: frozenset[str] = frozenset(),
    app: ASGIApp | None = None,
    state: State = STATE,
) -> ASGIApp:
    layer = Probes(
        app or App(),
        endpoints=endpoints or {**health_endpoints(Health(lambda: state)), "/metrics": Endpoint(_text)},
        admin_token=Secret(admin) if admin else None,
        within_limit=within,
        hidden=hidden,
    )
    return inside(layer)


def _text(_: RequestContext) -> Answer:
    return 200, b"text/plain", b"one 1\n"


class TestWhoMaySee:
    @pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/health/detailed"])
    async def test_the_four_probes_are_open(self, path: str) -> None:
        reply = await call(probes(), path)
        assert (reply.status, reply.headers["cache-control"]) == (200, "no-store")

    @pytest.mark.parametrize("headers", [[], [bearer("wrong")], [(b"authorization", b"Basic " + ADMIN.encode())]])
    async def test_everything_else_needs_the_admin_token(self, headers: list[tuple[bytes, bytes]]) -> None:
        reply = await call(probes(), "/metrics", headers=headers)
        assert (reply.status, reply.code) == (401, "UNAUTHENTICATED")
        assert reply.headers["www-authenticate"].startswith("Bearer")

    @pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer "])
    async def test_the_admin_token_opens(self, scheme: bytes) -> None:
        reply = await call(probes(), "/metrics", headers=[(b"authorization", scheme + ADMIN.encode())])
        assert (reply.status, reply.body) == (200, b"one 1\n")

    async def test_without_an_admin_token_all_is_open(self) -> None:
        assert (await call(probes(admin=None), "/metrics")).status == 200


class TestAnswers:
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    async def test_only_reading_is_allowed(self, method: str) -> None:
        reply = await call(probes(), "/live", method)
        assert (reply.status, reply.code, reply.headers["allow"]) == (405, "METHOD_NOT_ALLOWED", "GET, HEAD")

    async def test_head_has_the_length_of_the_body_and_no_body(self) -> None:
        head, get = await call(probes(), "/live", "HEAD"), await call(probes(), "/live")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]  # RFC 9110, 8.6

    async def test_health_json_is_the_drafts_type(self) -> None:
        reply = await call(probes(), "/health/detailed", headers=[(b"accept", b"application/health+json")])
        assert (reply.headers["content-type"], reply.json["status"]) == ("application/health+json", "pass")

    async def test_a_path_that_is_switched_off_is_not_found(self) -> None:
        app = App()
        reply = await call(probes(hidden=frozenset({"/docs"}), app=app), "/docs")
        assert (reply.status, reply.code, app.runs) == (404, "NOT_FOUND", 0)

    async def test_every_other_path_goes_on(self) -> None:
        app = App()
        for path in ("/", "/live/", "/health/detailed/x", "/docs"):
            await call(probes(app=app), path)
        assert app.runs == 4


class TestFlood:
    async def test_over_the_limit_the_last_answer_is_served_and_nothing_is_rendered(self) -> None:
        rendered: list[int] = []

        def render(_: RequestContext) -> Answer:
            rendered.append(1)
            return 200, b"text/plain", str(len(rendered)).encode()

        has_room = True
        layer = probes({"/live": Endpoint(render, is_open=True)}, within=lambda _: has_room)
        bodies = [(await call(layer, "/live")).body for _ in range(2)]
        has_room = False
        bodies += [(await call(layer, "/live")).body for _ in range(2)]
        assert [b"1", b"2", b"2", b"2"] == bodies

    async def test_the_first_answer_is_rendered_even_over_the_limit(self) -> None:
        assert (await call(probes(within=lambda _: False), "/live")).status == 200

    async def test_each_representation_is_kept_by_itself(self) -> None:
        layer = probes(within=lambda _: False)
        draft = [(b"accept", b"application/health+json")]
        types = [
            (await call(layer, "/health/detailed", headers=headers)).headers["content-type"]
            for headers in (draft, [], draft)
        ]
        assert ["application/health+json", "application/json", "application/health+json"] == types


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_other_scopes_pass_untouched(kind: str) -> None:
    app = App()
    await Probes(app, endpoints={}, admin_token=None, within_limit=lambda _: True, hidden=frozenset())(
        {"type": kind, "path": "/live"}, nothing, nothing
    )
    assert app.seen == [(kind, b"")]
