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
from b1.cache.reading.writing import Writing
from b1.clock import DEADLINE
from b1.errors import StoreUnavailable
from b1.store.base import CacheAnswer, CacheRead, CacheState, CacheWrite
from b1.types import VersionSource

if TYPE_CHECKING:
    from b1.cache.reading.reads import Read

T = TypeVar("T")

# Leases that a closing cache gives up; a store that does not answer holds up nobody longer.
_CLOSE_S = 0.25


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

    async def store_many(self, writes: Sequence[CacheWrite]) -> list[bool]: ...

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
        self._writing = Writing(self._store_many, self._refused)

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
        if DEADLINE.get() is None:
            answers: Sequence[CacheAnswer] | None = await self._gathering.read(read)
        else:  # whose call ends with it, and so it is nobody else's
            answers = await self._read_apart((read,))
        if not answers:
            return None
        answer = answers[0]
        if answer.value is None:
            return _without_value(answer)
        try:
            opened = await self._opened(name, namespace, tags, answer)
            return opened or (await self._beside([(read, answer)], lease_s))[0]
        except BaseException:
            self._unwanted(read, answer)
            raise

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
        answers = await self._read_apart(asked)
        if not answers:
            return None
        try:
            return await self._understood(reads, asked, answers, lease_s)
        except BaseException:
            for one, answer in zip(asked, answers, strict=True):
                self._unwanted(one, answer)
            raise

    async def lease(self, key: str, tags: tuple[str, ...], lease_s: float) -> bytes | None:
        """Take the lease to load what is still there; the vector if it is ours.

        The store gives a lease only with a miss. So this one is for a name beside the entry, at which nothing is kept.
        """
        answer = await self.ask("", f"{key}:early", tags, lease_s=lease_s)
        return answer.vector if answer is not None and answer.is_ours else None

    async def keep(
        self,
        key: str,
        envelope: bytes,
        tags: tuple[str, ...],
        vector: bytes,
        *,
        life_s: float,
        fresh_s: float,
        waits: bool = True,
    ) -> None:
        """Store an envelope unless something moved since the vector was taken, and end the lease.

        Args:
            waits: until the store has answered; else it is stored in the background.
        """
        if len(envelope) > self._limit_bytes:
            self._counts.refused["too_large"] += 1
            self.give_up(key, tags, vector)
            return
        ttl_ms, fresh_ms = max(1, int(life_s * 1000)), max(1, int(fresh_s * 1000))
        write = CacheWrite(key, envelope, tags, vector, ttl_ms, None if fresh_ms >= ttl_ms else fresh_ms)
        if waits:
            await self._writing.keep(write)
        else:
            self._writing.send(write)

    def give_up(self, key: str, tags: tuple[str, ...], vector: bytes) -> None:
        """End the lease without a value, so that the next caller may load; in the background."""
        self._writing.send(CacheWrite(key, None, tags, vector, 1))

    async def aclose(self) -> None:
        """End the calls under way; what is given up still gets there, if the store answers at once."""
        limit_s = min(_CLOSE_S, self._timeout_s)
        await self._gathering.aclose(limit_s)
        await self._writing.aclose(limit_s)

    async def _read_apart(self, reads: Sequence[CacheRead]) -> list[CacheAnswer] | None:
        """Read in a call of one's own; it goes on without whoever has gone, if it may bring leases."""
        if any(read.lease_ms for read in reads):
            return await self._gathering.read_apart(reads)
        return await self._read_many(reads)

    async def _read_many(self, reads: Sequence[CacheRead]) -> list[CacheAnswer] | None:
        answers = await self._within(self._store.read_many(reads))
        # Redis went away in this very call, and the answer is the stand-in's, which knows nothing of what is cached.
        return answers if self.is_there else None

    async def _store_many(self, writes: Sequence[CacheWrite]) -> list[bool] | None:
        return await self._within(self._store.store_many(writes))

    def _refused(self, reason: str) -> None:
        self._counts.refused[reason] += 1

    def _unwanted(self, read: CacheRead, answer: CacheAnswer) -> None:
        """End a lease that came for somebody who has gone."""
        if read.key is not None and _lease(answer)[0]:
            self.give_up(read.key, read.tags, answer.vector)

    async def _understood(
        self, reads: Sequence[Read], asked: Sequence[CacheRead], answers: Sequence[CacheAnswer], lease_s: float
    ) -> list[Answer]:
        understood: list[Answer] = []
        broken: list[int] = []
        for at, (read, answer) in enumerate(zip(reads, answers, strict=True)):
            opened = (
                _without_value(answer)
                if answer.value is None
                else await self._opened(read.name, read.namespace, read.tags, answer)
            )
            if opened is None:
                broken.append(at)
            understood.append(opened or _NOTHING)
        if broken:
            beside = await self._beside([(asked[at], answers[at]) for at in broken], lease_s)
            for at, told in zip(broken, beside, strict=True):
                understood[at] = told
        return understood

    async def _opened(self, name: str, namespace: str, tags: tuple[str, ...], answer: CacheAnswer) -> Answer | None:
        """Open the envelope of an answer that has one; None when it is broken."""
        try:
            head, value, same_tags = await self._envelopes.open(name, namespace, answer.value or b"", tags)
        except Broken as broken:
            self._counts.error(broken.cause)
            return None
        state = State.FRESH if answer.state is CacheState.HIT else State.STALE
        fresh_s, left_s = answer.fresh_ms / 1000.0, answer.left_ms / 1000.0
        return Answer(state, answer.vector, *_lease(answer), value, head, fresh_s, left_s, same_tags)

    async def _beside(self, broken: Sequence[tuple[CacheRead, CacheAnswer]], lease_s: float) -> list[Answer]:
        """Say who loads where nothing usable is, and the store believes that something is.

        It gives no lease with a hit: whoever has the one beside it loads. All are asked for in one trip.
        """
        leases = [_lease(answer) for _, answer in broken]
        unled = [at for at, lease in enumerate(leases) if lease == (False, False)] if lease_s else []
        asked = [CacheRead(f"{broken[at][0].key}:early", broken[at][0].tags, int(lease_s * 1000)) for at in unled]
        answers = await self._read_apart(asked) if asked else None
        for at, answer in zip_longest(unled, answers or ()):
            leases[at] = (True, False) if answer is None else _lease(answer)
        return [Answer(State.NONE, answer.vector, *lease) for (_, answer), lease in zip(broken, leases, strict=True)]

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


def _without_value(answer: CacheAnswer) -> Answer:
    state = State.HELD if answer.state is CacheState.CURRENT else State.NONE
    return Answer(state, answer.vector, *_lease(answer))


_NOTHING = Answer(State.NONE, b"")
