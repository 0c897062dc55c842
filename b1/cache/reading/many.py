"""Many keys at once: one look at this process, one burst to the shared store, one call of the loader for what is missing.

Each key is a load of its own that others may join; they share the call that brings their values. A key that somebody else
loads is waited for, and one whose load elsewhere comes to nothing is loaded alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from b1.cache.names import several
from b1.cache.reading.places import Turn

ManyLoader = Callable[[list[str]], Awaitable[Mapping[str, Any]]]

TurnLoader = Callable[[Turn, list[str]], Awaitable[Mapping[str, Any]]]

# A list longer than this is a query of its own.
MANY_LIMIT = 1000


class Batch:
    """The common load of some keys. Guarded by the event loop.

    Args:
        keys: all that might need it.
        loader: called once, with those that do, as soon as each key has said whether it does; the turn is that call's.
        is_free: the calls need no place.
    """

    def __init__(self, keys: Sequence[str], loader: TurnLoader, *, is_free: bool) -> None:
        self._undecided = set(keys)
        self._is_free = is_free
        self._turns: set[Turn] = set()
        self._wanted: list[str] = []
        self._loader = loader
        self._answer: asyncio.Future[Mapping[str, Any]] | None = None
        self._decided = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Batch undecided={len(self._undecided)} wanted={len(self._wanted)}>"

    async def load(self, key: str) -> Any:
        """Return the value of a key, from the common call if it comes in time for that."""
        if key not in self._undecided:
            return await self._alone(key)
        self._wanted.append(key)
        self.settled(key)
        await self._decided.wait()
        if self._answer is None:
            # The first one calls for all. If it is cancelled the others' call is gone too, and they load alone.
            answer = self._answer = asyncio.get_running_loop().create_future()
            answer.add_done_callback(_heard)
            try:
                answer.set_result(await self._called(list(self._wanted)))
            except asyncio.CancelledError:
                answer.cancel()
                raise
            except Exception as error:
                answer.set_exception(error)
                raise
            return _of(answer.result(), key)
        try:
            return _of(await asyncio.shield(self._answer), key)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._answer.cancelled() or (task is not None and task.cancelling()):
                raise
            return await self._alone(key)

    def settled(self, key: str) -> None:
        """Hear that a key has its value without us, or waits for somebody else's."""
        self._undecided.discard(key)
        if not self._undecided:
            self._decided.set()

    def close(self) -> None:
        """Hear that nobody of those who asked for it decides any more."""
        self._undecided.clear()
        self._decided.set()

    def free(self, let_go: Callable[[Turn], None]) -> None:
        """Hear that a load which holds a place waits for one of the keys: the calls go without."""
        self._is_free = True
        for turn in self._turns:
            let_go(turn)

    async def _alone(self, key: str) -> Any:
        return _of(await self._called([key]), key)

    async def _called(self, keys: list[str]) -> Mapping[str, Any]:
        turn = Turn(is_free=self._is_free)
        self._turns.add(turn)
        try:
            return await self._loader(turn, keys)
        finally:
            self._turns.discard(turn)


class BatchLoader:
    """The loader of one key of a batch."""

    __slots__ = ("_key", "batch")

    def __init__(self, batch: Batch, key: str) -> None:
        self.batch = batch
        self._key = key

    async def __call__(self) -> Any:
        return await self.batch.load(self._key)

    def aside(self) -> None:
        """Let the others load without this one: its value comes from elsewhere, as far as is known."""
        self.batch.settled(self._key)


async def gathered(reads: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Await all; with the first error, and when the caller is cancelled, end the rest."""
    tasks = [asyncio.ensure_future(read) for read in reads]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def distinct(keys: Iterable[str]) -> list[str]:
    """Return the keys, each once.

    Raises:
        ValueError: there are more than 1000.
        TypeError: it is one text.
    """
    once = list(dict.fromkeys(several(keys, "keys")))
    if len(once) > MANY_LIMIT:
        raise ValueError(f"{len(once)} keys are read at once, expected {MANY_LIMIT} at most")
    return once


def _of(loaded: Mapping[str, Any], key: str) -> Any:
    return loaded.get(key)


def _heard(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
