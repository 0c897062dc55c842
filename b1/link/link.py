"""The link to Redis as the rest of b1 sees it: calls, scripts, the reserve, a snapshot.

While Redis is known to be away a call fails within microseconds; callers then use local state. A call costs a few
microseconds otherwise, and none of redis-py.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from b1.clock import Clock, SystemClock
from b1.errors import StoreUnavailable
from b1.link.credentials import Remembered
from b1.link.dialling import Dialler
from b1.link.keeper import Companion, Keeper
from b1.link.opening import Opener
from b1.link.options import LinkOptions, LinkSnapshot, slots_directory
from b1.link.pending import Receiver
from b1.link.replies import Argument, ReplyError
from b1.link.reserve import Reason
from b1.link.urgent import URGENT, Urgent, urgent_of
from b1.link.wire import Wire, pack
from b1.slots import Slots


class Link:
    """One connection that carries everything, and a second one for emergencies.

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
        credentials = Remembered(options.credentials) if options.credentials is not None else None
        clock = clock or SystemClock()
        opener = Opener(
            options.url,
            client_name=f"b1:{options.role}:{os.getpid()}",
            connect_timeout_s=options.connect_timeout_s,
            credentials=credentials,
        )
        self._dialler = Dialler(options, opener, clock)
        folder = options.slots_dir or slots_directory(opener.address)
        self._slots = Slots(folder, "redis", options.connections)
        self._keeper = Keeper(options, self._dialler, self._slots, clock, jitter, credentials)
        self._handlers: dict[bytes, Callable[[list[Any]], None]] = {}
        self._keeper.on_push = self._pushed
        self._calls = self._failures = self._healed = 0

    def __repr__(self) -> str:
        return f"Link({self._dialler.address}, {self._keeper.state}, pending={self._pending()[0]})"

    @property
    def is_up(self) -> bool:
        """True while a call would be sent."""
        wire = self._keeper.wire
        return (wire is not None and wire.is_usable) or urgent_of(self) is not None

    def register(self, name: str, source: str) -> None:
        """Make a Lua script known; it is loaded with each new connection."""
        digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self._dialler.scripts[name] = (digest, source)

    def subscribe(self, channels: Sequence[str], handler: Callable[[list[Any]], None]) -> None:
        """Have `handler` called with each push, such as ``[b"message", channel, data]``; before `start`.

        What is published before a reply on this connection was made arrives before that reply. After a reconnect
        messages may be missing: compare `LinkSnapshot.connects`. The handler must not wait and must not fail.

        Raises:
            RuntimeError: the link is running: a subscription that is refused would put replies out of step.
        """
        if self._keeper.is_running:
            raise RuntimeError("subscribe before the link is started")
        self._dialler.channels += channels
        self._handlers |= dict.fromkeys([channel.encode() for channel in channels], handler)

    def accompany(self, begin: Companion) -> None:
        """Have `begin` called with each new connection before anybody else uses it; before `start`.

        What it sends at once with `Wire.ask` are the first commands of the connection. The coroutine that it returns runs
        as long as the connection lives, and is cancelled and awaited at its end; it must not fail.

        Raises:
            RuntimeError: the link is running, and the first command of its connection was another.
        """
        if self._keeper.is_running:
            raise RuntimeError("accompany before the link is started")
        self._keeper.companions.append(begin)

    async def start(self) -> None:
        """Take a slot, if there is one, and start connecting; return after the first attempt, whatever it gave.

        Raises:
            ConfigurationError: the slot folder cannot be used.
        """
        if self._keeper.is_running:
            return
        self._keeper.start()
        try:
            async with asyncio.timeout(self._options.connect_timeout_s + self._options.deadline_s):
                await self._keeper.first_attempt.wait()
        except TimeoutError:
            pass  # a server that accepts and does not answer; calls fail until it does

    async def aclose(self) -> None:
        """Say goodbye, close, and give the slots back."""
        await self._keeper.aclose()

    async def call(self, *command: Argument) -> Any:
        """Send one command and return its reply: bytes, integers, lists, None.

        A call whose request has run out of time is sent all the same, so that a claim can be released, and is not
        waited for.

        Raises:
            ReplyError: the server answered with an error.
            Oversized: the command is larger than `command_limit_bytes`; nothing was sent.
            StoreUnavailable: Redis is away or silent, too many calls are waiting, or the deadline passed. Whether
                the command was carried out is unknown when it had been sent.
            ValueError: the command cannot share a connection (it blocks, subscribes, or changes the connection).
        """
        wire = self._keeper.wire
        self._calls += 1
        try:
            if wire is None:
                raise StoreUnavailable(f"Redis at {self._dialler.address} is {self._keeper.state}")
            return await wire.submit(command)
        except StoreUnavailable as error:
            self._failures += 1
            urgent = urgent_of(self)
            if urgent is None or isinstance(error, ReplyError):
                raise
        return await (await urgent.line()).call(*command)

    async def script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a registered script and return its reply; a server that lost it gets it again.

        Raises:
            ReplyError, Oversized, StoreUnavailable: as `call`.
        """
        digest, source = self._dialler.scripts[name]
        try:
            return await self.call("EVALSHA", digest, len(keys), *keys, *arguments)
        except ReplyError as error:
            if error.word != "NOSCRIPT":
                raise
        self._healed += 1
        return await self.call("EVAL", source, len(keys), *keys, *arguments)

    async def whole_script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a registered script and return its reply, sending its text along.

        For what may not be overtaken: `script` asks a second time when the server has lost the script, and what was asked
        in between is answered first.

        Raises:
            ReplyError, Oversized, StoreUnavailable: as `call`.
        """
        return await self.call("EVAL", self._dialler.scripts[name][1], len(keys), *keys, *arguments)

    def packed(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> bytes:
        """Return a registered script's call as it is sent, for those who ask the same again and again."""
        return pack(("EVALSHA", self._dialler.scripts[name][0], len(keys), *keys, *arguments))

    def post(self, packed: bytes, reply: Receiver, *, is_patient: bool = False) -> None:
        """Send what `packed` returned; `reply` is told what comes of it, in the call that reads the answer.

        A server that lost the script is not given it again; call `script` then.

        Args:
            is_patient: nobody waits for the answer; some of these are sent together.

        Raises:
            Oversized, StoreUnavailable: as `call`; then `reply` is told nothing.
        """
        wire = self._keeper.wire
        self._calls += 1
        try:
            if wire is None:
                raise StoreUnavailable(f"Redis at {self._dialler.address} is {self._keeper.state}")
            wire.post(packed, reply, is_patient=is_patient)
        except StoreUnavailable:
            self._failures += 1
            raise

    @asynccontextmanager
    async def reserve(self, reason: Reason) -> AsyncIterator[Line]:
        """Have a line that others' calls do not stand in the way of: the second connection, opened for this.

        Where there is none (another process holds the host's second slot) the main connection serves, if it is up.

        Args:
            reason: under which the use is counted.

        Raises:
            StoreUnavailable: neither can be had.
        """
        async with self._keeper.reserve.use(reason, instead=self._main_if_up) as wire:
            yield Line(wire, self._dialler.scripts)

    @asynccontextmanager
    async def urgent(self, reason: Reason) -> AsyncIterator[None]:
        """Have the calls of this task go through the reserve where the main connection does not carry them.

        For the state that would be lost otherwise: under critical memory, and at the stop. Does nothing, and opens
        nothing, while the main connection answers. Calls without a task of their own (`post`) are not meant.

        Args:
            reason: under which the use is counted.
        """
        urgent = Urgent(self, lambda: self.reserve(reason))
        token = URGENT.set(urgent)
        try:
            yield
        finally:
            URGENT.reset(token)
            await urgent.aclose()

    def snapshot(self) -> LinkSnapshot:
        """Return numbers for health, metrics and tests; no I/O."""
        keeper, wire = self._keeper, self._keeper.wire
        pending, pending_bytes = self._pending()
        latency_s = wire.latency_s if wire is not None else None
        return LinkSnapshot(
            state=keeper.state,
            is_up=wire is not None and wire.is_usable,
            address=self._dialler.address,
            slot=None if keeper.slot is None else keeper.slot.index,
            slots=self._slots.count,
            connections=keeper.connections,
            pending=pending,
            pending_limit=self._options.pending_limit,
            pending_bytes=pending_bytes,
            calls=self._calls,
            failures=self._failures,
            timeouts=keeper.timeouts + (wire.timeouts if wire is not None else 0),
            writes=keeper.writes + (wire.writes if wire is not None else 0),
            connects=keeper.connects,
            healed_scripts=self._healed,
            pushes=keeper.pushes,
            credentials_sent=keeper.credentials_sent,
            latency_ms=None if latency_s is None else latency_s * 1000,
            last_error=keeper.last_error,
            since_s=keeper.in_state_s,
            server=self._dialler.server,
            reserve=keeper.reserve.snapshot(),
        )

    def _pushed(self, message: list[Any]) -> None:
        handler = self._handlers.get(message[1]) if len(message) > 1 else None
        if handler is not None:
            handler(message)

    def _main_if_up(self) -> Wire | None:
        wire = self._keeper.wire
        return wire if wire is not None and wire.is_usable else None

    def _pending(self) -> tuple[int, int]:
        wire = self._keeper.wire
        return (0, 0) if wire is None else (wire.pending, wire.pending_bytes)


class Line:
    """One connection, for the length of a `Link.reserve` block."""

    def __init__(self, wire: Wire, scripts: dict[str, tuple[str, str]]) -> None:
        self._wire = wire
        self._scripts = scripts

    def __repr__(self) -> str:
        return f"Line({self._wire!r})"

    async def call(self, *command: Argument) -> Any:
        """As `Link.call`."""
        return await self._wire.submit(command)

    async def script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a registered script, as `Link.script`; it was loaded with the connection.

        A reserve is new, so a script that is missing was flushed a moment ago: that is the caller's `ReplyError`.
        """
        return await self._wire.submit(("EVALSHA", self._scripts[name][0], len(keys), *keys, *arguments))
