"""Ports for the servers of the tests, each kept until its server has it, and longer.

A port that was only looked for is anybody's again: the next connection that any process opens may get it. On Linux a
socket that is bound and never listens keeps a port from being chosen, and lets a server that names it listen there.
"""

from __future__ import annotations

import socket
import sys
from collections import deque

from b1.embedded import process

_MOST_KEPT = 200  # a descriptor each; whoever's port leaves the list has had it for long
_kept: deque[socket.socket] = deque()


def free_port() -> int:
    """Return a port of the loopback address that nobody else gets, for a server that reuses addresses."""
    if sys.platform != "linux":
        return process.free_port()
    holder = socket.socket()
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
    except BaseException:
        holder.close()
        raise
    _kept.append(holder)
    if len(_kept) > _MOST_KEPT:
        _kept.popleft().close()
    return int(holder.getsockname()[1])
