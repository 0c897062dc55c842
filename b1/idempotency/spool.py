"""Request bodies on their way to a handler: in memory while they are small, else in an unnamed file of bounded size.

The files have no name from the moment they are made, so nothing of them is left behind, not even by ``kill -9``. All
file work happens in threads, one call at a time per body; a body is closed only behind its last call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TypeVar

from b1.errors import Overloaded
from b1.units import KIB, MIB, format_bytes

log = logging.getLogger("b1.idempotency")

T = TypeVar("T")
_LAST_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """How much may lie where.

    Attributes:
        memory_bytes: the most that one body holds in memory.
        disk_bytes: the most that all bodies together hold on disk; beyond it 503.
        folder: where the files are; None: the system's temporary folder. Never a network share.
    """

    memory_bytes: int = 256 * KIB
    disk_bytes: int = 256 * MIB
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class SpoolSnapshot:
    """What lies on disk now."""

    bodies: int
    held_bytes: int
    limit_bytes: int


class Spools:
    """All bodies of one process; knows what they hold on disk, and closes what they leave."""

    def __init__(self, options: SpoolOptions | None = None) -> None:
        self.options = options or SpoolOptions()
        self._held_bytes = 0
        self._bodies = 0
        self._closing: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Spools bodies={self._bodies} held={self._held_bytes}/{self.options.disk_bytes} B>"

    def snapshot(self) -> SpoolSnapshot:
        """Return what lies on disk now."""
        return SpoolSnapshot(self._bodies, self._held_bytes, self.options.disk_bytes)

    def open(self) -> Spool:
        """Return an empty body."""
        return Spool(self)

    async def aclose(self) -> None:
        """Wait, for a few seconds, until the files of closed bodies are gone."""
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=_LAST_CLOSE_S)

    def reserve(self, grown_bytes: int, *, is_new: bool) -> None:
        """Count what a body is about to write; for `Spool`.

        Raises:
            Overloaded: all bodies together would hold more than they may.
        """
        if self._held_bytes + grown_bytes > self.options.disk_bytes:
            raise Overloaded(f"uploads hold {format_bytes(self._held_bytes)} on disk, all that they may")
        self._held_bytes += grown_bytes
        self._bodies += is_new

    def give_back(self, held_bytes: int, file: IO[bytes] | None) -> None:
        """Forget a body, and close its file where that may take its time; for `Spool`."""
        if held_bytes:
            self._held_bytes -= held_bytes
            self._bodies -= 1
        if file is not None:
            closing: asyncio.Future[None] = asyncio.get_running_loop().run_in_executor(None, file.close)
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


class Spool:
    """One body: `write` until it is complete, then `read` as often as needed, then `close`. One task at a time."""

    # Defaults on the class: a body that stays in memory never has another value.
    _fresh_bytes = 0
    _file: IO[bytes] | None = None
    _disk_bytes = 0
    _reserved_bytes = 0
    _working: asyncio.Future[object] | None = None
    _is_closed = False

    def __init__(self, spools: Spools) -> None:
        self._spools = spools
        self._fresh: list[bytes] = []

    def __repr__(self) -> str:
        where = "memory" if self._reserved_bytes == 0 else "disk"
        return f"<Spool {len(self)} B in {where}{' closed' if self._is_closed else ''}>"

    def __len__(self) -> int:
        return self._disk_bytes + self._fresh_bytes

    @property
    def in_memory(self) -> bytes | None:
        """The whole body, if it never left memory."""
        if self._reserved_bytes:
            return None
        if len(self._fresh) > 1:
            self._fresh = [b"".join(self._fresh)]
        return self._fresh[0] if self._fresh else b""

    async def write(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            Overloaded: no room on disk.
        """
        self._fresh.append(piece)
        self._fresh_bytes += len(piece)
        if self._fresh_bytes > self._spools.options.memory_bytes:
            await self._flush()

    async def read(self, offset: int) -> bytes:
        """Return the next piece from `offset` on; empty at the end.

        Raises:
            Overloaded: the file cannot be read.
        """
        file = self._file
        if offset >= self._disk_bytes or file is None:
            rest = b"".join(self._fresh)
            return rest[offset - self._disk_bytes :]
        descriptor, size = file.fileno(), min(self._spools.options.memory_bytes, self._disk_bytes - offset)
        piece = await self._in_thread(lambda: os.pread(descriptor, size, offset))
        if not piece:
            raise Overloaded(f"a request body on disk ended at {offset} of {self._disk_bytes} bytes")
        return piece

    def close(self) -> None:
        """Give everything back; harmless when repeated."""
        if self._is_closed:
            return
        self._is_closed = True
        self._fresh.clear()
        if self._working is not None and not self._working.done():
            # The request was cancelled in the middle of a call: its thread still uses the file.
            self._working.add_done_callback(lambda _: self._give_back())
        else:
            self._give_back()

    def _give_back(self) -> None:
        file, self._file = self._file, None
        if self._reserved_bytes:
            self._spools.give_back(self._reserved_bytes, file)

    async def _flush(self) -> None:
        data = b"".join(self._fresh)
        self._spools.reserve(len(data), is_new=self._reserved_bytes == 0)
        self._reserved_bytes += len(data)
        await self._in_thread(lambda: self._append(data))
        self._disk_bytes += len(data)
        self._fresh.clear()
        self._fresh_bytes = 0

    def _append(self, data: bytes) -> None:
        if self._file is None:
            folder = self._spools.options.folder
            self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115  (`close` is its end)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    async def _in_thread(self, call: Callable[[], T]) -> T:
        working = asyncio.get_running_loop().run_in_executor(None, call)
        self._working = working  # type: ignore[assignment]  # only its end matters
        try:
            return await asyncio.shield(working)
        except OSError as error:
            log.warning("a request body could not be kept on disk", exc_info=True)
            raise Overloaded("there is no room for request bodies on disk") from error
