"""What a link is told and what it tells: its options, its snapshot, and where its host keeps the slots."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from b1.link.credentials import CredentialSource
from b1.link.server import Server

_SHARED_MEMORY = Path("/dev/shm")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How to reach Redis.

    Attributes:
        url: with password, if any; hidden from the repr.
        role: of this process, part of the client's name ``b1:<role>:<pid>``.
        deadline_s: for each call, or less when the request's own deadline is nearer; kept to within 10 ms.
        pending_limit, pending_limit_bytes: calls in flight; more fail at once.
        command_limit_bytes: of one command, key and value and all; a larger one is refused before it blocks the line.
        connections: that all processes of this host together may hold; this link holds one of them, at times two.
        connect_timeout_s: for name, TCP and TLS.
        stall_bound_s: how long a connection without answers is left alone before the reserve is opened to replace it.
        stall_limit_s: how long it is kept when there is no reserve.
        reserve_idle_s: how long the reserve stays open after its last use.
        backoff_first_s, backoff_most_s: bounds of the random wait between attempts.
        slots_dir: where the host's slots are; default: `slots_directory` of the server.
        credentials: instead of the URL's; see `b1.link.credentials`.
    """

    url: str = field(repr=False)
    role: str = "web"
    deadline_s: float = 0.25
    pending_limit: int = 1024
    pending_limit_bytes: int = 8 * _MIB
    command_limit_bytes: int = 2 * _MIB
    connections: int = 2
    connect_timeout_s: float = 0.8
    stall_bound_s: float = 1.0
    stall_limit_s: float = 10.0
    reserve_idle_s: float = 1.0
    backoff_first_s: float = 0.05
    backoff_most_s: float = 1.0
    slots_dir: Path | None = None
    credentials: CredentialSource | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ReserveSnapshot:
    """The second connection.

    Attributes:
        state: ``closed``, ``opening`` or ``open``.
        used: how often it was asked for, by reason.
        failed: how often it could not be had.
        promoted: how often it took the place of a stalled main connection.
    """

    state: str = "closed"
    used: tuple[tuple[str, int], ...] = ()
    failed: int = 0
    promoted: int = 0


@dataclass(frozen=True, slots=True)
class LinkSnapshot:
    """What the link says about itself.

    `state`: ``new``, ``no_slot`` (the host's connections are all held by others), ``connecting``, ``up``,
    ``stalled``, ``away``, ``closing``, ``closed`` or ``forked`` (a child of the process that made it).

    Attributes:
        connections: sockets of ours to the server now, the reserve and attempts to connect included.
        timeouts: calls that were not answered in time.
        writes: how often bytes were handed to the socket; `calls` by `writes` is what sharing gains.
        credentials_sent: new ones on the living connection.
        server: None before the first connection.
    """

    state: str
    is_up: bool
    address: str
    slot: int | None
    slots: int
    connections: int
    pending: int
    pending_limit: int
    pending_bytes: int
    calls: int
    failures: int
    timeouts: int
    writes: int
    connects: int
    healed_scripts: int
    pushes: int
    credentials_sent: int
    latency_ms: float | None
    last_error: str | None
    since_s: float
    server: Server | None
    reserve: ReserveSnapshot


def slots_directory(address: str) -> Path:
    """Return the folder of this host's slots for the server at `address` (``host:port`` or a socket's path).

    All databases of one server share it, because a server counts clients and not databases.
    """
    host, _, port = address.rpartition(":")
    name = f"localhost:{port}" if host.lower() in _LOOPBACK else address.lower()
    digest = hashlib.sha256(f"redis\n{name}".encode()).hexdigest()[:16]
    has_shared_memory = os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
    base = _SHARED_MEMORY if has_shared_memory else Path(tempfile.gettempdir())
    return base / f"b1-{os.geteuid()}" / digest
