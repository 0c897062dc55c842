"""The composition root: one plan in, every service out; it alone introduces them to each other, starts and stops them.

Built in the worker, never in the gunicorn master. Services are started from the bottom of the ladder to the top, and
stopped the other way round, so that nothing ever talks to a neighbour that is gone.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b1.alerts import AlertOptions, Alerts, MemoryAlerts
from b1.asgi.deadlines import Deadlines
from b1.asgi.endpoints.health import State
from b1.asgi.endpoints.samples import samples
from b1.asgi.limits import DefaultPolicies, Limits
from b1.asgi.middleware.cache import LayerCounts
from b1.cache import L1, Cache
from b1.clock import Clock, SystemClock
from b1.errors import RequestError
from b1.governor import Breaker, Governor, GovernorOptions, GovernorSnapshot, Level, LoopMonitor, Replacement
from b1.host import Host
from b1.idempotency import Idempotency, ServiceOptions
from b1.identity import Identity, Resolver, Tokens
from b1.limiter import Caller, Limiter, PolicyTable, scaled
from b1.metrics import Metrics
from b1.plan import WATERMARKS, Plan, memory_wish, state_dir
from b1.settings import Secret, Settings
from b1.store.base import Store
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore

if TYPE_CHECKING:
    from b1.db import Database
    from b1.link import Link

log = logging.getLogger("b1.runtime")

UPGRADE_URL = "/docs/plans"

# A successor speaks for a worker that drains only once that one must be gone.
ALERT_OVERLAP_MARGIN_S = 15


class Runtime:
    """Every service of one worker.

    Args:
        resolve: the application's look-up from verified claims to a principal.
        policies: the limiter's table, not yet scaled.
        default_policies: names the policies of routes that declare none.
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
        upgrade_url: str = UPGRADE_URL,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.host = host
        self.plan = plan
        self.clock = clock or SystemClock()
        self.phase = "starting"
        self._tasks: set[asyncio.Task[None]] = set()
        self.metrics = Metrics()
        self.deadlines = Deadlines()
        self.loop = LoopMonitor(self.clock, interval_s=plan.loop_sample_s)
        self.governor = _governor(settings, plan, self.clock)
        self.alerts = _alerts(settings, host, plan, self.clock)
        self.governor.on_level(MemoryAlerts(self.alerts).on_level)
        breaker = Breaker(state_dir(settings, Path(tempfile.gettempdir())) / "replacements.json", self.clock)
        self.replacement = Replacement(breaker)
        self.governor.on_irreclaimable(self._replace)
        self.l1 = L1(plan.cache_limit_bytes, self.clock)
        self.governor.register(self.l1)
        self.responses = LayerCounts()
        self.database = _database(settings, plan, self.clock)
        self.cache = Cache(
            self.l1,
            self.clock,
            limit_bytes=plan.cache_limit_bytes,
            enabled=settings.enable_caching,
            must_not_wait=_lease_check(self.database),
        )
        self.link = _link(settings, plan)
        self.store = _store(settings, plan, self.link, self.clock)
        self.limiter = Limiter(self.store, scaled(policies, settings.limit_scale))
        self.limits = Limits(
            self.limiter, self.metrics, default=default_policies, anonymous=anonymous_policies, upgrade_url=upgrade_url
        )
        self.tokens = Tokens(
            _token_secret(settings), self.clock, issuer=settings.auth_issuer, audience=settings.auth_audience
        )
        self.identity = Identity(
            _verifier(settings, self.tokens, self.clock),
            resolve,
            self.l1,
            self.clock,
            ttl_s=plan.identity_ttl_s,
            cached=settings.enable_caching,
        )
        self.idempotency = _idempotency(settings, plan, self.store, self.database, self.clock)
        self.metrics.add_source(lambda: samples(self.state()))

    def __repr__(self) -> str:
        return f"<Runtime {self.phase} database={self.database!r} store={self.store!r}>"

    async def start(self) -> None:
        """Start every service; a Postgres or Redis that is away does not keep the app from starting."""
        self.loop.start()
        await self.alerts.start()
        self.governor.start()
        if self.link is not None:
            await self.link.start()
        if self.database is not None:
            await self.database.start()
            self._own(self._probe_database(), "b1-probe-database")
        if self.idempotency is not None:
            await self.idempotency.start()

    def mark_ready(self) -> None:
        """The application's own start-up is over."""
        self.phase = "running"
        log.info("ready", extra={"database": self.database is not None, "redis": self.link is not None})

    def watch_stop(self, begun: asyncio.Event) -> None:
        """Tell probes, from the moment that a stop begins, that no new traffic should come; requests are still served."""

        async def watch() -> None:
            await begun.wait()
            self.phase = "draining"

        self._own(watch(), "b1-watch-stop")

    def replace_through(self, end_worker: Callable[[], None]) -> None:
        """Hear how the server ends this worker, for when its memory cannot be reclaimed."""
        self.replacement.through(end_worker)

    async def aclose(self) -> None:
        """Stop from the top of the ladder to the bottom; every step has its own bound."""
        if self.phase == "stopped":
            return
        self.phase = "draining"
        if self.idempotency is not None:
            await self.idempotency.aclose()
        await self.cache.aclose()
        await self.governor.aclose()
        await self.alerts.aclose()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.database is not None:
            await self.database.aclose()
        if isinstance(self.store, FallbackStore):
            await self.store.aclose()
        if self.link is not None:
            await self.link.aclose()
        self.loop.stop()
        self.phase = "stopped"

    def is_running(self) -> bool:
        """Say whether requests can be served."""
        return self.phase in ("running", "draining")

    def is_critical(self) -> bool:
        """Say whether memory leaves no room for new work."""
        return self.governor.level >= Level.CRITICAL

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
        )

    def _replace(self, _: GovernorSnapshot) -> None:
        self.replacement.ask("memory")

    def _redis_in_use(self) -> int:
        """Count our sockets to Redis, the reserve included."""
        return self.link.snapshot().connections if self.link is not None else 0

    def _redis_reserve_used(self) -> int:
        return sum(times for _, times in self.link.snapshot().reserve.used) if self.link is not None else 0

    def _own(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe_database(self) -> None:
        """Ask Postgres now and then, so that an idle service also knows; a busy one learns it from its own traffic."""
        assert self.database is not None
        while True:
            try:
                await self.database.fetchval("SELECT 1", priority="background", timeout_s=2.0)
            except RequestError:
                pass  # busy, away or silent: the pool has noted it, and its snapshot is what health reads
            except Exception as error:  # noqa: BLE001 - a refusal of Postgres itself; the watch must outlive it
                log.warning("the database refused a probe", extra={"error": type(error).__name__})
            await asyncio.sleep(5.0)


def _governor(settings: Settings, plan: Plan, clock: Clock) -> Governor:
    asked_bytes, source = memory_wish(settings)
    options = GovernorOptions(
        limit_source=source,
        reports_dir=state_dir(settings, Path(tempfile.gettempdir())),
    )
    return Governor(clock, limit_bytes=asked_bytes, marks=WATERMARKS, interval_s=plan.memory_sample_s, options=options)


def _alerts(settings: Settings, host: Host, plan: Plan, clock: Clock) -> Alerts:
    url, secret = settings.alert_webhook_url, settings.alert_webhook_secret
    options = AlertOptions(
        url=url.reveal() if url else None,
        secret=secret.reveal() if secret else None,
        instance=host.site_name or socket.gethostname(),
        state_dir=state_dir(settings, Path(tempfile.gettempdir())),
        allow_private=settings.alert_allow_private,
        overlap_s=float(plan.graceful_stop_s + ALERT_OVERLAP_MARGIN_S),
    )
    return Alerts(options, clock)


def _database(settings: Settings, plan: Plan, clock: Clock) -> Database | None:
    if settings.database_url is None:
        return None
    from b1.db import Database, DatabaseOptions, slots_directory

    url = settings.database_url.reveal()
    options = DatabaseOptions(
        url=url,
        slots_dir=slots_directory(url),
        connections=plan.db_connections,
        queue_limit=plan.db_queue,
        acquire_timeout_s=plan.db_acquire_s,
        statement_timeout_s=plan.db_statement_s,
        idle_in_transaction_timeout_s=plan.db_idle_transaction_s,
        idle_lifetime_s=plan.db_idle_lifetime_s,
        connection_check_ms=plan.db_connection_check_ms,
    )
    return Database(options, clock=clock)


def _lease_check(database: Database | None) -> Callable[[], bool]:
    if database is None:
        return lambda: False
    from b1.db import holds_lease

    return holds_lease


def _link(settings: Settings, plan: Plan) -> Link | None:
    if settings.redis_url is None:
        return None
    from b1.link import Link, LinkOptions, from_url_file

    return Link(
        LinkOptions(
            url=settings.redis_url.reveal(),
            deadline_s=plan.redis_deadline_s,
            pending_limit=plan.redis_pending,
            connections=plan.redis_connections,
            credentials=from_url_file(settings.redis_url_file) if settings.redis_url_file is not None else None,
        )
    )


def _store(settings: Settings, plan: Plan, link: Link | None, clock: Clock) -> Store:
    memory = MemoryStore(plan.store_limit_bytes, clock)
    if link is None:
        return memory
    from b1.store.redis import RedisStore

    return FallbackStore(RedisStore(link, settings.namespace or "default"), memory, clock)


def _idempotency(
    settings: Settings, plan: Plan, store: Store, database: Database | None, clock: Clock
) -> Idempotency | None:
    if not settings.enable_idempotency:
        return None
    options = ServiceOptions(
        mismatch_status=settings.idempotency_mismatch_status,
        max_waiters=plan.idempotency_waiters,
        acquire_timeout_s=plan.db_acquire_s,
    )
    return Idempotency(store, database, options, clock=clock)


def _token_secret(settings: Settings) -> Secret:
    if settings.auth_jwt_secret is not None:
        return settings.auth_jwt_secret
    # Only in development: production refuses to start without one (see Settings.from_env).
    log.warning("AUTH_JWT_SECRET is not set: tokens are signed with a secret of this process and end with it")
    return Secret(secrets.token_urlsafe(48))


def _verifier(
    settings: Settings, tokens: Tokens, clock: Clock
) -> Callable[[str], dict[str, Any] | Awaitable[dict[str, Any]]]:
    if settings.auth_jwks_url is None:
        return tokens.verify
    from b1.identity.jwks import ProviderTokens

    provider = ProviderTokens(
        settings.auth_jwks_url, clock, issuer=settings.auth_issuer, audience=settings.auth_audience
    )
    return provider.verify
