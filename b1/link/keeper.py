"""Who opens the main connection and keeps it: one task, from the first slot to the goodbye.

A silent connection is not simply replaced, because the server would count the old one beside the new one. It is first
removed by the server itself, through the reserve; when there is no reserve, its next answer is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from b1.clock import Clock
from b1.errors import StoreUnavailable
from b1.link.credentials import Remembered, keep_fresh
from b1.link.dialling import Dialler
from b1.link.forks import when_forked
from b1.link.options import LinkOptions
from b1.link.owner import WireEvents
from b1.link.replies import ReplyError
from b1.link.reserve import KILLED_HOLDER_S, Reserve, part
from b1.link.server import Server
from b1.link.wire import Wire
from b1.slots import Slot, Slots

Companion = Callable[[Wire, Server | None], Coroutine[Any, Any, None]]
_log = logging.getLogger("b1.link")
_SLOT_RETRY_S = 0.2
_PATIENCE_S = 1.5


class Keeper(WireEvents):
    """Owns the main connection.

    Args:
        options: of the link.
        dialler: opens connections.
        slots: the host's.
        clock: for the deadlines of the wires.
        jitter: a random number in [0, 1), for the backoff.
        credentials: None when the URL's are for ever.

    Attributes:
        wire: the main connection; None while there is none.
        on_push: gets what the server says without being asked.
        companions: begun with each new connection, and ended with it.
    """

    def __init__(
        self,
        options: LinkOptions,
        dialler: Dialler,
        slots: Slots,
        clock: Clock,
        jitter: Callable[[], float],
        credentials: Remembered | None,
    ) -> None:
        self.wire: Wire | None = None
        self.on_push: Callable[[list[Any]], None] | None = None
        self.companions: list[Companion] = []
        self.first_attempt = asyncio.Event()
        self.last_error: str | None = None
        self.slot: Slot | None = None
        self.connects = self.pushes = self.timeouts = self.writes = self.credentials_sent = 0
        self.reserve = Reserve(self._dial, slots, idle_s=options.reserve_idle_s)
        self._options = options
        self._dialler = dialler
        self._slots = slots
        self._clock = clock
        self._jitter = jitter
        self._credentials = credentials
        self._state = "new"
        self._since_s = clock.monotonic()
        self._is_dialling = False
        self._task: asyncio.Task[None] | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._promoted: tuple[Wire, Slot] | None = None
        when_forked(self)

    def __repr__(self) -> str:
        return f"Keeper({self._dialler.address}, {self.state}, wire={self.wire!r})"

    @property
    def state(self) -> str:
        """As in the link's snapshot."""
        return "stalled" if self.wire is not None and self.wire.is_stalled else self._state

    @property
    def in_state_s(self) -> float:
        return self._clock.monotonic() - self._since_s

    @property
    def connections(self) -> int:
        """Sockets to the server, opening ones included."""
        return int(self.wire is not None or self._is_dialling) + self.reserve.connections

    @property
    def is_running(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        """Begin to connect."""
        self._slots.open()
        self._task = asyncio.create_task(self._keep(), name="b1-link")

    async def aclose(self) -> None:
        """Say goodbye, close, and give the slots back."""
        task, self._task = self._task, None
        if task is None:
            return
        self._enter("closing")
        await _cancelled(self._replacing)
        await self.reserve.aclose()
        if self.wire is not None and await part(self.wire) and self.slot is not None:
            self.slot.note_clean()
        await _cancelled(task)
        self._enter("closed")
        if self.slot is not None:
            self.slot.free()
            self.slot = None
        self._slots.close()

    def after_fork(self) -> None:
        """In a child: the connection is the parent's, and so are its tasks and its loop."""
        self.wire = self.slot = self._task = self._replacing = None
        self._state = "forked"

    # What the wire tells

    def pushed(self, message: list[Any]) -> None:
        self.pushes += 1
        if self.on_push is not None:
            self.on_push(message)

    def stall_begins(self, wire: Wire) -> None:
        if wire is self.wire:
            self.last_error = f"no answer within {wire.limits.deadline_s * 1000:.0f} ms"
            self._since_s = self._clock.monotonic()

    def stall_lasts(self, wire: Wire) -> None:
        if wire is self.wire and self._replacing is None and self._task is not None:
            self._replacing = asyncio.create_task(self._replace(wire), name="b1-link-replace")
            self._replacing.add_done_callback(self._replaced)

    def stall_over(self, wire: Wire) -> None:
        if wire is not self.wire:
            return
        self._since_s = self._clock.monotonic()
        if self._replacing is not None and self.reserve.snapshot().state != "open":
            self._replacing.cancel()  # still knocking; the main connection is as good as before

    # The task

    async def _keep(self) -> None:
        """Own the connection for as long as the link lives."""
        short_lives = 0
        await self._take_slot()
        while self._state != "closing":
            opened_s = self._clock.monotonic()
            try:
                await self._live()
            except Exception as error:  # noqa: BLE001  # whatever a strange server makes redis-py raise, the link lives on
                _log.exception("redis connection failed in an unknown way")
                self._lost(error)
            lived_long = self._clock.monotonic() - opened_s > self._options.backoff_most_s * 2
            short_lives = 0 if lived_long else min(short_lives + 1, 16)
            # Never at once: the server has to notice the end of the last connection before it sees another one.
            await asyncio.sleep(0.02 + self._backoff_s(short_lives) * self._jitter())

    def _backoff_s(self, short_lives: int) -> float:
        return min(self._options.backoff_most_s, self._options.backoff_first_s * 2.0**short_lives)

    async def _take_slot(self) -> None:
        while (slot := self._free_slot()) is None:
            self._enter("no_slot")
            self.first_attempt.set()
            self._slots.want(True)  # whoever holds a reserve in it lets go
            await asyncio.sleep(_SLOT_RETRY_S)
        self._slots.want(False)
        self.slot = slot
        if not slot.record.is_clean:
            await asyncio.sleep(KILLED_HOLDER_S)

    def _free_slot(self) -> Slot | None:
        self.last_error = f"all {self._slots.count} Redis connections of this host are in use"
        try:
            return self._slots.take()
        except OSError as error:
            self.last_error = f"the slot folder cannot be used: {error}"
            return None

    async def _live(self) -> None:
        """Open one connection and use it, and whatever replaces it, to its end."""
        if self._state != "away":  # one outage is one state and one line in the log, whatever the number of attempts
            self._enter("connecting")
        try:
            assert self.slot is not None
            self._is_dialling = True
            wire = await self._dial(self.slot)
        except StoreUnavailable as error:
            self._lost(error)
            return
        finally:
            self._is_dialling = False
            self.first_attempt.set()
        while True:
            reason = await self._use(wire)
            promoted = await self._replacement()
            if promoted is None:
                break
            wire, slot = promoted
            if self.slot is not None:
                self.slot.free()
            self.slot = slot
        self._dialler.forget()
        self._lost(reason)

    async def _use(self, wire: Wire) -> Exception:
        self.wire = wire
        self.connects += 1
        self.last_error = None
        self._enter("up")
        _log.info("redis connected", extra={"address": self._dialler.address, "client_id": wire.client_id})
        beside = [asyncio.create_task(self._dialler.watch_role(wire), name="b1-link-role")]
        if self._credentials is not None:
            work = keep_fresh(self._credentials, self._send_credentials)
            beside.append(asyncio.create_task(work, name="b1-link-auth"))
        try:
            begun = [begin(wire, self._dialler.server) for begin in self.companions]
            beside += [asyncio.create_task(one, name="b1-link-companion") for one in begun]
            await asyncio.wait([wire.ended])
            return wire.ended.result()
        finally:
            self.wire = None
            wire.end(ConnectionError("closed by us"))
            self.timeouts += wire.timeouts
            self.writes += wire.writes
            for task in beside:
                await _cancelled(task)

    async def _send_credentials(self, words: tuple[str, ...]) -> None:
        if self.wire is not None:
            await self.wire.ask("AUTH", *words)
            self.credentials_sent += 1

    def _lost(self, error: Exception) -> None:
        """Note why there is no connection."""
        if self._state == "closing":
            return
        self.last_error = str(error) or type(error).__name__
        if self._state != "away":
            _log.warning("redis away", extra={"address": self._dialler.address, "reason": self.last_error})
        self._enter("away")

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._since_s = self._clock.monotonic()

    # Connecting

    async def _dial(self, slot: Slot) -> Wire:
        # A server that takes connections and is silent may be frozen, or behind something that lost our words. Asking
        # again helps in the second case only, so it is done less and less often.
        limit_s = min(self._options.stall_limit_s, max(_PATIENCE_S, self.in_state_s / 4))
        return await self._dialler.dial(slot, self, limit_s=limit_s)

    # Replacing

    async def _replace(self, stalled: Wire) -> None:
        """Put the reserve in the place of a stalled connection, which the server removes first."""
        begun_s = self._clock.monotonic()
        while not stalled.ended.done():
            try:
                async with self.reserve.use("stalled") as fresh:
                    if not await self._removed(stalled, fresh):
                        return
                    self._promoted = self.reserve.promote()
            except StoreUnavailable as error:
                self.last_error = str(error)
            else:
                stalled.end(TimeoutError("it was stalled and has been replaced"))
                return
            if self._clock.monotonic() - begun_s > self._options.stall_limit_s:
                stalled.end(TimeoutError(f"nothing came for {self._options.stall_limit_s:g} s"))
                return
            await asyncio.sleep(self._options.backoff_first_s * (1 + self._jitter()))

    async def _removed(self, stalled: Wire, fresh: Wire) -> bool:
        """Have the server end a connection, if it still is the one we mean: numbers begin anew when a server does.

        False when it has come back meanwhile and was left alone.
        """
        try:
            found = await fresh.ask("CLIENT", "LIST", "ID", stalled.client_id)
            if stalled.is_usable:
                return False
            if isinstance(found, bytes) and f"name={self._dialler.client_name} ".encode() in found:
                await fresh.ask("CLIENT", "KILL", "ID", stalled.client_id)
        except ReplyError as error:
            # A script runs and runs: a new connection would be told the same, and the old one still be there.
            if error.word == "BUSY":
                return False
            _log.warning("redis did not remove the stalled connection", extra={"reason": str(error)})
        else:
            if self.slot is not None:
                self.slot.note_clean()
        return True

    async def _replacement(self) -> tuple[Wire, Slot] | None:
        if self._replacing is not None:
            await asyncio.wait([self._replacing])
        promoted, self._promoted = self._promoted, None
        return promoted

    def _replaced(self, task: asyncio.Task[None]) -> None:
        self._replacing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("replacing a stalled connection failed", exc_info=error)


async def _cancelled(task: Awaitable[Any] | None) -> None:
    if isinstance(task, asyncio.Task):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
