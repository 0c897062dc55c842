"""What must still be said although the main connection does not carry it: such calls go through the reserve.

A block in one task, not a second link: whoever writes the last state (the store's debts) calls its verbs as always, and
only where its calls end is different. A call may be sent twice, on a connection that fell silent and then on the reserve;
what is owed to Redis is made for that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING

from b1.errors import StoreUnavailable

if TYPE_CHECKING:
    from b1.link.link import Line

URGENT: ContextVar[Urgent | None] = ContextVar("b1_link_urgent", default=None)


class Urgent:
    """One such block. The reserve is opened by the first call that needs it.

    Args:
        owner: the link whose calls are meant.
        open_line: opens the reserve.
    """

    def __init__(self, owner: object, open_line: Callable[[], AbstractAsyncContextManager[Line]]) -> None:
        self._owner = owner
        self._open_line = open_line
        self._stack = AsyncExitStack()
        self._line: Line | None = None
        self._has_failed = False

    def __repr__(self) -> str:
        state = "failed" if self._has_failed else "unused" if self._line is None else "open"
        return f"<Urgent {state}>"

    def helps(self, owner: object) -> bool:
        """Say whether a call of this link may be tried."""
        return owner is self._owner and not self._has_failed

    async def line(self) -> Line:
        """Return the line, the same for all calls of the block.

        Raises:
            StoreUnavailable: there is none; nobody tries again in this block.
        """
        if self._line is None:
            try:
                self._line = await self._stack.enter_async_context(self._open_line())
            except StoreUnavailable:
                self._has_failed = True
                raise
        return self._line

    async def aclose(self) -> None:
        """End the block; the reserve closes when it is idle."""
        self._has_failed = True
        await self._stack.aclose()


def urgent_of(owner: object) -> Urgent | None:
    """Return the block that the running task is in, if it is for this link."""
    urgent = URGENT.get()
    return urgent if urgent is not None and urgent.helps(owner) else None
