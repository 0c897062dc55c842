"""Protocols and values that two siblings share, and the ASGI aliases. Imports nothing of b1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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


class Succession(Protocol):
    """What a worker knows of its predecessor and its successor; the server's (`b1.server.succession`)."""

    @property
    def is_successor(self) -> bool:
        """Whether there was a predecessor, which may still be there."""
        ...

    @property
    def has_heir(self) -> bool:
        """Whether a successor is on its way, or is sure to come."""
        ...

    @property
    def is_predecessor_gone(self) -> bool:
        """Whether the predecessor, if there was one, has ended."""
        ...

    async def inherit(self) -> bytes | None:
        """Have the predecessor end, and return the state that it leaves; None when there is none. Bounded."""
        ...

    async def inherit_rest(self) -> bytes | None:
        """Wait for what the predecessor still did while it drained; None when there is none."""
        ...

    async def predecessor_gone(self) -> None:
        """Wait until the predecessor's process has ended. Bounded."""
        ...

    def leave(self, data: bytes, *, last: bool) -> bool:
        """Leave state to the successor; say whether that worked."""
        ...

    def listen(self, hear: Callable[[bytes], None]) -> None:
        """Give what the predecessor tells while it drains to `hear`, when it comes; call it before `inherit`."""
        ...

    def tell(self, data: bytes) -> bool:
        """Tell the successor at once; say whether that worked. What it misses has to be in the state too."""
        ...

    def ask(self, reason: str, *, urgent: bool = False) -> None:
        """Ask for a successor; in an emergency end at once."""
        ...


class Versions(NamedTuple):
    """Tags and what their versions were at one moment; see `VersionSource.vector`."""

    tags: tuple[str, ...]
    vector: bytes


class VersionSource(Protocol):
    """The versions of tags as this process knows them, without I/O.

    What was built on a vector is current while the same tags still give an equal one.
    """

    @property
    def changes(self) -> int:
        """Grows with every change that this process learns of: while it stands still, every vector does."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether `vector` is what the whole store would answer; False: only our own changes surely are in it."""
        ...

    def vector(self, tags: Sequence[str]) -> bytes:
        """Return the versions of the tags in their order; opaque, and comparable with others of the same tags."""
        ...


class TaggedEntry(Protocol):
    """A stored value of a `TaggedMap`.

    Attributes:
        expires_s: end of its time, on the monotonic clock.
    """

    value: Any
    expires_s: float


class TaggedMap(Protocol):
    """A bounded map whose entries become stale by tag. Take the versions before a load and give them to `put` after."""

    @property
    def changes(self) -> int:
        """A number that changes whenever anything becomes stale."""
        ...

    def get(self, key: str) -> TaggedEntry | None: ...

    def put(self, key: str, value: Any, held_bytes: int | None = None, *, ttl_s: float, versions: Versions) -> bool: ...

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
