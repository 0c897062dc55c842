"""A TCP proxy on the test's own loop that delays, swallows, cuts and falls silent on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

# Given a chunk, return how much of it passes before the connection is cut; None for all of it and no cut.
Cut = Callable[[bytes], int | None]


class Proxy:
    """Stands between a link and its server.

    Attributes:
        delay_s: of each chunk, in each direction.
        swallows: bytes of either side disappear; a connection that this happened to stays open and silent for ever.
        cut: decides for each chunk of the server whether its connection ends in the middle of it.
        accepted: connections so far.
    """

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.swallows = False
        self.cut: Cut | None = None
        self.accepted = 0
        self.port = 0
        self._target_port = port
        self._listener: asyncio.Server | None = None
        self._sides: set[_Side] = set()
        self._dials: set[asyncio.Task[object]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def open_connections(self) -> int:
        return len(self._sides) // 2

    async def listen(self) -> None:
        """Accept connections, at the same port as before."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Side(self, None), "127.0.0.1", self.port, reuse_address=True)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections and reset the present ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.reset()

    def reset(self) -> None:
        """Reset every connection."""
        for side in list(self._sides):
            side.abort()

    def forget_server_side(self) -> None:
        """Leave the clients half open: the server's ends are closed and the clients are not told."""
        for side in list(self._sides):
            if side.is_server_side:
                side.tells_other = False
                side.abort()

    async def aclose(self) -> None:
        await self.refuse()
        for task in self._dials:
            task.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)

    def joined(self, side: _Side) -> None:
        """A connection began; find it a server."""
        self._sides.add(side)
        if not side.is_server_side:
            self.accepted += 1
            task: asyncio.Task[object] = asyncio.create_task(self._dial(side))
            self._dials.add(task)
            task.add_done_callback(self._dials.discard)

    def left(self, side: _Side) -> None:
        self._sides.discard(side)

    async def _dial(self, client: _Side) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Side(self, client), "127.0.0.1", self._target_port)
        except OSError:
            client.abort()


class _Side(asyncio.Protocol):
    """One of the two sockets of a connection; what it reads goes to `other`."""

    def __init__(self, proxy: Proxy, client: _Side | None) -> None:
        self.is_server_side = client is not None
        self.tells_other = True
        self.other = client
        self._proxy = proxy
        self._is_lost = False
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        if client is not None:
            client.other = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._proxy.joined(self)
        if self.other is not None:
            for data in self.other._early:
                self._transport.write(data)
            self.other._early.clear()

    def data_received(self, data: bytes) -> None:
        proxy = self._proxy
        if proxy.swallows and self.other is not None:
            # For good: TCP never loses bytes in the middle.
            self._is_lost = self.other._is_lost = True
        if self._is_lost or proxy.swallows:
            self._is_lost = True
            return
        passes = proxy.cut(data) if proxy.cut is not None and self.is_server_side else None
        if passes is not None:
            data = data[:passes]
        if proxy.delay_s:
            asyncio.get_running_loop().call_later(proxy.delay_s, self._forward, data, passes is not None)
        else:
            self._forward(data, passes is not None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.left(self)
        if self.other is not None and self.tells_other:
            self.other.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _forward(self, data: bytes, then_cut: bool) -> None:
        other = self.other
        if other is None or other._transport is None:
            self._early.append(data)
            return
        if other._transport.is_closing():
            return
        other._transport.write(data)
        if then_cut:
            other._transport.close()
            self.abort()


@asynccontextmanager
async def proxy_before(port: int) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a server on loopback."""
    proxy = Proxy(port)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.aclose()
