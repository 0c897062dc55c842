"""How a connection comes to be: make sure that the slot's last connection is gone, then connect.

Whoever takes a slot whose record says `open` asks a sibling connection until pg_stat_activity has lost the pid. Without a
sibling it waits until the server was alive for twice `client_connection_check_interval`: a frozen one ends nothing while we
count. The sign of life is the answer to an SSLRequest, which never becomes a client backend.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from b1.clock import Clock
from b1.db.options import DatabaseOptions, address, dsn
from b1.db.session import Session, failures
from b1.slots import Slot

if TYPE_CHECKING:
    from b1.db.session import RawConnection

_CHECK = "client_connection_check_interval"
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_LOOK_AGAIN_S = 0.04
# Asking a sibling waits this long for one that is in use; then the rest without a witness goes on.
_SIBLING_WAIT_S = 0.04
# What counts as rest between two answers of the server: it may have been frozen for anything beyond.
_LONGEST_REST_S = 0.1
# A backend that refused us exits right after it said so.
_LAST_WORDS_S = 0.05

Borrow = Callable[[float], AbstractAsyncContextManager[Session | None]]


class Opener:
    """Opens sessions for one pool.

    Args:
        options: the database's.
        clock: for the rest of a doubtful slot.
        borrow: gives a connection of the pool that is free within so many seconds, or None.
        on_sign: hears that the server said anything.
    """

    def __init__(
        self,
        options: DatabaseOptions,
        clock: Clock,
        borrow: Borrow,
        on_sign: Callable[[], None] = lambda: None,
    ) -> None:
        self._options = options
        self._clock = clock
        self._borrow = borrow
        self._on_sign = on_sign
        self._server_checks_clients = True
        self.resting = 0

    @property
    def rest_s(self) -> float:
        """How long a slot rests after a connection that ended in an unknown way, when nobody can look."""
        if self._server_checks_clients:
            return 2 * self._options.connection_check_ms / 1000
        # Such a server notices a dead client only when it writes, at the end of the statement.
        return self._options.statement_timeout_s

    async def open(self, slot: Slot) -> Session:
        """Return a session on a slot that the caller holds; on any error the slot is still the caller's.

        Raises:
            one of `failures`: there is no connection.
        """
        if not slot.record.is_clean:
            await self._settle(slot)
        slot.note_open()
        try:
            raw = await self._connect()
        except failures() as error:
            if await _was_refused(error):
                slot.note_clean()
            raise
        return Session(raw, slot, self._clock.monotonic())

    async def _connect(self) -> RawConnection:
        import asyncpg

        settings = self._options.session_settings()
        if self._server_checks_clients:
            try:
                return await self._attempt(settings | {_CHECK: str(self._options.connection_check_ms)})
            except (asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError) as error:
                if _CHECK not in str(error):
                    raise
                self._server_checks_clients = False  # before Postgres 14, and where the kernel cannot tell
        return await self._attempt(settings)

    async def _attempt(self, settings: dict[str, str]) -> RawConnection:
        import asyncpg

        return await asyncpg.connect(
            dsn(self._options.url),
            timeout=self._options.connect_timeout_s,
            statement_cache_size=self._options.statement_cache_size,
            server_settings=settings,
        )

    async def _settle(self, slot: Slot) -> None:
        self.resting += 1
        try:
            await self._wait_until_gone(slot.record.remote_id)
        finally:
            self.resting -= 1

    async def _wait_until_gone(self, pid: int) -> None:
        rested_s = 0.0
        answered_s: float | None = None
        while rested_s < self.rest_s:
            seen = await self._ask_sibling(pid) if pid else None
            if seen is False:
                return
            if seen is None:
                await self.sign_of_life()
            self._on_sign()
            now_s = self._clock.monotonic()
            if seen:
                rested_s = 0.0
            elif answered_s is not None:
                rested_s += min(now_s - answered_s, _LONGEST_REST_S)
            answered_s = now_s
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _ask_sibling(self, pid: int) -> bool | None:
        async with self._borrow(_SIBLING_WAIT_S) as sibling:
            if sibling is None:
                return None
            try:
                return await sibling.sees(pid)
            except failures():
                return None  # the sibling died; the pool notices when it gets it back

    async def sign_of_life(self, limit_s: float | None = None) -> None:
        """Return when the server answered an SSLRequest; it need not serve for that.

        Raises:
            OSError: it did not, within `limit_s` or what an attempt to connect may take.
        """
        host, port, _ = address(self._options.url)
        connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            if host.startswith("/")
            else asyncio.open_connection(host, port)
        )
        async with asyncio.timeout(limit_s or self._options.connect_timeout_s):
            reader, writer = await connecting
            try:
                writer.write(_SSL_REQUEST)
                if not await reader.read(1):
                    raise ConnectionResetError("the server closed the connection instead of answering")
            finally:
                writer.close()


async def _was_refused(error: Exception) -> bool:
    """Tell whether an attempt to connect that failed left nothing behind on the server."""
    import asyncpg

    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, asyncpg.PostgresConnectionError):
        await asyncio.sleep(_LAST_WORDS_S)
        return True
    # Without an answer, or broken off, it may sit in the server's queue and become a backend yet.
    broken_off = (TimeoutError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
    return isinstance(error, OSError) and not isinstance(error, broken_off)
