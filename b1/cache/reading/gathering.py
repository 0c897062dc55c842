"""Reads of the shared store that are wanted in one turn of the loop travel together: one call, one task, for all of them.

Nobody waits for that: the link writes what one turn asks for in one piece anyway. A call belongs to all who wait for it,
and what comes for somebody who has gone is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from b1.clock import DEADLINE
from b1.store.base import CacheAnswer, CacheRead

# As many as one script reads.
_MOST = 128
_Asked = list[tuple[CacheRead, "asyncio.Future[list[CacheAnswer]]"]]


class Gathering:
    """Gathers reads. Guarded by the event loop.

    Args:
        read_many: the call; None when the store does not answer. It has a time limit, and raises nothing.
        unwanted: told of an answer that nobody waits for any more.
    """

    def __init__(
        self,
        read_many: Callable[[Sequence[CacheRead]], Awaitable[list[CacheAnswer] | None]],
        unwanted: Callable[[CacheRead, CacheAnswer], Awaitable[None]],
    ) -> None:
        self._read_many = read_many
        self._unwanted = unwanted
        self._asked: _Asked = []
        self._calls: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Gathering asked={len(self._asked)} calls={len(self._calls)}>"

    async def read(self, read: CacheRead) -> list[CacheAnswer]:
        """Return the answer to one read, in a list; an empty one when the store does not answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[CacheAnswer]] = loop.create_future()
        asked = self._asked
        if not asked:
            loop.call_soon(self._begin, asked)
        asked.append((read, answer))
        if len(asked) == _MOST:
            self._asked = []
        return await answer

    async def aclose(self) -> None:
        """End the calls under way; whoever waits has no answer."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _begin(self, asked: _Asked) -> None:
        if self._asked is asked:
            self._asked = []
        deadline = DEADLINE.set(None)  # of whoever asked first
        try:
            call = asyncio.get_running_loop().create_task(self._bring(asked), name="b1-cache-read")
        finally:
            DEADLINE.reset(deadline)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _bring(self, asked: _Asked) -> None:
        answers: list[CacheAnswer] = []
        gone: list[int] = []
        try:
            answers = await self._read_many([read for read, _ in asked]) or []
        finally:
            for at, (_, waiting) in enumerate(asked):
                if waiting.done():
                    gone.append(at)
                else:
                    waiting.set_result(answers[at : at + 1])
        for at in gone[: len(answers)]:
            await self._unwanted(asked[at][0], answers[at])
