"""What an application asks of its profile while it runs: services, who is calling, what it spends and what it changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.limiting import Allowance, Key, Limiting
from b1.errors import DatabaseUnavailable, NotRunning, Unauthenticated
from b1.types import Principal

if TYPE_CHECKING:
    from b1.alerts import Alerts
    from b1.cache import Cache, Riding, Write
    from b1.cache.checking import Load
    from b1.db import Database
    from b1.governor import Governor
    from b1.identity import Tokens
    from b1.limiter import Caller
    from b1.runtime import Runtime


class Using:
    """The half of `B1` that needs a running application."""

    limiting: Limiting
    _runtime: Runtime | None

    @property
    def runtime(self) -> Runtime:
        """The services of this worker.

        Raises:
            NotRunning: the application's lifespan has not started.
        """
        if self._runtime is None:
            raise NotRunning("b1 is not running: its services exist from the application's start-up to its shutdown")
        return self._runtime

    @property
    def db(self) -> Database:
        """The database within its budget.

        Raises:
            DatabaseUnavailable: no DATABASE_URL; the client gets 503 and says what is missing.
        """
        database = self.runtime.database
        if database is None:
            raise DatabaseUnavailable("no database is configured: set DATABASE_URL")
        return database

    @property
    def cache(self) -> Cache:
        """The data cache: `get_or_load`, `get_many`, `set`, `invalidate`."""
        return self.runtime.cache

    @property
    def alerts(self) -> Alerts:
        """Alerts of the application's own: `fire` and `resolve`."""
        return self.runtime.alerts

    @property
    def governor(self) -> Governor:
        """The resource governor: `register` what can give memory back, and `on_level` to hear of pressure."""
        return self.runtime.governor

    @property
    def tokens(self) -> Tokens:
        """Issues access tokens signed with AUTH_JWT_SECRET."""
        return self.runtime.tokens

    def principal(self) -> Principal:
        """Return who is calling.

        Raises:
            Unauthenticated: nobody; the caller gets 401.
        """
        principal = request_in_hand().principal
        if principal is None:
            raise Unauthenticated
        return principal

    def client_address(self) -> str:
        """Return the caller's network address, as far as the trusted proxies say."""
        return request_in_hand().client

    def warm_for(self, principal: Principal) -> None:
        """Have warmed what was declared for this user, at a login for example; the first token does it by itself."""
        self.runtime.warming.met(principal)

    def forget_principal(self, actor: str) -> None:
        """Look an actor up again at the next request: call it after a change of membership or role."""
        self.runtime.identity.forget(actor)

    async def enforce(self, policies: Sequence[str], caller: Caller, *, commit: bool = True) -> None:
        """Spend from policies on behalf of a handler; with ``commit=False`` only look.

        Raises:
            RateLimited: a policy refuses; the caller gets the 429 with all its headers.
        """
        if self.runtime.settings.enable_rate_limiting:
            await self.runtime.limits.enforce(policies, caller, commit=commit)

    async def take(self, limit: str | Sequence[str], key: Key = None, *, cost: int = 1) -> Allowance:
        """Spend on behalf of a WebSocket message or a job; `RateLimited` when refused. See `Limiting.take`."""
        return await self.limiting.take(limit, key, cost=cost)

    async def allow(self, limit: str | Sequence[str], key: Key = None, *, cost: int = 1) -> Allowance:
        """Do what `take` does, and say what came of it instead of raising."""
        return await self.limiting.allow(limit, key, cost=cost)

    def settle(self, policy: str, actual: int) -> None:
        """Say what the request in hand turned out to cost under one of its policies, for when its answer is out.

        Raises:
            NotRunning: outside a request that was charged.
            ConfigurationError: the request was not charged under this policy.
            ValueError: the cost is negative.
        """
        if self.runtime.settings.enable_rate_limiting:
            self.runtime.limits.settle(policy, actual)

    async def changed(self, write: Write | None, event: str, /, **parameters: Any) -> None:
        """Say in a write's own transaction what it changes; the rules say what that makes stale.

        Applied right after the commit, and by whoever comes next if this worker dies in between.

        Args:
            write: `b1.idempotent.transaction()`, or a lease in a transaction; None: there is none, apply it now.
            parameters: what the rule's templates name.

        Raises:
            ConfigurationError: no rule has this event, a parameter is missing, or `write` is no transaction.
        """
        await self.runtime.intents.changed(write, event, **parameters)

    def changing(self, write: Write, event: str, /, **parameters: Any) -> Riding:
        """Do what `changed` does on the back of the write's own statement, without a trip of its own.

        ``await b1.changing(tx, "entity.updated", id=7).fetchrow("UPDATE …")``; raises as `changed`, when it is awaited.
        ``b1.changing(b1.db, …)`` is a write of its own: one trip, committed by Postgres with its statement.
        """
        return self.runtime.intents.changing(write, event, **parameters)

    def knows(self, namespace: str, load: Load) -> None:
        """Say where a namespace's values come from, so that ``b1 cache check`` can compare copies with the source.

        Args:
            namespace: what stands before the first ``:`` of its keys.
            load: returns the value of a key from the source.
        """
        self.runtime.checker.knows(namespace, load)


def request_in_hand() -> RequestContext:
    """Return the request that this task serves.

    Raises:
        NotRunning: there is none.
    """
    context = CONTEXT.get()
    if context is None:
        raise NotRunning("there is no request here")
    return context
