"""The sessions of this process: opened when callers wait and sharing allows, closed when unused, wanted or broken.

Guards the host slots: each live session, each attempt to open one and each session being closed holds one. Also owns
every task of the database, so that none outlives it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from b1.clock import Clock
from b1.db.counters import Counters
from b1.db.opening import Borrow, Opener
from b1.db.options import DatabaseOptions
from b1.db.reach import Reach
from b1.db.session import Session, failures
from b1.db.sharing import Sharing
from b1.slots import Slot, Slots

_log = logging.getLogger("b1.db")

# At the end: long enough to connect and close properly, too short to wait for a server that is away.
_OPENERS_MAY_TAKE_S = 0.25


class Fleet:
    """The connections one pool has, is opening or is closing.

    Args:
        options: the database's.
        clock: for backoff, quantum and rest.
        counters: `opened`, `yielded` and `lost` are counted here.
        borrow: lends a connection to look after a doubtful slot.
        on_free: gets a session that was opened.
        on_change: hears that a slot or a session came or went.
        on_away: hears each time that the server does not answer.
    """

    def __init__(
        self,
        options: DatabaseOptions,
        clock: Clock,
        counters: Counters,
        borrow: Borrow,
        *,
        on_free: Callable[[Session], None],
        on_change: Callable[[], None],
        on_away: Callable[[], None],
    ) -> None:
        self.sessions: set[Session] = set()
        self.opening = 0
        self.closing = 0
        self.reach = Reach(clock)
        self.opener = Opener(options, clock, borrow, self.reach.hear)
        self._limit = options.connections
        self._slots = Slots(options.slots_dir, "pg", options.connections)
        self._sharing = Sharing(self._slots, clock, options.yield_quantum_s)
        self._counters = counters
        self._on_free = on_free
        self._on_change = on_change
        self._on_away = on_away
        self._wants_first = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._openers: set[asyncio.Task[None]] = set()
        self._attempts_s: dict[Slot, float] = {}  # since when the server owes us this connection
        self._clock = clock
        self._changed: asyncio.Event
        # Ours, not the caller's: a task that outlives a request must keep neither its deadline nor its objects.
        self._context = contextvars.Context()

    def __repr__(self) -> str:
        return f"<Fleet sessions={len(self.sessions)} opening={self.opening} closing={self.closing} {self.reach!r}>"

    @property
    def kept(self) -> int:
        """The host slots held, those of sessions being closed excepted."""
        return len(self.sessions) + self.opening

    @property
    def is_full(self) -> bool:
        """Whether no further connection may be asked for."""
        return len(self.sessions) + self.opening >= self._limit

    @property
    def holds_anything(self) -> bool:
        return self.kept + self.closing > 0

    @property
    def must_probe(self) -> bool:
        """Whether one attempt to connect is due though nobody waits, because it is not known that the server answers."""
        return self.reach.is_away or (self._wants_first and not self.sessions)

    @property
    def oldest_attempt_s(self) -> float | None:
        """Since when the oldest attempt to connect lasts."""
        return min(self._attempts_s.values(), default=None)

    @property
    def must_yield(self) -> bool:
        """Whether a session that is free now has to be given up for another process."""
        return self._sharing.must_yield(self.kept)

    def start(self) -> None:
        """Open the slot files, and want a first connection."""
        self._slots.open()
        self._changed = asyncio.Event()  # bound to the loop that waits for it first
        self._wants_first = True

    async def aclose(self, deadline_s: float) -> None:
        """Wait until the pool has given every session back to be closed; after `deadline_s` drop what is left."""
        self._wants_first = False
        give_up = asyncio.get_running_loop().call_later(_OPENERS_MAY_TAKE_S, self._cancel_openers)
        try:
            async with asyncio.timeout(deadline_s):
                while self._tasks or self.sessions:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            _log.warning("database closed with work in hand", extra={"sessions": len(self.sessions)})
        finally:
            give_up.cancel()
            for session in self.sessions:
                session.drop()
            self.sessions.clear()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._slots.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a task of the database's own."""
        task = asyncio.get_running_loop().create_task(work, context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def grow(self, wanted: int) -> None:
        """Open up to `wanted` sessions, as far as limit, backoff and other processes allow."""
        while wanted > 0 and self.reach.may_try and self.kept + self.closing < self._limit:
            slot = self._sharing.take(self.kept)
            if slot is None:
                return
            self.opening += 1
            wanted -= 1
            opener = self.spawn(self._open(slot))
            self._openers.add(opener)
            opener.add_done_callback(self._openers.discard)
        self._sharing.want(wanted > 0 and not self.kept)

    def look_around(self) -> None:
        """See whether another process wants a slot."""
        self._sharing.look(self.kept)

    def retire(self, session: Session, *, yielded: bool = False) -> None:
        """Close a session that is free, in an orderly way."""
        self.sessions.discard(session)
        self.closing += 1
        if yielded:
            self._counters.yielded += 1
            self._sharing.note_yield(self.kept)
        else:
            self._sharing.note_kept(self.kept)
        self.spawn(self._close(session))

    def lose(self, session: Session) -> None:
        """Give up a session whose connection is gone; harmless when that was done."""
        if session not in self.sessions:
            return
        self.sessions.discard(session)
        session.drop()
        self._counters.lost += 1
        self._wants_first = not self.sessions
        self._note_change()

    def suspect(self, reason: str = "no answer") -> None:
        """Hear that the server does not answer."""
        if self.reach.lose(reason):
            _log.warning("database away", extra={"reason": reason, "silent_s": round(self.reach.silent_s, 1)})
        self._on_away()

    def trust(self) -> None:
        """Hear that the server answered."""
        if self.reach.find():
            _log.info("database back")

    async def _open(self, slot: Slot) -> None:
        session: Session | None = None
        self._attempts_s[slot] = self._clock.monotonic()
        try:
            session = await self._try_to_open(slot)
        finally:
            del self._attempts_s[slot]
            self.opening -= 1
            if session is None:
                slot.free()
        if session is not None:
            self.sessions.add(session)
            self._counters.opened += 1
            self._wants_first = False
            self.trust()
            self._on_free(session)
        self._note_change()

    async def _try_to_open(self, slot: Slot) -> Session | None:
        import asyncpg

        try:
            return await self.opener.open(slot)
        except asyncpg.TooManyConnectionsError:
            self.reach.hear()
            self.reach.back_off()  # a limit of the server or of the role: as good as a slot that is taken
        except failures() as error:
            self.reach.back_off()
            if not self.sessions:
                self.suspect(type(error).__name__)
        return None

    async def _close(self, session: Session) -> None:
        try:
            await session.close()
        finally:
            self.closing -= 1
            self._sharing.note_freed(self.kept)
        self._note_change()

    def _cancel_openers(self) -> None:
        for opener in self._openers:
            opener.cancel()

    def _note_change(self) -> None:
        self._sharing.note_kept(self.kept)
        self._changed.set()
        self._on_change()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "a task of the database failed", "exception": error})
