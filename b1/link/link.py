"""The link to Redis: one work connection, opened and kept by one task of its own, and a breaker in front of it.

While Redis is known to be away a call fails within microseconds; callers then use local state. A server that is silent
but not gone keeps its connection (up to `stall_limit_s`): a second one beside it would be one client too many, and the
replies that are still owed announce its return.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from b1.clock import Clock, SystemClock, remaining
from b1.errors import StoreUnavailable
from b1.link.opening import Opener, socket_fd
from b1.link.options import LinkOptions, LinkSnapshot, slots_directory
from b1.link.overdue import Overdue
from b1.link.wire import Argument, ReplyError, Wire
from b1.slots import Slot, Slots

_log = logging.getLogger("b1.link")
_SLOT_RETRY_S = 1.0
_PENDING_LIMIT_BYTES = 8 * 1024 * 1024
_GOODBYE_LIMIT_S = 0.25


class Link:
    """One connection that carries everything.

    `start` and `aclose` belong to the event loop that makes the calls. Between two awaits all state is consistent.

    Args:
        options: see `LinkOptions`.
        clock: for deadlines and the snapshot.
        jitter: a random number in [0, 1), for the backoff.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(
        self,
        options: LinkOptions,
        *,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._opener = Opener(
            options.url,
            client_name=f"b1:{options.role}:{os.getpid()}",
            connect_timeout_s=options.connect_timeout_s,
        )
        folder = options.slots_dir or slots_directory(self._opener.address)
        self._slots = Slots(folder, "redis", options.connections)
        self._scripts: dict[str, tuple[str, str]] = {}
        self._wire: Wire | None = None
        self._slot: Slot | None = None
        self._task: asyncio.Task[None] | None = None
        self._first_attempt = asyncio.Event()
        self._state = "new"
        self._since_s = self._clock.monotonic()
        self._last_error: str | None = None
        self._calls = self._failures = self._timeouts = self._connects = self._healed = 0

    def __repr__(self) -> str:
        return f"Link({self._opener.address}, {self._current_state()}, pending={self._pending()})"

    @property
    def is_up(self) -> bool:
        """True while a call would be sent."""
        wire = self._wire
        return wire is not None and not wire.is_stalled

    def register(self, name: str, source: str) -> None:
        """Make a Lua script known; it is loaded with each new connection."""
        self._scripts[name] = (hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(), source)

    async def start(self) -> None:
        """Take a slot, if there is one, and start connecting; return after the first attempt, whatever it gave.

        Raises:
            ConfigurationError: the slot folder cannot be used.
        """
        if self._task is not None:
            return
        self._slots.open()
        self._task = asyncio.create_task(self._keep(), name="b1-link")
        try:
            async with asyncio.timeout(self._options.connect_timeout_s + self._options.deadline_s):
                await self._first_attempt.wait()
        except TimeoutError:
            pass  # a server that accepts and does not answer; calls fail until it does

    async def aclose(self) -> None:
        """Say goodbye, close, and give the slot back."""
        task, self._task = self._task, None
        if task is None:
            return
        ended = False
        if self.is_up and self._wire is not None:
            self._wire.submit(("QUIT",)).add_done_callback(_retrieve)
            self._enter("closing")
            # The connection's end ends the wire, and the task with it: then the server is known to have closed.
            ended = bool((await asyncio.wait([task], timeout=_GOODBYE_LIMIT_S))[0])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._enter("closed")
        if self._slot is not None:
            if ended:
                self._slot.note_clean()
            self._slot.free()
            self._slot = None
        self._slots.close()

    async def call(self, *command: Argument) -> Any:
        """Send one command and return its reply: bytes, integers, lists, None.

        Raises:
            ReplyError: the server answered with an error.
            StoreUnavailable: Redis is away or silent, too many calls are waiting, or the deadline passed. Whether
                the command was carried out is unknown when it had been sent.
        """
        wire = self._wire
        if wire is None or wire.is_stalled or self._state == "closing":
            self._failures += 1
            raise StoreUnavailable(f"Redis at {self._opener.address} is {self._current_state()}")
        if wire.pending >= self._options.pending_limit or wire.pending_bytes > _PENDING_LIMIT_BYTES:
            self._failures += 1
            raise StoreUnavailable(f"{wire.pending} calls to Redis are waiting for an answer")
        limit_s = remaining(self._clock, self._options.deadline_s)
        self._calls += 1
        future = wire.submit(command)
        overdue = Overdue(future, limit_s, partial(self._missed, wire, self._clock.monotonic(), limit_s))
        try:
            return await future
        except StoreUnavailable:
            self._failures += 1
            raise
        finally:
            overdue.cancel()

    async def script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a registered script and return its reply; a server that lost it gets it again.

        Raises:
            ReplyError, StoreUnavailable: as `call`.
        """
        digest, source = self._scripts[name]
        try:
            return await self.call("EVALSHA", digest, len(keys), *keys, *arguments)
        except ReplyError as error:
            if error.word != "NOSCRIPT":
                raise
        self._healed += 1
        return await self.call("EVAL", source, len(keys), *keys, *arguments)

    def snapshot(self) -> LinkSnapshot:
        """Return numbers for health, metrics and tests; no I/O."""
        latency_s = self._wire.latency_s if self._wire is not None else None
        return LinkSnapshot(
            state=self._current_state(),
            is_up=self.is_up,
            address=self._opener.address,
            slot=None if self._slot is None else self._slot.index,
            slots=self._slots.count,
            pending=self._pending(),
            pending_limit=self._options.pending_limit,
            calls=self._calls,
            failures=self._failures,
            timeouts=self._timeouts,
            connects=self._connects,
            healed_scripts=self._healed,
            latency_ms=None if latency_s is None else latency_s * 1000,
            last_error=self._last_error,
            since_s=self._clock.monotonic() - self._since_s,
        )

    def _missed(self, wire: Wire, sent_s: float, limit_s: float) -> None:
        self._timeouts += 1
        # A request's own, nearer deadline says nothing about Redis.
        if limit_s >= self._options.deadline_s:
            wire.note_silence(sent_s)
            if wire.is_stalled:
                self._last_error = f"no answer within {limit_s * 1000:.0f} ms"

    def _pending(self) -> int:
        return 0 if self._wire is None else self._wire.pending

    def _current_state(self) -> str:
        return "stalled" if self._wire is not None and self._wire.is_stalled else self._state

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._since_s = self._clock.monotonic()

    async def _keep(self) -> None:
        """Own the connection for as long as the link lives."""
        short_lives = 0
        await self._take_slot()
        while self._state != "closing":
            opened_s = self._clock.monotonic()
            try:
                is_over = await self._live()
            except Exception as error:  # noqa: BLE001  # whatever a strange server makes redis-py raise, the link lives on
                _log.exception("redis connection failed in an unknown way")
                is_over = self._lost(error)
            if is_over:
                break
            lived_long = self._clock.monotonic() - opened_s > self._options.backoff_most_s * 2
            short_lives = 0 if lived_long else min(short_lives + 1, 16)
            # Never at once: the server has to notice the end of the last connection before it sees another one.
            most_s = min(self._options.backoff_most_s, self._options.backoff_first_s * 2**short_lives)
            await asyncio.sleep(0.02 + most_s * self._jitter())

    async def _take_slot(self) -> None:
        while (slot := self._free_slot()) is None:
            self._enter("no_slot")
            self._first_attempt.set()
            await asyncio.sleep(_SLOT_RETRY_S)
        self._slot = slot
        if not slot.record.is_clean:
            await asyncio.sleep(0.05)  # its last holder was killed; the server sees that within a turn of its loop

    def _free_slot(self) -> Slot | None:
        self._last_error = f"all {self._slots.count} Redis connections of this host are in use"
        try:
            return self._slots.take()
        except OSError as error:
            self._last_error = f"the slot folder cannot be used: {error}"
            return None

    async def _live(self) -> bool:
        """Open one connection and use it to its end; True when the link is closing."""
        from redis.exceptions import RedisError

        if self._state != "away":  # one outage is one state and one line in the log, whatever the number of attempts
            self._enter("connecting")
        if self._slot is not None:
            self._slot.note_open()
        try:
            connection, client_id = await self._opener.open(
                handshake_limit_s=self._options.connect_timeout_s + self._options.stall_limit_s,
                scripts=[source for _, source in self._scripts.values()],
            )
        except (RedisError, OSError) as error:
            return self._lost(error)
        finally:
            self._first_attempt.set()
        if self._slot is not None:
            self._slot.note_open(client_id, socket_fd=socket_fd(connection))
        wire = self._wire = Wire(connection, self._clock, stall_limit_s=self._options.stall_limit_s)
        self._connects += 1
        self._last_error = None
        self._enter("up")
        _log.info("redis connected", extra={"address": self._opener.address, "client_id": client_id})
        try:
            reason = await wire.run()
        finally:
            self._wire = None
            await wire.close()
        return self._lost(reason)

    def _lost(self, error: Exception) -> bool:
        """Note why there is no connection; return whether that is the end, which it is when closing."""
        if self._state == "closing":
            return True
        self._last_error = str(error) or type(error).__name__
        if self._state != "away":
            _log.warning("redis away", extra={"address": self._opener.address, "reason": self._last_error})
        self._enter("away")
        return False


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
