"""The limiters, each behind the same verbs: decide about one caller under so many policies, header data included.

Imported in a contender's own process; what a contender needs is imported when it is made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

PLENTY = 2**30
# What attackers get: so few that they are refused from then on.
FEW = 5
HOUR_S = 3600


class Contender(Protocol):
    """What is measured. A contender has one URL (None: memory), one number of policies, one quota."""

    async def start(self, url: str | None, policies: int, quota: int) -> None: ...

    def decide(self, who: int) -> Coroutine[Any, Any, bool]:
        """Decide about one caller and make what the headers need."""
        ...

    async def close(self) -> None: ...


class B1:
    """This project's limiter, with the mirror in memory that stands in for Redis, and its headers."""

    async def start(self, url: str | None, policies: int, quota: int) -> None:
        from b1.clock import SystemClock
        from b1.limiter import Caller, Limiter, Policy, PolicyTable, decision_headers
        from b1.store.memory import MemoryStore

        clock = SystemClock()
        table = PolicyTable(Policy(f"policy{number}", quota, HOUR_S) for number in range(policies))
        self._link: Any = None
        self._fallback: Any = None
        memory = MemoryStore(2**29, clock)
        store: Any = memory
        if url is not None:
            from b1.link import Link, LinkOptions
            from b1.store.fallback import FallbackStore
            from b1.store.redis import RedisStore

            slots = Path(tempfile.mkdtemp(prefix="b1-bench-")) / "slots"
            self._link = Link(LinkOptions(url, slots_dir=slots, deadline_s=30))
            await self._link.start()
            self._fallback = store = FallbackStore(RedisStore(self._link, "bench"), memory, clock)
        self._names = tuple(table)
        self._limiter = Limiter(store, table)
        self._caller: Callable[..., Any] = Caller
        self._headers = decision_headers

    async def decide(self, who: int) -> bool:
        caller = self._caller("203.0.113.9", f"user{who}", "organisation1", "MEMBER", "pro")
        decision = self._limiter.check_now(self._names, caller) or await self._limiter.check(self._names, caller)
        self._headers(decision)
        return bool(decision.allowed)

    async def close(self) -> None:
        if self._fallback is not None:
            await self._fallback.aclose()
            await self._link.aclose()


class B1Alone(B1):
    """This project's decision, without the headers, for a caller that is known."""

    async def start(self, url: str | None, policies: int, quota: int) -> None:
        await super().start(url, policies, quota)
        self._known = self._caller("203.0.113.9", "user0", "organisation1", "MEMBER", "pro")

    async def decide(self, who: int) -> bool:
        limiter, names, caller = self._limiter, self._names, self._known
        return bool((limiter.check_now(names, caller) or await limiter.check(names, caller)).allowed)


class Limits:
    """limits, asynchronous: a hit and the window's statistics for each policy, one after the other."""

    strategy = "FixedWindowRateLimiter"

    async def start(self, url: str | None, policies: int, quota: int) -> None:
        import limits
        from limits.aio import strategies
        from limits.storage import storage_from_string

        storage: Any = storage_from_string("async+memory://" if url is None else f"async+{url}")
        self._limiter = getattr(strategies, self.strategy)(storage)
        self._items = [limits.RateLimitItemPerHour(quota, number + 1) for number in range(policies)]

    async def decide(self, who: int) -> bool:
        key, allowed = f"organisation1:user{who}", True
        for item in self._items:
            allowed = await self._limiter.hit(item, key) and allowed
            await self._limiter.get_window_stats(item, key)
        return allowed

    async def close(self) -> None: ...


class LimitsMoving(Limits):
    """limits with its precise strategy."""

    strategy = "MovingWindowRateLimiter"


class SlowApi:
    """slowapi's decorator with its headers; its storage is synchronous and stops the event loop."""

    async def start(self, url: str | None, policies: int, quota: int) -> None:
        from slowapi import Limiter
        from starlette.requests import Request
        from starlette.responses import Response

        limiter = Limiter(
            key_func=lambda request: request.headers["x-user"], headers_enabled=True, storage_uri=url or "memory://"
        )

        async def endpoint(request: Request, response: Response) -> None: ...

        rates = ";".join(f"{quota}/{number + 1} hour" for number in range(policies))
        self._endpoint: Any = limiter.limit(rates)(endpoint)
        self._new: Callable[[int], Any] = lambda who: (
            Request(
                {
                    "type": "http",
                    "method": "GET",
                    "path": "/",
                    "query_string": b"",
                    "headers": [(b"x-user", b"user%d" % who)],
                    "client": ("203.0.113.9", 1),
                    "app": _App(limiter),
                    "endpoint": endpoint,
                }
            ),
            Response(),
        )
        from slowapi.errors import RateLimitExceeded

        self._refusal = RateLimitExceeded

    async def decide(self, who: int) -> bool:
        request, response = self._new(who)
        try:
            await self._endpoint(request=request, response=response)
        except self._refusal:
            return False
        return True

    async def close(self) -> None: ...


class _App:
    def __init__(self, limiter: Any) -> None:
        self.state = type("State", (), {"limiter": limiter})()


class FastApiLimiter:
    """fastapi-limiter 0.2 with a bucket of pyrate-limiter: one bucket for all callers, and no header data."""

    async def start(self, url: str | None, policies: int, quota: int) -> None:
        from fastapi_limiter.depends import RateLimiter
        from pyrate_limiter import InMemoryBucket, Limiter, Rate
        from starlette.requests import Request
        from starlette.responses import Response

        rates = [Rate(quota, HOUR_S * 1000 * (number + 1)) for number in range(policies)]
        if policies > 1:  # it demands that larger windows allow more
            rates = [Rate(quota + number, HOUR_S * 1000 * (number + 1)) for number in range(policies)]
        bucket: Any = InMemoryBucket(rates)
        self._redis: Any = None
        if url is not None:
            import redis.asyncio
            from pyrate_limiter import RedisBucket

            self._redis = redis.asyncio.Redis.from_url(url)
            bucket = await RedisBucket.init(rates, self._redis, "bench")
        self._is_refused = False

        async def refused(*_: Any) -> None:
            self._is_refused = True

        self._dependency = RateLimiter(limiter=Limiter(bucket), callback=refused)
        app = type("App", (), {"routes": []})()
        self._new: Callable[[int], Any] = lambda who: (
            Request(
                {
                    "type": "http",
                    "method": "GET",
                    "path": "/",
                    "query_string": b"",
                    "headers": [(b"x-forwarded-for", b"10.0.%d.%d" % divmod(who % 65536, 256))],
                    "client": ("203.0.113.9", 1),
                    "app": app,
                }
            ),
            Response(),
        )

    async def decide(self, who: int) -> bool:
        request, response = self._new(who)
        self._is_refused = False
        await self._dependency(request, response)
        return not self._is_refused

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()


class Throttled:
    """throttled-py, asynchronous, GCRA: one round trip a policy, with the state for the headers."""

    async def start(self, url: str | None, policies: int, quota: int) -> None:
        from datetime import timedelta

        from throttled.asyncio import MemoryStore, RateLimiterType, RedisStore, rate_limiter
        from throttled.asyncio import Throttled as One

        store: Any = MemoryStore() if url is None else RedisStore(server=url)
        self._limits = [
            One(
                using=RateLimiterType.GCRA.value,
                quota=rate_limiter.per_duration(timedelta(hours=number + 1), quota),
                store=store,
            )
            for number in range(policies)
        ]

    async def decide(self, who: int) -> bool:
        allowed = True
        for number, limit in enumerate(self._limits):
            result = await limit.limit(f"{number}:organisation1:user{who}")
            allowed = allowed and not result.limited
        return allowed

    async def close(self) -> None: ...


OURS, ALONE = "b1", "b1, decision alone"
CONTENDERS: dict[str, Callable[[], Any]] = {
    OURS: B1,
    ALONE: B1Alone,
    "limits, fixed window": Limits,
    "limits, moving window": LimitsMoving,
    "slowapi": SlowApi,
    "fastapi-limiter": FastApiLimiter,
    "throttled-py, GCRA": Throttled,
}
