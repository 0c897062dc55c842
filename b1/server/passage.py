"""What passes from a worker to its successor: open connections and state, through a pair of sockets that the master keeps.

What is sent into the pair stays in the kernel while there is no worker at all, so a client's idle connection outlives a
replacement in which the old process is gone before the new one has begun. What a successor has taken it keeps in a second
pair until it serves: should it die before, the next one finds it there. Beside them each worker has a page of shared
memory, in which its master and its successor tell it what is going to happen.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import socket
import struct
import tempfile
import termios
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger("b1.server")

# One message carries at most this many sockets; the kernel's own bound is 253.
SOCKETS_PER_MESSAGE = 64

SOCKETS, STATE, REST, END, NEWS = 1, 2, 3, 4, 5
# News travels in the message itself, which a worker of the version before reads as a word without a meaning.
NEWS_BYTES = 16 * 1024

_HEAD = struct.Struct("<Bi")
_BUFFER_BYTES = 1024 * 1024
# News that nobody reads takes at most this part of it, as a divisor: the rest is for connections and state.
_NEWS_PART = 4

REASONS = ("asked", "reload", "memory", "max_requests")
MODES = ("handover", "serial")


@dataclass(frozen=True, slots=True)
class Parcel:
    """One message: what it is, which process sent it, and the descriptors that came with it, now the receiver's."""

    kind: int
    sender: int
    descriptors: tuple[int, ...]
    data: bytes = b""

    def discard(self) -> None:
        """Close what came with it."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class Passage:
    """The pairs of sockets, one passage per master; every worker inherits all ends and nothing ever blocks on them."""

    def __init__(self) -> None:
        self._entrance, self._exit = _pair()
        self._safe_entrance, self._safe_exit = _pair()

    def __repr__(self) -> str:
        return f"Passage(fd={self._exit.fileno()})"

    def close(self) -> None:
        """Close all ends; what waits in between is closed with them."""
        for end in (self._entrance, self._exit, self._safe_entrance, self._safe_exit):
            end.close()

    def fileno(self) -> int:
        """The end that becomes readable when a parcel has come."""
        return self._exit.fileno()

    def send_sockets(self, descriptors: Sequence[int]) -> int:
        """Send connections; return how many, from the first on, the kernel took: the others stay with the caller."""
        sent = 0
        while sent < len(descriptors):
            batch = descriptors[sent : sent + SOCKETS_PER_MESSAGE]
            if not self._send(SOCKETS, batch):
                break
            sent += len(batch)
        return sent

    def send_state(self, data: bytes, *, last: bool) -> bool:
        """Send state, by a file without a name; say whether that worked. Without state its place is taken by a word."""
        kind = REST if last else STATE
        if not data:
            return self._send(kind, ())
        try:
            with _nameless_file() as descriptor:
                os.ftruncate(descriptor, len(data))
                with mmap.mmap(descriptor, len(data)) as memory:
                    memory[:] = data
                return self._send(kind, [descriptor])
        except OSError as error:
            log.warning("state cannot be left to the successor", extra={"bytes": len(data), "error": str(error)})
            return False

    def send_news(self, data: bytes) -> bool:
        """Send something small that cannot wait for the state; say whether that worked."""
        return len(data) <= NEWS_BYTES and _send(self._entrance, NEWS, os.getpid(), (), data)

    def send_end(self) -> None:
        """Say that nothing more comes from this process; a successor that does not hear it watches the process."""
        self._send(END, ())

    def receive(self) -> Parcel | None:
        """Take the next parcel; None when there is none."""
        return _receive(self._exit)

    def keep(self, parcel: Parcel) -> bool:
        """Have copies of what came kept for the next worker, should this one die; say whether that worked."""
        return _send(self._safe_entrance, parcel.kind, parcel.sender, parcel.descriptors, parcel.data)

    def take_kept(self) -> list[Parcel]:
        """Take everything that was kept: whoever serves from now on discards it, whoever comes instead uses it."""
        kept = []
        while (parcel := _receive(self._safe_exit)) is not None:
            kept.append(parcel)
        return kept

    def _send(self, kind: int, descriptors: Sequence[int]) -> bool:
        return _send(self._entrance, kind, os.getpid(), descriptors)


def _pair() -> tuple[socket.socket, socket.socket]:
    entrance, exit_ = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (entrance, exit_):
        end.setblocking(False)
    entrance.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return entrance, exit_


def _send(entrance: socket.socket, kind: int, sender: int, descriptors: Sequence[int], data: bytes = b"") -> bool:
    message = _HEAD.pack(kind, sender) + data
    try:
        if kind == NEWS and not _has_room_for_news(entrance, len(message)):
            return False
        if descriptors:
            socket.send_fds(entrance, [message], list(descriptors))
        else:
            entrance.send(message)
    except OSError:  # full, or too many descriptors on their way: the caller keeps what it has
        return False
    return True


def _has_room_for_news(entrance: socket.socket, size: int) -> bool:
    unread_bytes = struct.unpack("i", fcntl.ioctl(entrance, termios.TIOCOUTQ, bytes(4)))[0]
    return int(unread_bytes) + size <= entrance.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // _NEWS_PART


def _receive(exit_: socket.socket) -> Parcel | None:
    try:
        data, descriptors, _, _ = socket.recv_fds(exit_, _HEAD.size + NEWS_BYTES, SOCKETS_PER_MESSAGE)
    except (BlockingIOError, ConnectionError):
        return None
    if len(data) < _HEAD.size:
        Parcel(0, 0, tuple(descriptors)).discard()
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    kind, sender = _HEAD.unpack_from(data)
    return Parcel(kind, sender, tuple(descriptors), data[_HEAD.size :])


def read_state(descriptor: int) -> bytes:
    """Read and close the file that came with a parcel."""
    try:
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as memory:
            return bytes(memory)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _nameless_file() -> Iterator[int]:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("b1-state")
    else:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Will:
    """A page that a worker shares with its master and its successor.

    Written by the master: `has_heir`, `reason`. By the worker: `reason`, `asks_for_end`, `baseline_bytes`, `closed_s`. By
    the successor: `mode`. Each field has one writer at a time, and is read whole.
    """

    __slots__ = ("_page",)

    _LAYOUT = struct.Struct("<BBBBxxxxQd")

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, self._LAYOUT.size)

    def __repr__(self) -> str:
        return f"Will(has_heir={self.has_heir}, reason={self.reason!r}, mode={self.mode!r})"

    @property
    def has_heir(self) -> bool:
        """Whether a successor is on its way, or is sure to come."""
        return bool(self._page[0])

    @has_heir.setter
    def has_heir(self, value: bool) -> None:
        self._page[0] = value

    @property
    def reason(self) -> str:
        """Why the worker is replaced: one of `REASONS`."""
        return REASONS[self._page[1]]

    @reason.setter
    def reason(self, name: str) -> None:
        self._page[1] = REASONS.index(name)

    @property
    def mode(self) -> str:
        """How: one of `MODES`."""
        return MODES[self._page[2]]

    @mode.setter
    def mode(self, name: str) -> None:
        self._page[2] = MODES.index(name)

    @property
    def asks_for_end(self) -> bool:
        """Whether the worker wants its predecessor to end: a signal does not say who sent it."""
        return bool(self._page[3])

    @asks_for_end.setter
    def asks_for_end(self, value: bool) -> None:
        self._page[3] = value

    @property
    def baseline_bytes(self) -> int:
        """What the worker held when it was ready; 0 until then."""
        return int(struct.unpack_from("<Q", self._page, 8)[0])

    @baseline_bytes.setter
    def baseline_bytes(self, value: int) -> None:
        struct.pack_into("<Q", self._page, 8, value)

    @property
    def closed_s(self) -> float:
        """When it ceased to accept connections, on the host's monotonic clock; 0 until then."""
        return float(struct.unpack_from("<d", self._page, 16)[0])

    @closed_s.setter
    def closed_s(self, value: float) -> None:
        struct.pack_into("<d", self._page, 16, value)


class ReplacementCounts:
    """How many workers of this master were replaced, by mode and reason. Written by each successor, in shared memory."""

    __slots__ = ("_page",)

    _NUMBERS = struct.Struct(f"{len(MODES) * len(REASONS)}I")

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, self._NUMBERS.size)

    def __repr__(self) -> str:
        return f"ReplacementCounts({self.snapshot()})"

    def note(self, mode: str, reason: str) -> None:
        """Count one."""
        counts = [*self._NUMBERS.unpack(self._page[:])]
        counts[MODES.index(mode) * len(REASONS) + REASONS.index(reason)] += 1
        self._page[:] = self._NUMBERS.pack(*counts)

    def snapshot(self) -> Mapping[tuple[str, str], int]:
        """Return the counts, those of zero too."""
        pairs = [(mode, reason) for mode in MODES for reason in REASONS]
        return dict(zip(pairs, self._NUMBERS.unpack(self._page[:]), strict=True))


@dataclass(frozen=True, slots=True)
class Predecessor:
    """Whom a worker succeeds."""

    pid: int
    will: Will

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended; its memory and its connections are free then."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False
