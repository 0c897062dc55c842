"""Protocols and values that two siblings share, and the ASGI aliases. Imports nothing of b1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

# ASGI messages are open dictionaries by specification; `Any` is the honest type at this edge.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = list[tuple[bytes, bytes]]


class Reclaimable(Protocol):
    """Something the governor can take memory from.

    `priority`: lower is emptied first.
    """

    name: str
    priority: int

    def held_bytes(self) -> int:
        """Return what it holds now, in accounted bytes."""
        ...

    def reclaim(self, target_bytes: int) -> int:
        """Give up at least `target_bytes` if it can; return the bytes given up."""
        ...


Versions = tuple[tuple[str, int], ...]


class TaggedEntry(Protocol):
    """A stored value of a `TaggedMap`."""

    value: Any


class TaggedMap(Protocol):
    """A bounded map whose entries become stale by tag. Take the versions before a load and give them to `put` after."""

    def get(self, key: str) -> TaggedEntry | None: ...

    def put(self, key: str, value: Any, held_bytes: int, *, ttl_s: float, versions: Versions) -> bool: ...

    def versions_of(self, tags: Iterable[str]) -> Versions: ...

    def invalidate(self, tags: Iterable[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, established once per request.

    Attributes:
        actor: stable id of the person or program.
        organization: id of the tenant the request acts in; None where the request names none.
        role: a name of the role table (see the limiter's multipliers), such as ``MEMBER``.
        tier: ``free``, ``pro`` or ``enterprise``.
        claims: what else the application wants to carry; never logged.
    """

    actor: str
    organization: str | None = None
    role: str = "MEMBER"
    tier: str = "free"
    claims: dict[str, Any] = field(default_factory=dict, hash=False, compare=False, repr=False)
