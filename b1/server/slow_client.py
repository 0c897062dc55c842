"""One connection's watch over its client: does the body come, is the answer read?

Waiting for a client costs no processor, but a place, its memory and a descriptor. Nothing runs while neither direction has
something under way, and what fits into one piece never starts a timer.
"""

from __future__ import annotations

import socket
import sys
from asyncio import BaseTransport
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any

from b1.server.pace import PaceLimits, PaceTimer

if TYPE_CHECKING:
    from b1.server.protocol import B1Protocol

# struct tcp_info (linux/tcp.h): after eight bytes of flags, 24 numbers of 32 bits and two rates of 64 comes
# `tcpi_bytes_acked`, since Linux 4.1.
_BYTES_ACKED = 120
_read = Struct("<Q" if sys.byteorder == "little" else ">Q").unpack_from


class SlowClient:
    """The client of one connection.

    Args:
        protocol: asked for its cycle, its flow and its transport; told when the client is too slow.
    """

    __slots__ = ("_acknowledged", "_body", "_cycle", "_is_body_known", "_protocol", "_sending")

    def __init__(self, protocol: B1Protocol, limits: PaceLimits) -> None:
        self._protocol = protocol
        self._cycle: Any = None
        loop = protocol.loop
        self._body = PaceTimer(loop, limits, self._received, is_over=self._is_body_over, end=protocol.body_is_too_slow)
        self._acknowledged = acknowledged_reader(protocol.transport)
        self._sending = PaceTimer(loop, limits, self._sent, is_over=self._is_sent, end=protocol.answer_is_not_read)

    def __repr__(self) -> str:
        return f"<SlowClient body={self._body!r} sending={self._sending!r}>"

    def body_begins(self, cycle: Any) -> None:
        """The head has come and the body has not: from now on it has to come."""
        self._cycle = cycle
        self._body.start()

    def sending_waits(self) -> None:
        """Not all of an answer was taken by the kernel: from now on it has to be read."""
        if not self._sending.is_running:
            self._sending.start()

    def stop(self) -> None:
        """The connection has ended, or is somebody else's."""
        self._body.stop()
        self._sending.stop()
        self._cycle = None

    def _received(self) -> int | None:
        protocol = self._protocol
        if protocol.flow.read_paused or self._cycle.waiting_for_100_continue:
            return None  # it is the client who waits
        return protocol.body_bytes

    def _is_body_over(self) -> bool:
        cycle = self._cycle
        return cycle is not self._protocol.cycle or not cycle.more_body or cycle.response_complete

    def _sent(self) -> int:
        if self._acknowledged is not None:
            return self._acknowledged()
        return -self._protocol.transport.get_write_buffer_size()

    def _is_sent(self) -> bool:
        return not self._protocol.transport.get_write_buffer_size()


def acknowledged_reader(transport: BaseTransport) -> Callable[[], int] | None:
    """Return a function that says how many bytes the client has acknowledged on this connection; None where nobody knows.

    Our own buffer says too little: it gives to the kernel in steps as large as the kernel's buffer, which may be megabytes.
    Call it only while the connection is open: it keeps the number of a descriptor and not the descriptor.
    """
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    getsockopt, level, option, size = connection.getsockopt, socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8

    def acknowledged() -> int:
        try:
            info = getsockopt(level, option, size)
        except OSError:
            return 0
        return int(_read(info, _BYTES_ACKED)[0]) if len(info) >= size else 0

    try:
        known = len(getsockopt(level, option, size)) >= size
    except OSError:
        known = False
    return acknowledged if known else None
