"""Makes each service from the settings and the plan: one function a service, and nothing is started here."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b1.admission import AdmissionOptions, Gate
from b1.alerts import AlertOptions, Alerts
from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.surrogate import purged_keys
from b1.asgi.context import current_organization
from b1.asgi.running import running_request
from b1.cache import L1, Cache, Checker, IntentOptions, Intents, Rules, Warming, WarmingOptions, Warmups
from b1.cache.warming import Conditions
from b1.clock import Clock
from b1.governor import Governor, GovernorOptions, LargeRequests
from b1.host import Host
from b1.idempotency import Idempotency, ServiceOptions, SpoolOptions
from b1.identity import Credentials, Resolver, Tokens
from b1.plan import WATERMARKS, Plan, memory_wish, state_dir
from b1.purge import Adapter, Following, PurgeQueue
from b1.settings import Secret, Settings
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.passing import PassingStore
from b1.types import Principal
from b1.watchdog import Watchdog, WatchdogOptions

if TYPE_CHECKING:
    from b1.db import Database
    from b1.link import Link

log = logging.getLogger("b1.runtime")


def make_governor(settings: Settings, plan: Plan, clock: Clock, large_requests: LargeRequests) -> Governor:
    asked_bytes, source = memory_wish(settings)
    options = GovernorOptions(
        limit_source=source,
        reserve_bytes=plan.memory_reserve_bytes,
        ballast_bytes=plan.memory_ballast_bytes,
        full_collection_s=plan.memory_collection_s,
        pressed_interval_s=plan.memory_pressed_s,
        reports_dir=state_dir(settings, Path(tempfile.gettempdir())),
        reports_apart_s=plan.memory_report_apart_s,
        injection_file=settings.memory_injection_file,
        trace_window_s=settings.trace_memory_s,
    )
    return Governor(
        clock,
        limit_bytes=asked_bytes,
        marks=WATERMARKS,
        interval_s=plan.memory_sample_s,
        options=options,
        large_requests=large_requests.recent,
    )


def make_watchdog(host: Host, plan: Plan, clock: Clock) -> Watchdog:
    options = WatchdogOptions(
        interval_s=plan.loop_sample_s,
        stall_s=plan.loop_stall_s,
        lagging_s=plan.loop_lagging_s,
        dump_after_s=plan.loop_dump_s,
        reports_kept=plan.loop_reports,
        reports_per_minute=plan.loop_reports_per_minute,
    )
    return Watchdog(clock, options, identify=running_request, cores=max(1, round(host.cpus)))


def make_gate(
    plan: Plan,
    clock: Clock,
    *,
    level: Callable[[], int],
    is_lagging: Callable[[], bool],
    is_overlapping: Callable[[], bool],
) -> Gate:
    return Gate(
        admission_options(plan),
        clock,
        level=level,
        lag_level=lambda: int(is_lagging()),
        is_overlapping=is_overlapping,
    )


def admission_options(plan: Plan) -> AdmissionOptions:
    return AdmissionOptions(
        initial_limit=plan.admission_initial,
        most_limit=plan.concurrent_requests,
        most_reading=plan.admission_reading,
        threads=plan.threads,
        queue_limit=plan.admission_queue,
        standing_s=plan.admission_standing_s,
        alarm_s=plan.admission_alarm_s,
        alarm_requests=plan.admission_alarm_requests,
        most_sockets=plan.admission_sockets,
        opening_s=plan.admission_opening_s,
        target_s=plan.admission_target_s,
        patience_s=plan.admission_patience_s,
    )


def make_alerts(settings: Settings, host: Host, plan: Plan, clock: Clock) -> Alerts:
    url, secret = settings.alert_webhook_url, settings.alert_webhook_secret
    options = AlertOptions(
        url=url.reveal() if url else None,
        secret=secret.reveal() if secret else None,
        instance=host.site_name or socket.gethostname(),
        state_dir=state_dir(settings, Path(tempfile.gettempdir())),
        allow_private=settings.alert_allow_private,
        url_file=settings.alert_webhook_url_file,
        secret_file=settings.alert_webhook_secret_file,
        overlap_s=plan.alert_overlap_s,
        cooldown_s=plan.alert_cooldown_s,
        settle_s=plan.alert_settle_s,
        queue_limit=plan.alert_queue,
        keep_s=plan.alert_keep_s,
        attempt_timeout_s=plan.alert_attempt_s,
        backoff_first_s=plan.alert_backoff_first_s,
        backoff_max_s=plan.alert_backoff_most_s,
        retry_after_max_s=plan.alert_retry_after_most_s,
        flush_s=plan.alert_flush_s,
        handler_timeout_s=plan.alert_handler_s,
    )
    return Alerts(options, clock)


def make_database(settings: Settings, plan: Plan, clock: Clock) -> Database | None:
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
        silence_s=plan.db_silence_s,
        slow_query_s=plan.db_slow_query_s,
        tenant_of=current_organization,
    )
    return Database(options, clock=clock)


def lease_check(database: Database | None) -> Callable[[], bool]:
    if database is None:
        return lambda: False
    from b1.db import holds_lease

    return holds_lease


def saturation_check(database: Database | None) -> Callable[[], bool]:
    return (lambda: False) if database is None else lambda: database.is_saturated


def background(database: Database | None) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes queries of a block give way to those of requests."""
    if database is None:
        return nullcontext
    from b1.db import in_background

    return in_background


def make_warming(
    settings: Settings,
    plan: Plan,
    clock: Clock,
    l1: L1,
    warmups: Warmups,
    database: Database | None,
    gate: Gate,
    *,
    level: Callable[[], int],
    is_lagging: Callable[[], bool],
) -> Warming:
    conditions = Conditions(
        level=level,
        is_saturated=saturation_check(database),
        queued=lambda: gate.snapshot().queued,
        is_lagging=is_lagging,
    )
    return Warming(
        warmups,
        l1,
        clock,
        conditions=conditions,
        background=background(database),
        options=WarmingOptions(
            start_wait_s=plan.warming_start_s,
            at_start=plan.warming_at_start,
            share=plan.warming_share,
            load_s=plan.warming_load_s,
            held_s=plan.warming_held_s,
            queue=plan.warming_queue,
            tracked=plan.warming_tracked,
            top=plan.warming_top,
            users=plan.warming_users,
            principal_s=plan.identity_ttl_s,
        ),
        enabled=settings.enable_cache_warming and settings.enable_caching,
    )


def noting(resolve: Resolver, met: Callable[[Principal], None]) -> Resolver:
    """Return the application's resolver, and have warming hear whom it names."""

    async def resolved(credentials: Credentials) -> Principal:
        principal = await resolve(credentials)
        met(principal)
        return principal

    return resolved


def response_cache_options(settings: Settings, host: Host, *, has_purge: bool) -> ResponseCacheOptions:
    return ResponseCacheOptions(
        host=host.hostname,
        is_origin_keyed=not settings.cors_origins,
        surrogate_header="Surrogate-Key" if has_purge else None,
        tag_header="Cache-Tag" if has_purge else None,
    )


def make_intents(
    rules: Rules, cache: Cache, store: PassingStore, database: Database | None, purge: PurgeQueue | None, clock: Clock
) -> Intents:
    return Intents(
        rules,
        cache.invalidate_names,
        clock,
        database=database,
        is_shared=reaches_all(store),
        purge=purge,
        surrogates=purged_keys,
        options=IntentOptions(instance=f"{socket.gethostname()}:{os.getpid()}"),
    )


def make_checker(cache: Cache, store: PassingStore, database: Database | None, clock: Clock) -> Checker:
    l1 = cache.l1
    return Checker(
        l1,
        l1.sample,
        clock,
        shared=cache.shared,
        source=store.versions,
        maps=l1.maps,
        background=background(database),
    )


def make_purge(adapter: Adapter, alerts: Alerts, clock: Clock) -> PurgeQueue:
    def tell(failures: int, cause: str) -> None:
        if failures:
            alerts.fire("B1PurgeFailing", "warning", f"the CDN does not take purges: {cause}")
        else:
            alerts.resolve("B1PurgeFailing")

    return PurgeQueue(adapter, clock, on_trouble=tell)


def make_following(purge: PurgeQueue | None, store: PassingStore) -> Following | None:
    return None if purge is None else Following(purge, purged_keys, is_shared=reaches_all(store))


def reaches_all(store: PassingStore) -> Callable[[], bool]:
    """Say whether what is invalidated here is known to all processes: only then may a CDN ask for it anew."""
    return lambda: store.mode != "local" and not store.owes_invalidations


def make_link(settings: Settings, plan: Plan) -> Link | None:
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


def make_store(settings: Settings, plan: Plan, link: Link | None, clock: Clock) -> PassingStore:
    memory = MemoryStore(plan.store_limit_bytes, clock)
    if link is None:
        return memory
    from b1.store.redis import RedisStore

    redis = RedisStore(link, settings.namespace or "default", clock=clock, away_limit_s=plan.cache_away_s)
    if settings.enable_caching:
        redis.keep_mirror(heartbeat_s=plan.cache_heartbeat_s)
    return FallbackStore(redis, memory, clock, instances=settings.instances, ahead=settings.limit_ahead / 100)


def make_idempotency(
    settings: Settings, plan: Plan, store: PassingStore, database: Database | None, clock: Clock
) -> Idempotency | None:
    if not settings.enable_idempotency:
        return None
    options = ServiceOptions(
        mismatch_status=settings.idempotency_mismatch_status,
        max_waiters=plan.idempotency_waiters,
        max_running=plan.idempotency_running,
        spool=SpoolOptions(
            memory_bytes=plan.idempotency_spool_memory_bytes, disk_bytes=plan.idempotency_spool_disk_bytes
        ),
        acquire_timeout_s=plan.db_acquire_s,
    )
    return Idempotency(store, database, options, clock=clock)


def make_token_secret(settings: Settings) -> Secret:
    if settings.auth_jwt_secret is not None:
        return settings.auth_jwt_secret
    # Only in development: production refuses to start without one (see Settings.from_env).
    log.warning("AUTH_JWT_SECRET is not set: tokens are signed with a secret of this process and end with it")
    return Secret(secrets.token_urlsafe(48))


def make_verifier(
    settings: Settings, tokens: Tokens, clock: Clock
) -> Callable[[str], dict[str, Any] | Awaitable[dict[str, Any]]]:
    if settings.auth_jwks_url is None:
        return tokens.verify
    from b1.identity.jwks import ProviderTokens

    provider = ProviderTokens(
        settings.auth_jwks_url, clock, issuer=settings.auth_issuer, audience=settings.auth_audience
    )
    return provider.verify
