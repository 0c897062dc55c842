"""Between a link and its server: counts commands, and breaks in the ways that networks and servers do."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any


class Proxy:
    """One listening port in front of a server; belongs to the loop that made it.

    Attributes:
        mode: ``ok``; ``silent`` (accepts, and holds every byte back both ways), ``deaf`` (requests arrive, replies do
            not), or an error line such as ``LOADING wait`` that answers every command.
        commands: names of the commands that came, in order.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._may_pass = asyncio.Event()
        self._may_pass.set()
        self.port = 0
        self.mode = "ok"
        self.commands: list[str] = []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut everybody off and accept nobody until `listen`."""
        if self._listener is not None:
            self._listener.close()
        self.reset()

    def reset(self) -> None:
        """Cut everybody off with a reset."""
        for writer in list(self._writers):
            raw = None if writer.transport.is_closing() else writer.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            _abort(writer)

    def set_mode(self, mode: str) -> None:
        self.mode = mode
        if mode == "ok":
            self._may_pass.set()
        else:
            self._may_pass.clear()

    async def aclose(self) -> None:
        await self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        pumps: list[asyncio.Task[None]] = []
        up: asyncio.StreamWriter | None = None
        try:
            replies, up = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._writers.add(up)
            pumps = [
                asyncio.create_task(self._requests(reader, writer, up)),
                asyncio.create_task(self._replies(replies, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is not there
        finally:
            for pump in pumps:
                pump.cancel()
            # Either side may be gone in any way; that is what this is for.
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in (writer, up):
                if one is not None:
                    self._writers.discard(one)
                    _abort(one)
            self._tasks.discard(task)

    async def _requests(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, up: asyncio.StreamWriter
    ) -> None:
        while True:
            command, name = await _command(reader)
            self.commands.append(name)
            if " " in self.mode:
                client.write(f"-{self.mode}\r\n".encode())
                continue
            if self.mode == "silent":
                await self._may_pass.wait()
            up.write(command)

    async def _replies(self, replies: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await replies.read(65_536):
            if self.mode in ("silent", "deaf"):
                await self._may_pass.wait()
            client.write(data)


def _abort(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.transport.abort()


async def _command(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """Read one command whole; return its bytes and its name."""
    head = await reader.readuntil(b"\r\n")
    parts, words = [head], []
    for _ in range(int(head[1:])):
        size = await reader.readuntil(b"\r\n")
        word = await reader.readexactly(int(size[1:]) + 2)
        parts += size, word
        words.append(word[:-2])
    return b"".join(parts), words[0].decode().upper()
