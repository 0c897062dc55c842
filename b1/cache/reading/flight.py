"""One load, and those who wait for it: what is known of it from its beginning to its value, or to what went wrong.

It has no future of its own: most loads have one caller, and one that is read with many others has nobody who waits for it.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from b1.cache.reading.places import Turn
from b1.cache.reading.reads import Read
from b1.cache.reading.shared import Answer
from b1.cache.reading.values import Value
from b1.types import Versions


class Flight:
    """One load. Guarded by the event loop; written between awaits alone.

    Attributes:
        is_done: there is a `value`, or an `error`. It comes before the value is in the shared store.
        stale: a stale value that was found on the way.
        ends_s: on the loop's clock; then it fails, at the latest.
        is_kept: it goes on when nobody waits any more.
        is_abandoned: nobody wanted it any more.
        has_loaded: the loader was called; else the value was in the shared store.
        is_overtaken: something it depends on was invalidated since it began; nothing of it is kept.
        is_overdue: it was cancelled because its time was over.
        is_asked: the shared store was asked for it; `answer` is what it said, None: nothing.
        vector: of the shared store, once it has answered.
        newer_than_ms: of a reload before the end: when the present value was made.
        task: None while it is read together with others.
    """

    __slots__ = (
        "_traceback", "_waiting", "answer", "ends_s", "error", "has_loaded", "is_abandoned", "is_asked", "is_done",
        "is_kept", "is_overdue", "is_overtaken", "newer_than_ms", "read", "stale", "task", "turn", "value", "vector",
        "versions", "waiters",
    )  # fmt: skip

    def __init__(self, read: Read, versions: Versions, turn: Turn, ends_s: float) -> None:
        self.read = read
        self.versions = versions
        self.turn = turn
        self.ends_s = ends_s
        self.answer: Answer | None = None
        self.is_asked = False
        self.vector: bytes | None = None
        self.newer_than_ms: int | None = None
        self.is_done = False
        self.value: Value | None = None
        self.error: Exception | None = None
        self.stale: Value | None = None
        self.task: asyncio.Task[None] | None = None
        self.waiters = 0
        self.is_kept = turn.is_background
        self.is_abandoned = False
        self.has_loaded = False
        self.is_overtaken = False
        self.is_overdue = False
        self._traceback: TracebackType | None = None
        # Who is to be woken, and whether stale news will do.
        self._waiting: dict[asyncio.Future[None], bool] = {}

    def __repr__(self) -> str:
        return f"<Flight {self.read.namespace} waiters={self.waiters} is_kept={self.is_kept} done={self.is_done}>"

    @property
    def built_on(self) -> Versions:
        """The versions that were taken before the load began."""
        return self.versions if self.vector is None else Versions(self.read.tags, self.vector)

    def result(self) -> Value:
        """Return the value.

        Raises:
            Exception: what went wrong.
        """
        if self.error is not None:
            # Without what earlier callers added: a thousand of them raise the same object.
            raise self.error.with_traceback(self._traceback)
        assert self.value is not None
        return self.value

    def found_stale(self, value: Value) -> None:
        """Tell those who wait that there is something better than nothing."""
        self.stale = value
        self._wake(has_result=False)

    def land(self, value: Value) -> None:
        """Give the value to all who wait."""
        if not self.is_done:
            self.value, self.is_done = value, True
            self._wake(has_result=True)

    def crash(self, error: Exception) -> bool:
        """Give all who wait the error; False when they have a value already."""
        if self.is_done:
            return False
        self.error, self._traceback, self.is_done = error, error.__traceback__, True
        self._wake(has_result=True)
        return True

    def waiting(self, *, until_stale: bool) -> asyncio.Future[None]:
        """Return what is done when there is news; give it to `forget` afterwards."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[news] = until_stale
        return news

    def forget(self, news: asyncio.Future[None]) -> None:
        """Wake this one no more."""
        self._waiting.pop(news, None)

    def _wake(self, *, has_result: bool) -> None:
        for news, until_stale in self._waiting.items():
            if (has_result or until_stale) and not news.done():
                news.set_result(None)
