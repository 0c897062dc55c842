"""The envelope around a value in the shared store, version 1. Whatever does not add up is none, and never an error.

    offset  size
    0       2     magic "b1"
    2       1     version: 1
    3       1     flags: 1 the value is bytes as they are (else JSON) · 2 compressed with zstd · 4 the tier is cold
                  8 may be kept longer when it is read often · others are not known, so the envelope is none
    4       8     created, milliseconds since 1970, of the clock of whoever loaded it: for people and for the age
    12      4     fresh for so many ms after it was stored
    16      4     and gone after so many
    20      4     how long the load took, in ms
    24      4     dictionary, 0 for none
    28      4     size of the value when it is not compressed
    32      4     CRC-32 of the payload
    36      8     digest of the entry's name: another key's payload is none of ours
    44      4     digest of its tags, in their order
    48            payload

Age is computed from what the store says is left of an entry's life, on the store's clock alone: hosts whose clocks
disagree agree about it. Never pickle: bytes from a shared store must not be able to run anything.
"""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b
from typing import NamedTuple

from b1.cache.packing.zstandard import Dictionary, Unreadable, Zstd

VERSION = 1
RAW, PACKED, COLD, EXTENDABLE = 1, 2, 4, 8
_KNOWN_FLAGS = RAW | PACKED | COLD | EXTENDABLE
_MAGIC = b"b1"
_HEAD = struct.Struct(">2sBBQIIIIII8s4s")
_U32_MOST = 2**32 - 1


class Head(NamedTuple):
    """What an envelope says about its value."""

    flags: int
    created_ms: int
    fresh_ms: int
    life_ms: int
    delta_ms: int
    dictionary: int = 0
    size: int = 0


class Packed(NamedTuple):
    """A payload, compressed or not."""

    flags: int
    dictionary: int
    data: bytes


class Broken(Exception):
    """The envelope is none; `cause` is a short fixed word for a counter."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class UnknownDictionary(Broken):
    """All is well, except that the dictionary is not here (yet)."""

    def __init__(self, dictionary_id: int) -> None:
        super().__init__("dictionary")
        self.dictionary_id = dictionary_id


def pack(
    zstd: Zstd,
    value: bytes,
    *,
    level: int,
    from_bytes: int,
    saving: float,
    dictionary: Dictionary | None = None,
) -> Packed:
    """Compress the value when that saves enough. A dictionary makes small values worth trying."""
    if len(value) < (from_bytes if dictionary is None else _SMALLEST):
        return Packed(0, 0, value)
    data = zstd.compress(value, level, dictionary)
    if len(data) > len(value) * (1.0 - saving):
        return Packed(0, 0, value)
    return Packed(PACKED, 0 if dictionary is None else dictionary.id, data)


def unpack(zstd: Zstd, packed: Packed, size: int, limit_bytes: int, dictionary: Dictionary | None) -> bytes:
    """Return the value.

    Raises:
        Broken: it is not what it claims to be, or larger than is believed.
    """
    if size > limit_bytes:
        raise Broken("too_large")
    if not packed.flags & PACKED:
        if len(packed.data) != size:
            raise Broken("truncated")
        return packed.data
    if packed.dictionary and dictionary is None:
        raise UnknownDictionary(packed.dictionary)
    try:
        return zstd.decompress(packed.data, size, dictionary)
    except Unreadable as error:
        raise Broken("unreadable") from error


def seal(name: str, tags: tuple[str, ...], head: Head, payload: bytes) -> bytes:
    """Return the envelope of a payload."""
    return _HEAD.pack(
        _MAGIC,
        VERSION,
        head.flags,
        head.created_ms,
        min(head.fresh_ms, _U32_MOST),
        min(head.life_ms, _U32_MOST),
        min(head.delta_ms, _U32_MOST),
        head.dictionary,
        head.size,
        zlib.crc32(payload),
        digest_of(name),
        digest_of("\0".join(tags), 4),
    ) + payload  # fmt: skip


def open_sealed(name: str, tags: tuple[str, ...], envelope: bytes) -> tuple[Head, bytes, bool]:
    """Return what an envelope says, its payload, and whether it was stored with these tags.

    The store itself knows which tags an entry depends on. A copy kept elsewhere with other tags would miss some.

    Raises:
        Broken: it is no envelope, one of a version that is not known, damaged, or another key's.
    """
    if len(envelope) < _HEAD.size or envelope[:2] != _MAGIC:
        raise Broken("gibberish")
    _, version, flags, created, fresh, life, delta, dictionary, size, crc, digest, tagged = _HEAD.unpack_from(envelope)
    if version != VERSION or flags & ~_KNOWN_FLAGS:
        raise Broken("version")
    if digest != digest_of(name):
        raise Broken("other_key")
    payload = envelope[_HEAD.size :]
    if zlib.crc32(payload) != crc:
        raise Broken("damaged")
    if dictionary and not flags & PACKED:
        raise Broken("damaged")
    if fresh > life:
        raise Broken("times")
    head = Head(flags, created, fresh, life, delta, dictionary, size)
    return head, payload, tagged == digest_of("\0".join(tags), 4)


def digest_of(name: str, size: int = 8) -> bytes:
    """Return bytes that stand for a name."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=size).digest()


# Below this even a dictionary saves less than the envelope costs.
_SMALLEST = 64
