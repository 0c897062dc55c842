"""The cache's part of a script's call and reply, as ``lua/shared/entry.lua`` and ``lua/read_many.lua`` describe it."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from struct import error as StructError
from typing import Any

from b1.errors import StoreUnavailable
from b1.store.reads import CacheAnswer, CacheRead, CacheState, CacheWrite
from b1.store.versions import EPOCH_BYTES, place_of

_CACHE_STATES = (
    (CacheState.HIT, True, False),
    (CacheState.CURRENT, False, False),
    (CacheState.LEASED, False, False),
    (CacheState.LOADING, False, False),
    (CacheState.MISS, False, False),
    (CacheState.STALE, True, False),
    (CacheState.STALE, True, True),
)
_ASKED = Struct(">BIBH")
_FOUND = Struct(">Bqq")
_KEPT = Struct(">BqIB")
_ENTRY, _VERSIONS, _ONE = ord("e"), ord("v"), ord("1")


def packed_tags(tags: Sequence[str]) -> bytes:
    """Return the buckets of the tags as the scripts take them."""
    return b"".join([place_of(tag)[0] for tag in tags])


def packed_reads(reads: Sequence[CacheRead]) -> bytes:
    """Return what is asked of many entries as the script takes it."""
    parts = []
    for read in reads:
        tags, held = read.tags, read.held or b""
        parts.append(_ASKED.pack(_VERSIONS if read.key is None else _ENTRY, read.lease_ms, len(tags), len(held)))
        parts += [place_of(tag)[0] for tag in tags]
        parts.append(held)
    return b"".join(parts)


def packed_writes(writes: Sequence[CacheWrite]) -> bytes:
    """Return how many entries are to be kept as the script takes it; their values go beside it."""
    parts = []
    for _, value, tags, vector, ttl_ms, fresh_ms in writes:
        if len(vector) != EPOCH_BYTES + 4 * len(tags):  # no vector of these tags: nothing can be built on it
            value, vector = None, bytes(EPOCH_BYTES + 4 * len(tags))
        stale_ms = 0 if fresh_ms is None else max(0, ttl_ms - fresh_ms)
        parts.append(_KEPT.pack(value is not None, ttl_ms, stale_ms, len(tags)))
        parts += [place_of(tag)[0] for tag in tags]
        parts.append(vector)
    return b"".join(parts)


def kept_of(reply: Any, writes: Sequence[CacheWrite]) -> list[bool]:
    """Return which entries the script kept.

    Raises:
        StoreUnavailable: it is nothing that this version knows.
    """
    if not isinstance(reply, bytes) or len(reply) != len(writes):
        raise StoreUnavailable(f"the store_many script answered {reply!r:.200}, which this version does not know")
    return [kept == _ONE for kept in reply]


def cache_answer(reply: list[Any]) -> CacheAnswer:
    """Return what the script said of the cache.

    Raises:
        StoreUnavailable: it is nothing that this version knows.
    """
    try:
        number, vector, left_ms, value, fresh_ms = reply
        state, has_value, has_lease = _CACHE_STATES[number]
    except (IndexError, TypeError, ValueError):
        raise StoreUnavailable(
            f"the enter script answered {reply!r} for the cache, which this version does not know"
        ) from None
    return CacheAnswer(state, value if has_value else None, left_ms, vector, fresh_ms, has_lease)


def cache_answers(reply: Any, reads: Sequence[CacheRead]) -> list[CacheAnswer]:
    """Return what the script said of the first of many entries: one at least, and as many as its answer had room for.

    Raises:
        StoreUnavailable: it is nothing that this version knows.
    """
    try:
        answers = [_found(read, reply[2 * at], reply[2 * at + 1]) for at, read in enumerate(reads[: len(reply) // 2])]
    except (IndexError, TypeError, ValueError, StructError):
        answers = []
    if not answers:
        raise StoreUnavailable(f"the read_many script answered {reply!r:.200}, which this version does not know")
    return answers


def all_versions(reads: Sequence[CacheRead], answers: Sequence[CacheAnswer]) -> tuple[list[str], bytes]:
    """Return the tags of all answers, and their versions behind one epoch: what a trip answered, in one piece."""
    tags = [tag for read, _ in zip(reads, answers, strict=False) for tag in read.tags]
    versions = [answer.vector[EPOCH_BYTES:] for answer in answers]
    return tags, b"".join([answers[0].vector[:EPOCH_BYTES], *versions])


def _found(read: CacheRead, found: bytes, value: bytes) -> CacheAnswer:
    number, left_ms, fresh_ms = _FOUND.unpack_from(found)
    vector = found[_FOUND.size :]
    state, has_value, has_lease = _CACHE_STATES[number]
    if len(vector) != EPOCH_BYTES + 4 * len(read.tags):
        raise ValueError(f"the vector has {len(vector)} bytes")
    return CacheAnswer(state, value if has_value else None, left_ms, vector, fresh_ms, has_lease)
