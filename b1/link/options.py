"""What a link is told and what it tells: its options, its snapshot, and where its host keeps the slots."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How to reach Redis.

    Attributes:
        url: with password, if any; hidden from the repr.
        role: of this process, part of the client's name ``b1:<role>:<pid>``.
        deadline_s: for each call, or less when the request's own deadline is nearer.
        pending_limit: calls in flight; more fail at once.
        connections: that all processes of this host together may hold; this link holds one of them.
        connect_timeout_s: for name, TCP and TLS.
        stall_limit_s: how long a connection without answers is kept before another replaces it.
        backoff_first_s, backoff_most_s: bounds of the random wait between attempts.
        slots_dir: where the host's slots are; default: `slots_directory` of the server.
    """

    url: str = field(repr=False)
    role: str = "web"
    deadline_s: float = 0.25
    pending_limit: int = 1024
    connections: int = 2
    connect_timeout_s: float = 0.8
    stall_limit_s: float = 10.0
    backoff_first_s: float = 0.05
    backoff_most_s: float = 1.0
    slots_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class LinkSnapshot:
    """What the link says about itself.

    `state`: ``new``, ``no_slot`` (the host's connections are all held by others), ``connecting``, ``up``,
    ``stalled``, ``away`` or ``closed``.
    """

    state: str
    is_up: bool
    address: str
    slot: int | None
    slots: int
    pending: int
    pending_limit: int
    calls: int
    failures: int
    timeouts: int
    connects: int
    healed_scripts: int
    latency_ms: float | None
    last_error: str | None
    since_s: float


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
