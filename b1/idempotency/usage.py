"""How full the store is: asked of the store itself, once per look and never on a request's path; and what that means.

A full store is not a slow one: a Redis at its memory limit refuses claims or, worse, evicts records, and an evicted record
is an effect that may happen twice on routes without a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from b1.units import format_bytes

WARN_RATIO = 0.8


class StoreUsage(Protocol):
    """What a store says of the server behind it; None where it has no bound, or does not say."""

    @property
    def keys(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def limit_bytes(self) -> int | None: ...
    @property
    def clients(self) -> int | None: ...
    @property
    def clients_limit(self) -> int | None: ...
    @property
    def evicts(self) -> bool: ...


@runtime_checkable
class Measured(Protocol):
    """A store that can say how full it is, in one round trip."""

    async def usage(self) -> StoreUsage:
        """Return it.

        Raises:
            StoreUnavailable: the store is away.
        """
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """How full the store is.

    Attributes:
        keys: all keys, those of other features included.
        memory_ratio, clients_ratio: 0 to 1 of what the store may use; None where it has no bound.
        evicts: the server throws away keys that have not expired when its memory is full.
    """

    keys: int
    used_bytes: int
    limit_bytes: int | None
    memory_ratio: float | None
    clients: int | None
    clients_limit: int | None
    clients_ratio: float | None
    evicts: bool


@dataclass(frozen=True, slots=True)
class UsageWarning:
    """Something to be told of. `name` is stable; `remedy` names what to change."""

    name: str
    ratio: float
    text: str
    remedy: str


def usage_of(seen: StoreUsage) -> Usage:
    """Work out the ratios."""
    return Usage(
        keys=seen.keys,
        used_bytes=seen.used_bytes,
        limit_bytes=seen.limit_bytes,
        memory_ratio=_ratio(seen.used_bytes, seen.limit_bytes),
        clients=seen.clients,
        clients_limit=seen.clients_limit,
        clients_ratio=_ratio(seen.clients, seen.clients_limit),
        evicts=seen.evicts,
    )


def warnings_of(usage: Usage) -> tuple[UsageWarning, ...]:
    """Return what is worth a warning: 80 % of memory or of connections, and a server that forgets before the time."""
    found: list[UsageWarning] = []
    if usage.memory_ratio is not None and usage.memory_ratio >= WARN_RATIO:
        limit = format_bytes(usage.limit_bytes or 0)
        found.append(
            UsageWarning(
                "B1IdempotencyStoreMemory",
                usage.memory_ratio,
                f"the store of idempotency keys uses {format_bytes(usage.used_bytes)} of {limit}",
                "raise the store's memory, or shorten ttl_s on routes with many keys; see `b1 plan --idempotency`",
            )
        )
    if usage.clients_ratio is not None and usage.clients_ratio >= WARN_RATIO:
        found.append(
            UsageWarning(
                "B1IdempotencyStoreConnections",
                usage.clients_ratio,
                f"the store has {usage.clients} of {usage.clients_limit} connections",
                "look who else connects (b1 itself holds two at most), or raise maxclients",
            )
        )
    if usage.evicts:
        found.append(
            UsageWarning(
                "B1IdempotencyStoreEvicts",
                usage.memory_ratio or 0.0,
                "the store may throw away keys that have not expired",
                "set maxmemory-policy to noeviction: every record has an expiry, so the volatile policies evict them too; "
                "routes with effects in Postgres are safe either way",
            )
        )
    return tuple(found)


def _ratio(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None
