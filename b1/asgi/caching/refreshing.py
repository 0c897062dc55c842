"""Makes stale answers anew in the background: the request is played again, by the same principal, in a task of ours.

A refresh inherits nothing from the request that started it: neither its deadline nor what it was charged, nor its client.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING

from b1.asgi.caching.load import Load
from b1.asgi.caching.lookup import Lookup
from b1.asgi.context import CONTEXT, RequestContext
from b1.logs import REQUEST_ID
from b1.store.base import CacheState
from b1.types import ASGIApp, Message, Scope

if TYPE_CHECKING:
    from b1.asgi.caching.service import ResponseCache

log = logging.getLogger("b1.cache.http")

_PAUSES_MOST = 1024


class Refreshes:
    """The refreshes that run. Guarded by the loop.

    Args:
        may_refresh: says whether work in the background is welcome now.
    """

    def __init__(self, responses: ResponseCache, may_refresh: Callable[[], bool]) -> None:
        self._responses = responses
        self._may_refresh = may_refresh
        self._running: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, float] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Refreshes running={len(self._running)} pauses={len(self._pauses)}>"

    def __len__(self) -> int:
        return len(self._running)

    def pause(self, key: str) -> None:
        """Do not run the handler for this answer for a while: it has just failed."""
        if len(self._pauses) >= _PAUSES_MOST:
            self._pauses.clear()
        self._pauses[key] = self._responses.now_s() + self._responses.options.pause_s

    def is_paused(self, key: str) -> bool:
        """Say whether the handler failed for this answer a moment ago."""
        until_s = self._pauses.get(key)
        if until_s is None:
            return False
        if until_s > self._responses.now_s():
            return True
        del self._pauses[key]
        return False

    def begin(self, lookup: Lookup, app: ASGIApp, scope: Scope, context: RequestContext) -> bool:
        """Start a refresh unless one runs for this answer, too many run, or it has just failed."""
        key = lookup.key
        if (
            key in self._running
            or len(self._running) >= self._responses.options.refreshes
            or self._is_closed
            or self.is_paused(key)
            or not self._may_refresh()
        ):
            self._responses.give_up(lookup)
            return False
        work = self._refresh(lookup, app, scope, context)
        task = asyncio.get_running_loop().create_task(work, name="b1-answer-refresh", context=Context())
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return True

    async def aclose(self) -> None:
        """Cancel the refreshes and wait for their end."""
        self._is_closed = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _refresh(self, lookup: Lookup, app: ASGIApp, scope: Scope, origin: RequestContext) -> None:
        responses, is_kept = self._responses, False
        try:
            async with asyncio.timeout(responses.options.refresh_s):
                is_kept = await self._run(lookup, app, scope, origin)
        except Exception:  # whatever a handler raises: the stale answer stays, and the failure is counted
            log.warning("refresh failed", exc_info=True, extra={"route": origin.route.template})
        if is_kept:
            responses.counts.refreshed += 1
        else:
            responses.counts.refresh_failures += 1
            self.pause(lookup.key)

    async def _run(self, lookup: Lookup, app: ASGIApp, scope: Scope, origin: RequestContext) -> bool:
        responses = self._responses
        if not lookup.has_lease:
            lookup.found = None  # what is asked for is newer than that
            answer = await responses.ask(lookup)
            if answer is not None:
                responses.note(lookup, answer)
                if answer.state is CacheState.HIT:
                    return responses.unpack(lookup, answer) is not None
                if not lookup.has_lease:
                    return True  # another process makes it; the next look finds it
        context = RequestContext(
            os.urandom(16).hex(), responses.now_s(), origin.route, origin.path_values, origin.fields
        )
        context.principal, context.client = origin.principal, origin.client
        CONTEXT.set(context)
        REQUEST_ID.set(context.request_id)
        replay = {**scope, "method": "GET", "b1": context}
        load = Load(responses, lookup, replay, context, None)
        await load.run(app, _nobody_there())
        return load.is_kept


def _nobody_there() -> Callable[[], asyncio.Future[Message]]:
    """Return a receive that has an empty body, and then waits for a client that never hangs up."""
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    return receive  # type: ignore[return-value]
