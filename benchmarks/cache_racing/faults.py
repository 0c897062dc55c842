"""What goes wrong while others race: a proxy in front of two servers, and somebody who breaks things on a schedule.

A failover is a switch of the proxy to a server that knows nothing, while the other one is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
from collections import Counter
from pathlib import Path

from b1.embedded import process
from b1.embedded.binaries import redis_binary

_START_LIMIT_S = 10.0


class RedisProcess:
    """A Redis or Valkey that keeps nothing, on one port."""

    def __init__(self, folder: Path) -> None:
        self.port = process.free_port()
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start empty, and wait until it listens."""
        command = [redis_binary(), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        with (self._folder / f"{self.port}.log").open("ab") as log:
            self._child = process.start(
                [*command, "--dir", self._folder], death_signal=signal.SIGKILL, own_session=True, output=log
            )
        if not process.wait_until(lambda: process.can_connect("127.0.0.1", self.port), limit_s=_START_LIMIT_S):
            raise RuntimeError(f"the server at {self.port} did not start")

    def kill(self) -> None:
        """End it without a word."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def signal(self, number: signal.Signals) -> None:
        """Suspend it, or let it go on."""
        if self._child is not None:
            os.kill(self._child.pid, number)

    def command(self, *words: str) -> bytes:
        """Send one command, and return what comes first."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(1 << 16)


class _Pump(asyncio.Protocol):
    """One side of a connection; what comes goes to the other side."""

    def __init__(self) -> None:
        self.other: _Pump | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def join(self, other: _Pump) -> None:
        self.other, other.other = other, self
        for data in self._early:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        elif self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.abort()


class Proxy:
    """One port in front of whatever server is meant now."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._server: asyncio.Server | None = None
        self._pumps: set[_Pump] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self, chance: random.Random | None = None) -> None:
        """Cut all connections, or one of them."""
        living = [pump for pump in self._pumps if pump.transport is not None]
        self._pumps = set(living)
        for pump in [chance.choice(living)] if chance is not None and living else living:
            if pump.transport is not None:
                pump.transport.abort()

    async def aclose(self) -> None:
        """End."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> _Pump:
        pump = _Pump()
        self._pumps.add(pump)
        task = asyncio.create_task(self._connect(pump))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return pump

    async def _connect(self, client: _Pump) -> None:
        try:
            _, server = await asyncio.get_running_loop().create_connection(_Pump, "127.0.0.1", self.target)
        except OSError:
            if client.transport is not None:
                client.transport.abort()
            return
        if client.transport is None:  # cut meanwhile
            assert server.transport is not None
            server.transport.abort()
            return
        client.join(server)


class Saboteur:
    """Breaks something every now and then, each kind in turn, in a random order."""

    def __init__(self, proxy: Proxy, servers: list[RedisProcess], seed: int) -> None:
        self._proxy = proxy
        self._servers = servers
        self._chance = random.Random(seed)
        self.done: Counter[str] = Counter()

    async def run(self, every_s: float) -> None:
        """Go on until cancelled."""
        kinds = [
            self.cut_one, self.cut_all, self.kill_client, self.flush, self.restart, self.fail_over, self.freeze,
            self.lose_table, self.flush_scripts,
        ]  # fmt: skip
        while True:
            for kind in self._chance.sample(kinds, len(kinds)):
                await asyncio.sleep(every_s * (0.5 + self._chance.random()))
                await kind()
                self.done[kind.__name__.replace("_", " ")] += 1

    async def cut_one(self) -> None:
        self._proxy.cut(self._chance)

    async def cut_all(self) -> None:
        self._proxy.cut()

    async def kill_client(self) -> None:
        await self._command("CLIENT", "KILL", "TYPE", self._chance.choice(["normal", "pubsub"]))

    async def flush(self) -> None:
        await self._command("FLUSHALL")

    async def lose_table(self) -> None:
        await self._command("DEL", "b1:{race}:cache:versions")

    async def flush_scripts(self) -> None:
        await self._command("SCRIPT", "FLUSH")

    async def freeze(self) -> None:
        self._servers[0].signal(signal.SIGSTOP)
        await asyncio.sleep(self._chance.choice([0.1, 0.4, 1.5]))
        self._servers[0].signal(signal.SIGCONT)

    async def restart(self) -> None:
        self._servers[0].kill()
        await asyncio.sleep(self._chance.choice([0.0, 0.5]))
        await asyncio.to_thread(self._servers[0].start)

    async def fail_over(self) -> None:
        old, new = self._servers
        await asyncio.to_thread(new.start)
        self._proxy.target = new.port
        if self._chance.random() < 0.5:
            self._proxy.cut()
        old.kill()
        self._servers.reverse()

    async def _command(self, *words: str) -> None:
        try:
            await asyncio.to_thread(self._servers[0].command, *words)
        except OSError:
            self.done["in vain"] += 1
