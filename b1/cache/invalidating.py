"""The way of invalidations to the shared store: one call at a time, and what comes meanwhile travels in the next one.

An invalidation has taken effect in this process before it gets here. What cannot reach Redis is the store's debt, which
it pays before anybody reads; so a failure here is counted and told to whoever waits, and nothing is repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Protocol

from b1.clock import DEADLINE

# Names that wait for the next call; with more, it invalidates everything: too much, never too little.
_NAMES_LIMIT = 16_384


class Store(Protocol):
    """Whom it concerns (`b1.store.base.Store` is one)."""

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None: ...


class Followed(Protocol):
    """Who hears of what the application invalidates (`b1.purge.Following` is one)."""

    def follow(self, done: Awaitable[None], hard: Sequence[str] | None, soft: Sequence[str] = ()) -> None:
        """Do the same elsewhere when `done` has ended; `hard` None: everything. Never waits, never fails."""
        ...


class Invalidation:
    """Await it to know that no later read, anywhere, gives the older value; nobody has to."""

    __slots__ = ("_done",)

    def __init__(self, done: asyncio.Future[None] | None = None) -> None:
        self._done = done

    def __repr__(self) -> str:
        return f"<Invalidation {'under way' if self._done is not None and not self._done.done() else 'done'}>"

    def __await__(self) -> Generator[Any, None, None]:
        if self._done is not None:
            yield from asyncio.shield(self._done).__await__()


class Invalidations:
    """Sends names to the store.

    Args:
        failed: called with what the store raised.
        timeout_s: for one call.
    """

    def __init__(self, store: Store, failed: Callable[[Exception], None], timeout_s: float) -> None:
        self._store = store
        self._failed = failed
        self._timeout_s = timeout_s
        self._hard: dict[str, None] = {}
        self._soft: dict[str, None] = {}
        self._is_all = False
        self._next: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Invalidations pending={self.pending} is_sending={self._task is not None}>"

    @property
    def pending(self) -> int:
        """How many names wait for the next call."""
        return len(self._hard) + len(self._soft) + self._is_all

    def add(self, names: Sequence[str] | None, *, soft: bool) -> Invalidation:
        """Send the names with the next call; None: everything.

        Raises:
            RuntimeError: no event loop runs.
        """
        loop = asyncio.get_running_loop()
        if names is None or self.pending + len(names) > _NAMES_LIMIT:
            self._is_all = True
        else:
            (self._soft if soft else self._hard).update(dict.fromkeys(names))
        if self._next is None:
            self._next = loop.create_future()
            self._next.add_done_callback(_heard)
        if self._task is None:
            self._task = loop.create_task(self._run(), name="b1-cache-invalidate")
        return Invalidation(self._next)

    async def aclose(self) -> None:
        """Wait for what is under way, for as long as a call may take."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._timeout_s)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        DEADLINE.set(None)  # the request that wrote may be over; its invalidation is not, nor are the others' that come
        try:
            while self._next is not None:
                done, self._next = self._next, None
                hard = None if self._is_all else list(self._hard)
                soft = [name for name in self._soft if name not in self._hard]
                self._is_all = False
                self._hard, self._soft = {}, {}
                await self._deliver(done, hard, [] if hard is None else soft)
        finally:
            self._task = None

    async def _deliver(self, done: asyncio.Future[None], hard: list[str] | None, soft: list[str]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._store.invalidate(hard, soft=soft)
        except asyncio.CancelledError:
            done.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was belongs to whoever awaits it
            self._failed(error)
            done.set_exception(error)
        else:
            done.set_result(None)


def _heard(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()  # nobody has to await an invalidation, and a failure was counted
