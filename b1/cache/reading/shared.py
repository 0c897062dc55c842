"""The second copy, in the shared store: reads that take the lease to load, and stores that an invalidation voids.

What the store answers is checked like anything from outside: an envelope that does not add up is a miss and a number.
Without Redis there is no second copy: this process's memory has one already, in L1.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from b1.cache.counts import Counts
from b1.cache.packing.codec import Broken, Head
from b1.cache.packing.envelopes import Envelopes
from b1.cache.reading.gathering import Gathering
from b1.cache.reading.limits import within
from b1.clock import DEADLINE
from b1.errors import StoreUnavailable
from b1.store.base import CacheAnswer, CacheRead, CacheState
from b1.types import VersionSource

if TYPE_CHECKING:
    from b1.cache.reading.reads import Read

T = TypeVar("T")


class State(enum.Enum):
    """What a read of the shared store found."""

    FRESH = "fresh"
    HELD = "held"  # the copy that the caller has is still good
    STALE = "stale"
    NONE = "none"


class Answer(NamedTuple):
    """What the shared store knows of an entry.

    Attributes:
        is_ours: the caller has the lease and should load.
        is_loading: somebody else has it.
        vector: the versions of the tags at the moment of the read.
        fresh_s: for how long the value stays fresh.
        left_s: for how long the store keeps it.
        same_tags: it was stored with the tags of this read.
    """

    state: State
    vector: bytes
    is_ours: bool = False
    is_loading: bool = False
    value: bytes = b""
    head: Head | None = None
    fresh_s: float = 0.0
    left_s: float = 0.0
    same_tags: bool = True


class CacheStore(Protocol):
    """What the cache needs of a store (`b1.store.base.Store` is one)."""

    @property
    def mode(self) -> str: ...

    async def read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer]: ...

    async def store_if_unchanged(
        self,
        key: str,
        value: bytes | None,
        *,
        tags: tuple[str, ...],
        vector: bytes,
        ttl_ms: int,
        fresh_ms: int | None = None,
    ) -> bool: ...

    @property
    def versions(self) -> VersionSource: ...

    def invalidate_here(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None: ...

    async def invalidate(self, tags: Sequence[str] | None, *, soft: Sequence[str] = ()) -> None: ...


class Shared:
    """Reads and stores envelopes.

    Args:
        timeout_s: of one call; the store's own deadlines are inside.
        limit_bytes: of one envelope.
    """

    def __init__(
        self,
        store: CacheStore,
        envelopes: Envelopes,
        counts: Counts,
        *,
        timeout_s: float,
        limit_bytes: int,
    ) -> None:
        self._store = store
        self._envelopes = envelopes
        self._counts = counts
        self._timeout_s = timeout_s
        self._limit_bytes = limit_bytes
        self._gathering = Gathering(self._read_many, self._unwanted)

    def __repr__(self) -> str:
        return f"<Shared is_there={self.is_there} must_ask={self.must_ask}>"

    @property
    def is_there(self) -> bool:
        """Whether there is a second copy now; not while Redis is away."""
        return self._store.mode == "redis"

    @property
    def must_ask(self) -> bool:
        """Whether a copy in this process proves nothing: other processes' invalidations are not heard in order."""
        return self._store.mode == "redis" and not self._store.versions.is_exact

    async def ask(
        self,
        name: str,
        key: str | None,
        tags: tuple[str, ...],
        *,
        lease_s: float = 0.0,
        held: bytes | None = None,
        namespace: str = "",
    ) -> Answer | None:
        """Read an entry, and take the lease to load it when it is not there; None when the store does not answer.

        Args:
            name: of the entry, which its envelope must name too.
            key: in the store; None asks for the versions alone.
            held: the vector of a copy that the caller has.
        """
        read = CacheRead(key, tags, int(lease_s * 1000) if key is not None else 0, held)
        # Who has a deadline of its own asks alone: the others' call would not end with it.
        answers = await self._read_many((read,)) if DEADLINE.get() is not None else await self._gathering.read(read)
        if not answers:
            return None
        return await self._understood(name, key or "", tags, answers[0], lease_s, namespace)

    async def ask_many(
        self, reads: Sequence[Read], *, lease_s: float = 0.0, held: Sequence[bytes | None] = ()
    ) -> list[Answer] | None:
        """Do what `ask` does, for many entries in one round trip."""
        lease_ms, asked = int(lease_s * 1000), []
        for read, vector in zip_longest(reads, held):
            # A hot value is never there. Who only looks has not said whether it is one.
            if lease_ms and read.residence.tier == "hot":
                asked.append(CacheRead(None, read.tags, 0, vector))
            else:
                asked.append(CacheRead(read.place, read.tags, lease_ms, vector))
        answers = await self._read_many(asked)
        if answers is None:
            return None
        return [
            await self._understood(read.name, read.place, read.tags, answer, lease_s, read.namespace)
            for read, answer in zip(reads, answers, strict=True)
        ]

    async def lease(self, key: str, tags: tuple[str, ...], lease_s: float) -> bytes | None:
        """Take the lease to load what is still there; the vector if it is ours.

        The store gives a lease only with a miss. So this one is for a name beside the entry, at which nothing is kept.
        """
        answer = await self.ask("", f"{key}:early", tags, lease_s=lease_s)
        return answer.vector if answer is not None and answer.is_ours else None

    async def keep(
        self, key: str, envelope: bytes, tags: tuple[str, ...], vector: bytes, *, life_s: float, fresh_s: float
    ) -> bool:
        """Store an envelope unless something moved since the vector was taken, and end the lease."""
        if len(envelope) > self._limit_bytes:
            self._counts.refused["too_large"] += 1
            await self.give_up(key, tags, vector)
            return False
        ttl_ms, fresh_ms = max(1, int(life_s * 1000)), max(1, int(fresh_s * 1000))
        kept = await self._within(
            self._store.store_if_unchanged(
                key,
                envelope,
                tags=tags,
                vector=vector,
                ttl_ms=ttl_ms,
                fresh_ms=None if fresh_ms >= ttl_ms else fresh_ms,
            )
        )
        if kept is False:
            self._counts.refused["changed"] += 1
        return bool(kept)

    async def give_up(self, key: str, tags: tuple[str, ...], vector: bytes) -> None:
        """End the lease without a value, so that the next caller may load."""
        await self._within(self._store.store_if_unchanged(key, None, tags=tags, vector=vector, ttl_ms=1))

    async def aclose(self) -> None:
        """End the calls under way."""
        await self._gathering.aclose()

    async def _read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer] | None:
        answers = await self._within(self._store.read_many(reads))
        # Redis went away in this very call, and the answer is the stand-in's, which knows nothing of what is cached.
        return answers if self.is_there else None

    async def _unwanted(self, read: CacheRead, answer: CacheAnswer) -> None:
        """End a lease that came for somebody who has gone."""
        if read.key is not None and _lease(answer)[0]:
            await self.give_up(read.key, read.tags, answer.vector)

    async def _understood(
        self, name: str, key: str, tags: tuple[str, ...], answer: CacheAnswer, lease_s: float, namespace: str
    ) -> Answer:
        if answer.value is not None:
            return await self._opened(name, key, tags, answer, lease_s, namespace)
        state = State.HELD if answer.state is CacheState.CURRENT else State.NONE
        return Answer(state, answer.vector, *_lease(answer))

    async def _opened(
        self, name: str, key: str, tags: tuple[str, ...], answer: CacheAnswer, lease_s: float, namespace: str
    ) -> Answer:
        """Open the envelope of an answer that has one."""
        is_ours, is_loading = _lease(answer)
        try:
            head, value, same_tags = await self._envelopes.open(name, namespace, answer.value or b"", tags)
        except Broken as broken:
            self._counts.error(broken.cause)
            # Nothing usable is there, and the store believes that something is: whoever has the lease beside it loads.
            if not (is_ours or is_loading) and lease_s:
                beside = await self.ask("", f"{key}:early", tags, lease_s=lease_s)
                is_ours, is_loading = (True, False) if beside is None else (beside.is_ours, beside.is_loading)
            return Answer(State.NONE, answer.vector, is_ours, is_loading)
        state = State.FRESH if answer.state is CacheState.HIT else State.STALE
        fresh_s, left_s = answer.fresh_ms / 1000.0, answer.left_ms / 1000.0
        return Answer(state, answer.vector, is_ours, is_loading, value, head, fresh_s, left_s, same_tags)

    async def _within(self, call: Awaitable[T]) -> T | None:
        """Await a call of the store; None when it does not answer in time."""
        try:
            return await within(call, self._timeout_s)
        except (StoreUnavailable, TimeoutError):
            self._counts.error("store")
            return None


def store_key(key: str, organization: str | None) -> str:
    """Return where an entry is in the store: the feature, the organisation, a digest; see §11 of the contract."""
    digest = blake2b(key.encode(), digest_size=16).hexdigest()
    return f"cache:{'shared' if organization is None else _owner(organization)}:{digest}"


@lru_cache(maxsize=1024)
def _owner(organization: str) -> str:
    return blake2b(organization.encode(), digest_size=8).hexdigest()


def _lease(answer: CacheAnswer) -> tuple[bool, bool]:
    """Return whether the lease is ours, and whether it is somebody else's."""
    if answer.state is CacheState.LEASED:
        return True, False
    if answer.state is CacheState.STALE:
        return answer.has_lease, not answer.has_lease
    return False, answer.state is CacheState.LOADING
