"""Reads of the shared store that are wanted in one turn of the loop travel together: one call, one task, for all of them.

Nobody waits for that: the link writes what one turn asks for in one piece anyway. A call belongs to all who wait for it,
and what comes for somebody who has gone is given back: a read may have taken the lease to load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from b1.clock import DEADLINE
from b1.store.base import CacheAnswer, CacheRead

# As many as one script reads.
_MOST = 128
_Waiting = asyncio.Future[list[CacheAnswer]]
_Asked = list[tuple[Sequence[CacheRead], _Waiting]]


class Gathering:
    """Gathers reads. Guarded by the event loop.

    Args:
        read_many: the call; None when the store does not answer. It has a time limit, and raises nothing.
        unwanted: told of an answer that nobody waits for any more.
    """

    def __init__(
        self,
        read_many: Callable[[Sequence[CacheRead]], Awaitable[list[CacheAnswer] | None]],
        unwanted: Callable[[CacheRead, CacheAnswer], None],
    ) -> None:
        self._read_many = read_many
        self._unwanted = unwanted
        self._asked: _Asked = []
        self._calls: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Gathering asked={len(self._asked)} calls={len(self._calls)}>"

    async def read(self, read: CacheRead) -> list[CacheAnswer]:
        """Return the answer to one read, in a list; an empty one when the store does not answer, or after `aclose`."""
        if self._is_closed:
            return []
        loop, reads = asyncio.get_running_loop(), (read,)
        waiting: _Waiting = loop.create_future()
        asked = self._asked
        if not asked:
            loop.call_soon(self._begin_without_deadline, asked)
        asked.append((reads, waiting))
        if len(asked) == _MOST:
            self._asked = []
        return await self._answered(reads, waiting)

    async def read_apart(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
        """Return the answers to all, from a call of their own, which ends with the caller's deadline."""
        if self._is_closed:
            return []
        waiting: _Waiting = asyncio.get_running_loop().create_future()
        self._begin([(reads, waiting)])
        return await self._answered(reads, waiting)

    async def aclose(self, limit_s: float) -> None:
        """Wait for the calls under way, for so long at most, and end them; whoever waits then has no answer."""
        self._is_closed = True
        if self._calls:
            await asyncio.wait(self._calls, timeout=limit_s)
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _answered(self, reads: Sequence[CacheRead], waiting: _Waiting) -> list[CacheAnswer]:
        try:
            return await waiting
        except asyncio.CancelledError:
            if not waiting.cancelled() and waiting.done():  # it came in the same moment
                self._give_back(reads, waiting.result())
            raise

    def _give_back(self, reads: Sequence[CacheRead], answers: Sequence[CacheAnswer]) -> None:
        for read, answer in zip(reads, answers, strict=False):
            self._unwanted(read, answer)

    def _begin_without_deadline(self, asked: _Asked) -> None:
        if self._asked is asked:
            self._asked = []
        if self._is_closed:
            for _, waiting in asked:
                if not waiting.done():
                    waiting.set_result([])
            return
        deadline = DEADLINE.set(None)  # of whoever asked first
        try:
            self._begin(asked)
        finally:
            DEADLINE.reset(deadline)

    def _begin(self, asked: _Asked) -> None:
        call = asyncio.get_running_loop().create_task(self._bring(asked), name="b1-cache-read")
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _bring(self, asked: _Asked) -> None:
        answers: list[CacheAnswer] = []
        try:
            answers = await self._read_many([read for reads, _ in asked for read in reads]) or []
        finally:
            at = 0
            for reads, waiting in asked:
                own, at = answers[at : at + len(reads)], at + len(reads)
                if waiting.done():
                    self._give_back(reads, own)
                else:
                    waiting.set_result(own)
