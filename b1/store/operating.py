"""Two verbs for operators, never for a request's path: how full the store is, and removing what an organisation left."""

from __future__ import annotations

import re
from dataclasses import dataclass

_GLOB = re.compile(r"([*?\[\]\\^-])")


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """How full the store is. None where it has no bound, or does not say.

    Attributes:
        keys: all keys in the server's database, those of other applications included.
        evicts: a full server throws away keys before their time.
    """

    keys: int
    used_bytes: int
    limit_bytes: int | None
    clients: int | None
    clients_limit: int | None
    evicts: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """One slice of a sweep: where the next one begins (None: it was the last), and how many keys went."""

    cursor: int | None
    removed: int


def usage_in(info: bytes, keys: int) -> StoreUsage:
    """Read what a server says of itself (``INFO memory`` and ``INFO clients``)."""
    said = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    limit_bytes = int(said.get("maxmemory", 0))
    return StoreUsage(
        keys=keys,
        used_bytes=int(said.get("used_memory", 0)),
        limit_bytes=limit_bytes or None,
        clients=int(said["connected_clients"]) if "connected_clients" in said else None,
        clients_limit=int(said["maxclients"]) if "maxclients" in said else None,
        evicts=bool(limit_bytes) and said.get("maxmemory_policy", "noeviction") != "noeviction",
    )


def pattern_of(prefix: str) -> str:
    """Return the pattern of all keys that begin with `prefix`, whatever characters it has."""
    return _GLOB.sub(r"\\\1", prefix) + "*"
