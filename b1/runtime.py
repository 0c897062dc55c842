"""The composition root: one plan in, every service out; it alone introduces them to each other, starts and stops them.

Built in the worker, never in the gunicorn master. Services are started from the bottom of the ladder to the top, and
stopped the other way round, so that nothing ever talks to a neighbour that is gone.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio.to_thread

from b1 import factories
from b1.alerts import MemoryAlerts
from b1.asgi.caching.service import ResponseCache
from b1.asgi.deadlines import Deadlines
from b1.asgi.endpoints.cache_stats import read_caches
from b1.asgi.endpoints.health import State, Workers
from b1.asgi.endpoints.samples import samples
from b1.asgi.lifespan import REFUSALS_STATE, SUCCESSION_STATE, WORKERS_STATE
from b1.asgi.limits import DefaultPolicies, Limits
from b1.cache import L1, Cache, Rules, Warmups
from b1.clock import Clock, SystemClock
from b1.governor import Breaker, LargeRequests, Level, Replacement
from b1.handover import HandOver
from b1.host import Host
from b1.identity import Identity, Resolver, Tokens
from b1.limiter import Caller, CallerLists, Dialect, Limiter, LimiterOptions, PolicyTable, scaled
from b1.metrics import Metrics
from b1.plan import Plan, state_dir
from b1.pressing import Pressing
from b1.purge import Adapter
from b1.rounds import UsageRound, probe_database
from b1.settings import Settings
from b1.store.fallback import FallbackStore

log = logging.getLogger("b1.runtime")

# What a predecessor wrote and did not come to invalidate; a Postgres that is away must not keep the app from starting.
CATCHING_UP_LIMIT_S = 1.0

UPGRADE_URL = "/docs/plans"


class Runtime:
    """Every service of one worker.

    Args:
        resolve: the application's look-up from verified claims to a principal.
        policies: the limiter's table, not yet scaled.
        default_policies: names the policies of routes that declare none.
        rules: what a write invalidates.
        warmups: what is loaded before it is asked for.
        purge: takes surrogate keys to the CDN in front; None: there is none.
        anonymous_policies: for callers without a principal on routes whose policies count principals.
    """

    def __init__(
        self,
        settings: Settings,
        host: Host,
        plan: Plan,
        *,
        resolve: Resolver,
        policies: PolicyTable,
        default_policies: DefaultPolicies,
        anonymous_policies: tuple[str, ...] | None = None,
        rules: Rules | None = None,
        warmups: Warmups | None = None,
        purge: Adapter | None = None,
        upgrade_url: str = UPGRADE_URL,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.host = host
        self.plan = plan
        self.clock = clock or SystemClock()
        self.phase = "starting"
        self._tasks: set[asyncio.Task[None]] = set()
        self._read_workers: Callable[[], Workers] | None = None
        self._read_refusals: Callable[[], Mapping[str, int]] | None = None
        self.metrics = Metrics()
        self.deadlines = Deadlines()
        self.loop = factories.make_watchdog(host, plan, self.clock)
        self.large_requests = LargeRequests(self.clock)
        self.governor = factories.make_governor(settings, plan, self.clock, self.large_requests)
        self.alerts = factories.make_alerts(settings, host, plan, self.clock)
        self.governor.on_level(MemoryAlerts(self.alerts, self.governor.clean_up).on_level)
        breaker = Breaker(state_dir(settings, Path(tempfile.gettempdir())) / "replacements.json", self.clock)
        self.replacement = Replacement(breaker, self.clock)
        self.gate = factories.make_gate(
            plan,
            self.clock,
            level=lambda: self.governor.level - self.handover.has_heir,
            is_lagging=self.loop.is_lagging,
            is_overlapping=lambda: self.handover.has_heir,
        )
        self.governor.on_level(lambda *_: self.gate.look())
        self.database = factories.make_database(settings, plan, self.clock)
        self.link = factories.make_link(settings, plan)
        self.store = factories.make_store(settings, plan, self.link, self.clock)
        self._make_caches(rules or Rules(), purge)
        self.warming = factories.make_warming(
            settings,
            plan,
            self.clock,
            self.l1,
            warmups or Warmups(),
            self.database,
            self.gate,
            level=lambda: self.governor.level,
            is_lagging=self.loop.is_lagging,
        )
        callers = CallerLists(allow=settings.limit_allow, deny=settings.limit_deny)
        options = LimiterOptions(callers=callers, is_ahead=settings.limit_ahead > 0)
        self.limiter = Limiter(self.store, scaled(policies, settings.limit_scale), options=options)
        self.limits = Limits(
            self.limiter,
            self.metrics,
            default=default_policies,
            anonymous=anonymous_policies,
            upgrade_url=upgrade_url,
            dialect=cast("Dialect", settings.ratelimit_headers),
        )
        self.tokens = Tokens(
            factories.make_token_secret(settings),
            self.clock,
            issuer=settings.auth_issuer,
            audience=settings.auth_audience,
        )
        made_here = None if settings.auth_jwt_secret is not None else self.tokens
        self.handover = HandOver(self.store, plan, made_here, self._own, self.warming)
        self.pressing = Pressing(
            self.governor,
            self.replacement,
            self.store,
            self.link,
            is_running=lambda: self.phase == "running",
            own=self._own,
        )
        self.identity = Identity(
            factories.make_verifier(settings, self.tokens, self.clock),
            factories.noting(resolve, self.warming.met),
            self.l1,
            self.clock,
            ttl_s=plan.identity_ttl_s,
            cached=settings.enable_caching,
            invalidate=self.cache.invalidate_names,
        )
        self.idempotency = factories.make_idempotency(settings, plan, self.store, self.database, self.clock)
        self.key_usage = UsageRound(self.idempotency, self.alerts) if self.idempotency is not None else None
        self.metrics.add_source(lambda: samples(self.state()))

    def _make_caches(self, rules: Rules, purge: Adapter | None) -> None:
        """Make the one map in process, and the caches that share it."""
        plan, clock = self.plan, self.clock
        self.l1 = L1(plan.cache_limit_bytes, clock, versions=self.store.versions, tenant_share=plan.cache_tenant_share)
        self.governor.register(self.l1)
        self.governor.on_level(lambda _, level, __: self.l1.set_level(level))
        self.purge = factories.make_purge(purge, self.alerts, clock) if purge is not None else None
        self.following = factories.make_following(self.purge, self.store)
        self.responses = ResponseCache(
            self.l1,
            clock,
            store=self.store,
            options=factories.response_cache_options(self.settings, self.host, has_purge=purge is not None),
            may_refresh=lambda: self.governor.level < Level.HIGH and self.phase == "running",
        )
        self.cache = Cache(
            self.l1,
            clock,
            store=self.store,
            limit_bytes=plan.cache_limit_bytes,
            enabled=self.settings.enable_caching,
            must_not_wait=factories.lease_check(self.database),
            is_saturated=factories.saturation_check(self.database),
            background=factories.background(self.database),
            purging=self.following,
        )
        self.intents = factories.make_intents(rules, self.cache, self.store, self.database, self.purge, clock)
        self.checker = factories.make_checker(self.cache, self.store, self.database, clock)

    def __repr__(self) -> str:
        return f"<Runtime {self.phase} database={self.database!r} store={self.store!r}>"

    async def start(self) -> None:
        """Start every service; a Postgres or Redis that is away does not keep the app from starting."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = self.plan.threads + self.plan.threads_reserved
        await self.alerts.start()
        if self.handover.is_successor:
            self._own(self._govern_alone(), "b1-govern-alone")
        else:
            self.governor.start()
        if self.link is not None:
            await self.link.start()
        if self.database is not None:
            await self.database.start()
            self._own(probe_database(self.database), "b1-probe-database")
        if self.idempotency is not None:
            await self.idempotency.start()
        if self.key_usage is not None:
            self._own(self.key_usage.run(), "b1-key-usage")
        await self.intents.start()
        if self.purge is not None:
            await self.purge.start()
        if self.following is not None:
            await self.following.start()
        await self.intents.caught_up(CATCHING_UP_LIMIT_S)

    def mark_ready(self) -> None:
        """The application's own start-up is over."""
        self.phase = "running"
        self.loop.start()  # not before: loading and settling the heap block the loop, and nobody waits
        self.gate.open()
        log.info("ready", extra={"database": self.database is not None, "redis": self.link is not None})

    def join(self, server: Mapping[str, Any]) -> None:
        """Hear from our server who was before this worker, how another one is asked for, and what it counts."""
        self.handover.succession = succession = server.get(SUCCESSION_STATE)
        if succession is not None:
            self.replacement.through(succession.ask)
        self._read_workers = server.get(WORKERS_STATE)
        self._read_refusals = server.get(REFUSALS_STATE)

    async def take_over(self) -> None:
        """Have the predecessor end, if there is one, and go on from the state that it leaves."""
        # The application has started by now, and the predecessor still serves: nobody waits for what is critical.
        await self.warming.start(is_alone=not self.handover.is_successor)
        await self.handover.take_over()

    def watch_stop(self, begun: asyncio.Event) -> None:
        """From the moment that a stop begins: no new traffic should come; a successor gets the state."""

        async def watch() -> None:
            await begun.wait()
            self.phase = "draining"
            self.warming.stop()
            self.handover.begin_to_leave()

        self._own(watch(), "b1-watch-stop")

    async def aclose(self) -> None:
        """Stop from the top of the ladder to the bottom; every step has its own bound."""
        if self.phase == "stopped":
            return
        self.phase = "draining"
        await self.gate.aclose()
        if self.idempotency is not None:
            await self.idempotency.aclose()
        await self.warming.aclose()
        await self.responses.aclose()
        await self.checker.aclose()
        await self.intents.aclose()
        await self.cache.aclose()
        if self.following is not None:
            await self.following.aclose()
        if self.purge is not None:
            await self.purge.aclose()
        await self.governor.aclose()
        await self.alerts.aclose()
        await self.handover.has_begun()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.handover.leave(last=True)
        if self.database is not None:
            await self.database.aclose()
        if self.link is not None:
            if isinstance(self.store, FallbackStore):
                async with self.link.urgent("last_words"):
                    await self.store.aclose()
            await self.link.aclose()
        await self.loop.aclose()
        self.phase = "stopped"

    def is_running(self) -> bool:
        """Say whether requests can be served."""
        return self.phase in ("running", "draining")

    async def _govern_alone(self) -> None:
        """Govern from the predecessor's end on: what the two hold together for a moment is no pressure."""
        await self.handover.predecessor_gone()
        self.governor.start()

    def within_health_limit(self, address: str) -> bool:
        """Say whether this address may have a freshly rendered answer of a probe."""
        return self.limiter.check_local(("health",), Caller(address=address)).allowed

    def state(self) -> State:
        """Return what the health report needs."""
        cache = self.cache.snapshot()
        return State(
            phase=self.phase,
            wall_s=self.clock.wall(),
            database=self.database.snapshot() if self.database is not None else None,
            is_redis_configured=self.link is not None,
            redis_in_use=self._redis_in_use(),
            redis_reserve_used=self._redis_reserve_used(),
            store=self.store.snapshot(),
            limiter_enabled=self.settings.enable_rate_limiting,
            idempotency=self.idempotency.snapshot() if self.idempotency is not None else None,
            cache=cache,
            cache_layers=(
                ("responses", self.responses.hits, self.responses.misses),
                ("data", cache.hits, cache.misses),
                ("identity", self.identity.hits, self.identity.misses),
            ),
            memory=self.governor.snapshot(),
            alerts=self.alerts.snapshot(),
            loop=self.loop.snapshot(),
            db_limit=self.plan.db_connections,
            redis_limit=self.plan.redis_connections,
            refusals=self._read_refusals() if self._read_refusals is not None else {},
            workers=self._workers(),
            admission=self.gate.snapshot(),
            limiter=self.limiter.snapshot(),
            caches=read_caches(
                responses=self.responses,
                l1=self.l1,
                intents=self.intents,
                purge=self.purge,
                versions=self.store.versions,
                checker=self.checker,
                warming=self.warming,
            ),
        )

    def _workers(self) -> Workers | None:
        if self._read_workers is None:
            return None
        return replace(self._read_workers(), is_tripped=self.replacement.is_tripped)

    def _redis_in_use(self) -> int:
        """Count our sockets to Redis, the reserve included."""
        return self.link.snapshot().connections if self.link is not None else 0

    def _redis_reserve_used(self) -> int:
        return sum(times for _, times in self.link.snapshot().reserve.used) if self.link is not None else 0

    def _own(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
