"""How an item lies in memory: a header of 48 bytes, the key, the value, the tags and their vector.

The key's bytes are part of the item because a `str` that outlived its call would lie in one of the interpreter's pools,
where one survivor keeps a whole page. What a hit reads stands first in the header.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

# Items begin at multiples of this, so that a place fits into 32 bits: a segment's number, and where in it the item begins.
ALIGNED_BYTES, ALIGNED_BITS = 8, 3
PLACE_BITS = 17
PLACE_MASK = 2**PLACE_BITS - 1
MOST_SEGMENTS = 2**15 - 1

# 30 bits of a key's hash: what the interpreter computes with fastest. Never 0, which is a free place of the index.
DIGEST_MASK = 2**30 - 1

HEADER = Struct("<BBHIIdQIIIfI")
HEADER_BYTES = HEADER.size
# Of the header what a hit needs; the rest is read when it turns out to be needed.
HIT = Struct("<BB2xIIdQ")
CHECKED_AT, CHECKED = 20, Struct("<Q")
STALE_AT, STALE = 40, Struct("<f")
MOST_VECTOR_BYTES = 2**16 - 1

# Flags of an item.
OBJECT, META, VERSIONED = 1, 2, 4

# What an item's first byte says: not read since it was put or moved; read; read before the last look of
# `b1.cache.warming`, which eviction takes for the same; no longer in the index.
UNREAD, READ, READ_BEFORE, GONE = 0, 1, 2, 3


class Header(NamedTuple):
    """The header by names, for all but the hot path.

    Attributes:
        state: `UNREAD`, `READ`, `READ_BEFORE` or `GONE`.
        expires_s: when its fresh time is over, on the monotonic clock; it lives `stale_s` longer.
        checked: the source's `changes` when it was last validated.
        beside_bytes: what the item is accounted at beside the segment: an object, a `meta`.
        tenant: its owner's number.
        digest: its key's.
    """

    state: int
    flags: int
    vector_bytes: int
    key_bytes: int
    value_bytes: int
    expires_s: float
    checked: int
    tags_bytes: int
    beside_bytes: int
    tenant: int
    stale_s: float
    digest: int

    @property
    def item_bytes(self) -> int:
        """What the item takes in its segment."""
        content_bytes = self.key_bytes + self.value_bytes + self.tags_bytes + self.vector_bytes
        return HEADER_BYTES + content_bytes + ALIGNED_BYTES - 1 & -ALIGNED_BYTES  # `item_bytes`, without the call


class Item(NamedTuple):
    """What is to be stored.

    Attributes:
        digest, name: the key's.
        data: the value's bytes; empty for an object.
        tags, vector: what it is validated by, as bytes.
        item_bytes: what it takes in a segment.
        beside_bytes: what `value` and `meta` are accounted at.
        value, meta: an object, and a small object beside the value; None where the flags do not name them.
    """

    digest: int
    name: bytes
    data: bytes
    tags: bytes
    vector: bytes
    flags: int
    item_bytes: int
    beside_bytes: int
    stale_s: float
    expires_s: float
    checked: int
    value: Any
    meta: Any

    def parts(self, state: int, tenant: int) -> tuple[bytes, ...]:
        """Return what is written into a segment, one after the other."""
        header = HEADER.pack(
            state,
            self.flags,
            len(self.vector),
            len(self.name),
            len(self.data),
            self.expires_s,
            self.checked,
            len(self.tags),
            self.beside_bytes,
            tenant,
            self.stale_s,
            self.digest,
        )
        return header + self.name, self.data, self.tags + self.vector


def item_bytes(content_bytes: int) -> int:
    """Return what an item takes in a segment, its header and the gap behind it included."""
    return HEADER_BYTES + content_bytes + ALIGNED_BYTES - 1 & -ALIGNED_BYTES


def digest_of(key: str) -> int:
    """Return 30 bits of the key's hash, which is salted for each process."""
    return hash(key) & DIGEST_MASK or 1


def name_of(key: str) -> bytes:
    """Return the key as bytes; no two keys have the same."""
    try:
        return key.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return key.encode("utf-8", "surrogatepass")


def key_of(name: bytes) -> str:
    """Return the key of `name_of`."""
    return name.decode("utf-8", "surrogatepass")
