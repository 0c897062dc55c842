"""Keeping the mirror in order: reading the table when a connection begins, when the order was lost, and once in a while.

The table is asked for with the first command of a connection: whatever this process asks later was carried out after the
mirror's beginning. A server that lost its table, or came back with an older one, so gets a new epoch before anybody here
reads from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from b1.errors import StoreUnavailable
from b1.link.pending import Reply
from b1.link.server import Server
from b1.link.wire import Wire
from b1.store.changes import HEAD
from b1.store.mirror import Mirror
from b1.store.scripts import SCRIPTS
from b1.store.versions import new_epoch

_log = logging.getLogger("b1.store")
# Between two readings of the table, 256 KiB each.
_PAUSE_S, _MOST_PAUSE_S = 0.05, 2.0
_ALL_LOST = 2**53


class Following:
    """One mirror's task with each connection; the link owns it.

    Args:
        key: of the table in the server.
        mirror: which is fed.
        heartbeat_s: how often the head of the table is looked at, because nothing tells of a push that was never sent.
    """

    def __init__(self, key: str, mirror: Mirror, *, heartbeat_s: float = 15.0) -> None:
        self._key = key
        self._mirror = mirror
        self._heartbeat_s = heartbeat_s
        self._has_lost = False  # the server has, as the last reading showed

    def __repr__(self) -> str:
        return f"Following({self._key!r}, heartbeat_s={self._heartbeat_s:g})"

    def pushed(self, message: list[Any]) -> None:
        """Take a push of the table's channel."""
        match message:
            case [b"message", _, bytes(change)]:
                self._mirror.hear(change)

    def begin(self, wire: Wire, server: Server | None) -> Coroutine[Any, Any, None]:
        """Ask for the table on a new connection, and return what follows it to its end."""
        reply = self._ask(wire)
        self._mirror.connected(reply, has_pushes=server is not None and server.has_pushes)
        return self._follow(wire, reply)

    def _ask(self, wire: Wire) -> Reply:
        epoch, number = self._mirror.head
        known = _ALL_LOST if self._has_lost else number
        # The source and not its digest: the server may have forgotten it, and nothing is tried twice here.
        return wire.ask("EVAL", SCRIPTS["resync"], 1, self._key, new_epoch(), epoch, known)

    async def _follow(self, wire: Wire, reply: Reply) -> None:
        pause_s = _PAUSE_S
        try:
            while True:
                if await self._load(reply):
                    pause_s = _PAUSE_S
                    await self._while_in_order(wire)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _MOST_PAUSE_S)
                reply = await self._asked_again(wire)
        except _Ended:
            return
        finally:
            self._mirror.disconnected()

    async def _asked_again(self, wire: Wire) -> Reply:
        while True:
            try:
                reply = self._ask(wire)
            except StoreUnavailable:
                if wire.ended.done():
                    raise _Ended from None
                await asyncio.sleep(_PAUSE_S)  # stalled, or full
                continue
            self._mirror.wait_for(reply)
            return reply

    async def _load(self, reply: Reply) -> bool:
        """Load the table that was asked for; False: it did not come, or has to be asked for again."""
        try:
            self._has_lost = not self._mirror.load(await reply)
        except (StoreUnavailable, TypeError, ValueError) as error:
            self._mirror.give_up()
            _log.debug("the version table was not read", extra={"reason": str(error)})
            return False
        if self._has_lost:
            _log.warning("redis lost invalidations; everything cached is stale")
        return not self._has_lost

    async def _while_in_order(self, wire: Wire) -> None:
        """Return when the table should be read again."""
        while not self._mirror.is_lost.is_set():
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._mirror.is_lost.wait()
            except TimeoutError:
                await self._look(wire)

    async def _look(self, wire: Wire) -> None:
        try:
            head = await wire.ask("GETRANGE", self._key, 0, HEAD.size - 1)
        except StoreUnavailable:
            return  # silent: the link deals with that, and what it pushes later is still in order
        self._mirror.check(head)


class _Ended(Exception):
    """The connection is over."""
