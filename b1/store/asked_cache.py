"""The cache's part of a script's call and reply, as ``lua/shared/entry.lua`` describes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from b1.errors import StoreUnavailable
from b1.store.reads import CacheAnswer, CacheState
from b1.store.versions import place_of

_CACHE_STATES = (
    (CacheState.HIT, True, False),
    (CacheState.CURRENT, False, False),
    (CacheState.LEASED, False, False),
    (CacheState.LOADING, False, False),
    (CacheState.MISS, False, False),
    (CacheState.STALE, True, False),
    (CacheState.STALE, True, True),
)


def packed_tags(tags: Sequence[str]) -> bytes:
    """Return the buckets of the tags as the scripts take them."""
    return b"".join([place_of(tag)[0] for tag in tags])


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
