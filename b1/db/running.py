"""A query in flight that nobody can cancel by accident.

asyncpg answers a cancelled await by opening one more socket for a CancelRequest: a connection outside the budget.
`Running` therefore steps asyncpg's coroutine itself and lets the task wait on a future of its own. Cancellation, or our
deadline, ends that wait and leaves the query as it was, to be awaited again by whoever sees it off (`ending.py`).
This costs one future and one turn of the loop; a shielded task per query costs several times as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Running(Generic[T]):
    """Await it to run the coroutine; if that raises while `is_unfinished`, the query still runs: await it again."""

    __slots__ = ("_awaited", "_coroutine", "_gate", "_loop", "is_unfinished")

    def __init__(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._awaited: asyncio.Future[Any] | None = None
        self._gate: asyncio.Future[None] | None = None
        self.is_unfinished = True

    def __repr__(self) -> str:
        return f"<Running {'unfinished' if self.is_unfinished else 'finished'}>"

    def __await__(self) -> Generator[Any, None, T]:
        send = self._coroutine.send
        while True:
            awaited = self._awaited
            if awaited is None:
                try:
                    awaited = send(None)
                except StopIteration as end:
                    self.is_unfinished = False
                    result: T = end.value
                    return result
                except BaseException:
                    self.is_unfinished = False
                    raise
                if awaited is None:  # asyncio.sleep(0) gives way to others by yielding nothing
                    yield
                    continue
                # What `await` on a future leaves for the task that drives it; here we are that task.
                awaited._asyncio_future_blocking = False
                self._awaited = awaited
            if not awaited.done():
                gate = self._gate = self._loop.create_future()
                awaited.add_done_callback(self._let_go)
                try:
                    yield from gate
                finally:
                    self._gate = None
                    awaited.remove_done_callback(self._let_go)
            self._awaited = None

    def interrupt(self, error: Exception) -> None:
        """End the present wait with `error`; the query goes on."""
        if self._gate is not None and not self._gate.done():
            self._gate.set_exception(error)

    def discard(self) -> None:
        """Forget the query after its connection was terminated."""
        if not self.is_unfinished:
            return
        self.is_unfinished = False
        if self._awaited is not None and self._awaited.done() and not self._awaited.cancelled():
            self._awaited.exception()  # retrieved, so that the loop does not complain that nobody did
        self._coroutine.close()

    def _let_go(self, _: asyncio.Future[Any]) -> None:
        if self._gate is not None and not self._gate.done():
            self._gate.set_result(None)
