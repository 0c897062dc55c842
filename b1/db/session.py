"""One connection to Postgres and the host slot that pays for it.

A graceful end is exact: after Terminate the server closes the socket only when its backend process exits, so an awaited
`close` means that the backend has left pg_stat_activity. Every other end leaves the slot's record `open`, and whoever
takes the slot next makes sure first (`opening.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from b1.db.running import Running

if TYPE_CHECKING:
    import asyncpg

    from b1.db.fairness import Account
    from b1.slots import Slot

    RawConnection = asyncpg.Connection[asyncpg.Record]

T = TypeVar("T")

_CLOSE_LIMIT_S = 2.0
_IS_THERE = "select exists(select from pg_stat_activity where pid = $1 and application_name like 'b1:%')"
_CANCEL = "select pg_cancel_backend($1)"


def failures() -> tuple[type[Exception], ...]:
    """Return what a query of our own may raise. `InternalClientError`: asked after the server's last words were read."""
    import asyncpg

    return (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Session:
    """A live connection. Owned by the pool; while leased, only the lease runs queries on it."""

    __slots__ = ("account", "idle_since_s", "opened_s", "pid", "raw", "slot")

    def __init__(self, raw: RawConnection, slot: Slot, opened_s: float) -> None:
        self.raw = raw
        self.slot = slot
        self.account: Account | None = None  # who pays for the time it is leased
        self.pid: int = raw.get_server_pid()
        self.opened_s = opened_s
        self.idle_since_s = opened_s
        slot.note_open(self.pid, socket_fd=_socket_fd(raw))

    def __repr__(self) -> str:
        return f"<Session pid={self.pid} slot={self.slot.index}{' closed' if self.is_closed else ''}>"

    @property
    def is_closed(self) -> bool:
        return self.raw.is_closed()

    async def ask(self, query: Coroutine[Any, Any, T]) -> T:
        """Run a query of our own; when it is cancelled the connection is terminated, for lack of a better owner."""
        import asyncpg

        running = Running(query, asyncio.get_running_loop())
        try:
            return await running
        except asyncpg.InternalClientError:
            self.raw.terminate()
            raise
        except AttributeError as error:
            # Terminated between two steps of a query, asyncpg stumbles over the protocol that it has dropped.
            raise ConnectionResetError("the connection was terminated") from error
        finally:
            if running.is_unfinished:
                self.raw.terminate()
                running.discard()

    async def sees(self, pid: int) -> bool:
        """Tell whether a backend of ours with this pid exists."""
        return bool(await self.ask(self.raw.fetchval(_IS_THERE, pid)))

    async def cancel_query_of(self, pid: int) -> None:
        """Interrupt what backend `pid` runs. When this returns, the signal cannot hit a later query of that backend."""
        await self.ask(self.raw.fetchval(_CANCEL, pid))

    async def execute(self, sql: str) -> None:
        """Run a statement of our own, such as ROLLBACK."""
        await self.ask(self.raw.execute(sql))

    async def close(self) -> None:
        """End the backend and free the slot: clean if the backend is known to be gone. Runs no query."""
        try:
            await self.raw.close(timeout=_CLOSE_LIMIT_S)
        except failures():
            pass  # asyncpg has dropped the socket; the record stays open for the next holder of the slot
        else:
            self.slot.note_clean()
        finally:
            self.slot.free()

    def drop(self) -> None:
        """Close the socket without a word and free the slot, whose record stays open."""
        self.raw.terminate()
        self.slot.free()


def _socket_fd(raw: RawConnection) -> int:
    # asyncpg has no public way to its socket; a forked child must not keep it (`Slot.note_open`).
    transport: asyncio.Transport = raw._transport  # type: ignore[attr-defined]
    socket = transport.get_extra_info("socket")
    return -1 if socket is None else int(socket.fileno())
