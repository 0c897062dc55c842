"""Opens a connection in a slot: what it is prepared with, which bounds it gets, and what the slot's file says of it."""

from __future__ import annotations

import asyncio

from b1.clock import Clock
from b1.errors import StoreUnavailable
from b1.link.opening import Opener, socket_fd
from b1.link.options import LinkOptions
from b1.link.owner import WireEvents, WireLimits
from b1.link.server import Server, role_of
from b1.link.wire import Wire
from b1.slots import Slot

_ROLE_CHECK_S = 1.0


class Dialler:
    """Opens connections for one link.

    Args:
        options: of the link.
        opener: does the work.
        clock: for the wires.

    Attributes:
        scripts: digest and source of each, by name; loaded with each new connection.
        channels: subscribed with each new connection.
    """

    def __init__(self, options: LinkOptions, opener: Opener, clock: Clock) -> None:
        self.scripts: dict[str, tuple[str, str]] = {}
        self.channels: list[str] = []
        self._options = options
        self._opener = opener
        self._clock = clock

    def __repr__(self) -> str:
        return f"Dialler({self.address}, scripts={len(self.scripts)}, channels={len(self.channels)})"

    @property
    def address(self) -> str:
        """Where it connects to, without user and password."""
        return self._opener.address

    @property
    def client_name(self) -> str:
        """How its connections call themselves in `CLIENT LIST`."""
        return self._opener.client_name

    @property
    def server(self) -> Server | None:
        """What answered last."""
        return self._opener.server

    async def dial(self, slot: Slot, events: WireEvents, *, limit_s: float) -> Wire:
        """Open a connection.

        Args:
            slot: held by the caller; says afterwards what there is to close.
            events: of the wire.
            limit_s: for what follows the TCP connection.

        Raises:
            StoreUnavailable: it did not work; nothing is left open.
        """
        from redis.exceptions import RedisError

        options = self._options
        slot.note_open()
        try:
            wire = await self._opener.open(
                lambda: Wire(self._limits(limit_s), self._clock, events),
                limit_s=options.connect_timeout_s + limit_s,
                scripts=[source for _, source in self.scripts.values()],
                channels=self.channels,
            )
        except (RedisError, OSError, StoreUnavailable) as error:
            raise StoreUnavailable(str(error) or type(error).__name__) from error
        slot.note_open(wire.client_id, socket_fd=socket_fd(wire))
        wire.set_limits(self._limits(options.deadline_s))
        return wire

    def forget(self) -> None:
        """The connection is over; find out anew what the server can do."""
        self._opener.forget()

    async def watch_role(self, wire: Wire) -> None:
        """Ask a replica now and then whether it still is one; ends when it is not, or the connection is over."""
        while self.server is not None and self.server.is_read_only and not wire.ended.done():
            await asyncio.sleep(_ROLE_CHECK_S)
            try:
                self._opener.server = role_of(await wire.ask("ROLE"), self.server)
            except StoreUnavailable:
                continue

    def _limits(self, deadline_s: float) -> WireLimits:
        options = self._options
        return WireLimits(
            deadline_s=deadline_s,
            calls=options.pending_limit,
            held_bytes=options.pending_limit_bytes,
            command_bytes=options.command_limit_bytes,
            stall_s=options.stall_bound_s,
        )
