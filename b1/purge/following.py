"""Purges what the application itself invalidates, once every process knows of it; in no request's way.

The order matters: a CDN that is told before the other processes fills itself again with the very answer that was
invalidated. While Redis is away they cannot know, so the CDN is told at once, and once more when Redis is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from b1.purge.options import FollowingOptions

log = logging.getLogger("b1.purge")


class Putting(Protocol):
    """The part of `PurgeQueue` that is used here."""

    def put(self, keys: Sequence[str], *, soft: bool = False) -> int: ...
    def put_everything(self) -> int: ...


@dataclass(frozen=True, slots=True)
class FollowingSnapshot:
    """What it says about itself.

    Attributes:
        waiting: names whose invalidation is under way.
        late: names that are purged once more when Redis is back.
        told: batches that were given to the queue.
        collapsed: how often everything was purged because too many names waited.
    """

    waiting: int
    late: int
    told: int
    collapsed: int


class _Names:
    """Names that wait, each once; hard beats soft. With too many, everything."""

    __slots__ = ("_limit", "hard", "is_all", "soft")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.hard: dict[str, None] = {}
        self.soft: dict[str, None] = {}
        self.is_all = False

    def __len__(self) -> int:
        return len(self.hard) + len(self.soft) + self.is_all

    def add(self, hard: Iterable[str] | None, soft: Iterable[str]) -> bool:
        """Take names, or None: everything; False: they were too many."""
        if self.is_all:
            return True
        if hard is not None:
            self.hard.update(dict.fromkeys(hard))
            self.soft.update(dict.fromkeys(soft))
            if len(self) <= self._limit:
                return True
        self.is_all = True
        self.hard, self.soft = {}, {}
        return hard is None


class Following:
    """Told by the data cache of each invalidation; gives the queue the surrogate keys when it has reached all processes.

    Args:
        queue: of the CDN.
        surrogates: the surrogate keys of names, as far as an answer can carry them.
        is_shared: whether what is invalidated now reaches every process; not while Redis is away.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        queue: Putting,
        surrogates: Callable[[Iterable[str]], Sequence[str]],
        *,
        is_shared: Callable[[], bool] = lambda: True,
        options: FollowingOptions | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._surrogates = surrogates
        self._is_shared = is_shared
        self._options = options or FollowingOptions()
        self._sleep = sleep
        # Guarded by the loop: changed between awaits. The newest invalidation ends after all before it.
        self._waiting = _Names(self._options.names_limit)
        self._newest: Awaitable[None] | None = None
        self._late = _Names(self._options.names_limit)
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._told = self._collapsed = 0

    def __repr__(self) -> str:
        return f"<Following waiting={len(self._waiting)} late={len(self._late)} told={self._told}>"

    async def start(self) -> None:
        """Learn in which loop to work: plain functions invalidate from threads."""
        self._loop = asyncio.get_running_loop()

    def follow(self, done: Awaitable[None], hard: Sequence[str] | None, soft: Sequence[str] = ()) -> None:
        """Purge the names when `done` has ended, however it ended. Never waits, never fails.

        Args:
            hard: None: everything.
        """
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None and self._loop is not None and not self._is_closed:
            self._loop.call_soon_threadsafe(self._take, done, hard, soft)
        else:
            self._take(done, hard, soft, can_wait=loop is not None)

    async def aclose(self) -> None:
        """Wait a moment for what is under way, and give the rest to the queue as it is."""
        self._is_closed = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._options.flush_s)
        tasks = [task for task in (self._task, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        names, self._waiting = self._waiting, _Names(self._options.names_limit)
        self._tell(names)
        self._tell_again()

    def snapshot(self) -> FollowingSnapshot:
        """Return numbers; no I/O."""
        return FollowingSnapshot(len(self._waiting), len(self._late), self._told, self._collapsed)

    def _take(
        self, done: Awaitable[None], hard: Sequence[str] | None, soft: Sequence[str], *, can_wait: bool = True
    ) -> None:
        self._collapsed += not self._waiting.add(hard, soft)
        if self._is_closed or not can_wait:  # nobody is left to wait, or there is nothing to wait with
            names, self._waiting = self._waiting, _Names(self._options.names_limit)
            self._tell(names)
            return
        self._newest = done
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="b1-purge-follow")

    async def _run(self) -> None:
        try:
            while self._newest is not None:
                await self._settled()
                if len(self._late) and self._looking is None and not self._is_closed:
                    self._looking = asyncio.get_running_loop().create_task(self._look(), name="b1-purge-look")
        finally:
            self._task = None

    async def _look(self) -> None:
        """Wait for Redis; in a task of its own, because what comes meanwhile is told at once."""
        try:
            while len(self._late):
                await self._sleep(self._options.look_s)
                self._tell_again()
        finally:
            self._looking = None

    async def _settled(self) -> None:
        """Wait for the newest invalidation, and tell what was named up to it."""
        newest, self._newest = self._newest, None
        names, self._waiting = self._waiting, _Names(self._options.names_limit)
        has_arrived = False
        try:
            assert newest is not None
            has_arrived = await _has_arrived(newest) and self._is_shared()
        finally:  # cancelled, it is told all the same: the CDN is not to keep what was invalidated
            self._tell(names)
            if not has_arrived:
                self._collapsed += not self._late.add(None if names.is_all else names.hard, names.soft)

    def _tell_again(self) -> None:
        if len(self._late) and self._is_shared():
            names, self._late = self._late, _Names(self._options.names_limit)
            self._tell(names)

    def _tell(self, names: _Names) -> None:
        if names.is_all:
            self._told += 1
            self._queue.put_everything()
            return
        hard = self._surrogates(names.hard)
        soft = self._surrogates([name for name in names.soft if name not in names.hard])
        for keys, is_soft in ((hard, False), (soft, True)):
            if keys:
                self._told += 1
                self._queue.put(keys, soft=is_soft)


async def _has_arrived(invalidation: Awaitable[None]) -> bool:
    try:
        await invalidation
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return False  # the cache ended it, not us
    except Exception as error:  # noqa: BLE001 - the cache has counted it; here it says that not all processes know
        log.info("an invalidation did not reach the store", extra={"cause": type(error).__name__})
        return False
    return True
