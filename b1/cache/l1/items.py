"""A value made ready for the map: which part of it becomes bytes in a segment, and what the rest is accounted at.

Bytes of 128 KiB and more stay an object: the allocator maps such blocks one by one and unmaps them when they are freed
(`b1.plan.ALLOCATOR_ENVIRONMENT` pins that bound), so they return to the system without us, and a hit does not copy them.
Copying 200 KiB out of a segment costs 100 us there, because the copy is a fresh mapping too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from mmap import PAGESIZE
from typing import Any

from b1.cache.l1.layout import META, OBJECT, VERSIONED, Item, digest_of, item_bytes, name_of
from b1.cache.l1.sizes import object_bytes
from b1.types import Versions
from b1.units import KIB

MAPPED_BY_ALLOCATOR_BYTES = 128 * KIB
# What an object's or a meta's place in its segment takes: a slot of a dictionary and its key.
SLOT_BYTES = 96
# Never in UTF-8, so a tag may be any text.
_BETWEEN = b"\xff"


def item_of(
    key: str,
    value: Any,
    held_bytes: int | None,
    meta: Any,
    versions: Versions | tuple[()],
    *,
    stale_s: float,
    expires_s: float,
    changes: int,
) -> Item:
    """Return the item; see `b1.cache.l1.table.L1.put` for the arguments."""
    flags = beside_bytes = 0
    tags = vector = data = b""
    if versions:
        flags = VERSIONED
        tags, vector = packed(versions[0]), versions[1]
    if meta is not None:
        flags |= META
        beside_bytes = object_bytes(meta) + SLOT_BYTES
    if type(value) is bytes and len(value) < MAPPED_BY_ALLOCATOR_BYTES:
        data, value = value, None
        if held_bytes is not None and held_bytes > len(data):
            beside_bytes += held_bytes - len(data)
    else:
        flags |= OBJECT
        if type(value) is bytes:
            # Not copied, even if its buffer is larger than it: the end of a mapping that nobody wrote to takes nothing.
            mapped = (sys.getsizeof(value) // PAGESIZE + 1) * PAGESIZE
            held_bytes = max(mapped, held_bytes or 0)
        beside_bytes += SLOT_BYTES + (object_bytes(value) if held_bytes is None else held_bytes)
    name = name_of(key)
    return Item(
        digest_of(key),
        name,
        data,
        tags,
        vector,
        flags,
        item_bytes(len(name) + len(data) + len(tags) + len(vector)),
        beside_bytes,
        stale_s,
        expires_s,
        changes,
        value,
        meta,
    )


def packed(tags: Sequence[str]) -> bytes:
    """Return the tags as bytes."""
    return _BETWEEN.join([tag.encode("utf-8", "surrogatepass") for tag in tags])


def unpacked(data: bytes) -> tuple[str, ...]:
    """Return the tags of `packed`. Of none and of one empty tag the same bytes are made: none."""
    if not data:
        return ()
    return tuple([tag.decode("utf-8", "surrogatepass") for tag in data.split(_BETWEEN)])
