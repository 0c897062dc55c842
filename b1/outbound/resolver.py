"""Names to addresses, by the system's resolver in a thread.

A look-up that hangs is waited for again, never started twice. What was found last is used when the resolver fails or is
slow: under memory pressure there may be no thread to ask in.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from b1.outbound.addresses import is_literal

RESOLVE_S = 3.0

Resolve = Callable[[str, int], Awaitable[list[str]]]


class Resolver:
    """The look-up of one name."""

    def __init__(self) -> None:
        self._running: asyncio.Future[list[str]] | None = None
        self._known: list[str] = []

    def __repr__(self) -> str:
        return f"<Resolver known={len(self._known)}>"

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a name, best first.

        Raises:
            OSError: there are none, or not in time; TimeoutError is one.
        """
        if is_literal(host):
            return [host]
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._look_up(host, port))
        try:
            async with asyncio.timeout(RESOLVE_S):
                self._known = await asyncio.shield(self._running)
        except OSError:
            if not self._known:
                raise
        return self._known

    async def _look_up(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except RuntimeError as error:
            raise OSError(f"the name cannot be looked up ({error})") from None  # no thread could be started
        return list(dict.fromkeys(str(address[0]) for *_, address in found))
