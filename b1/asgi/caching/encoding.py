"""Answers as bytes, for the shared store. Format version 1; what does not add up is none, and never an error.

    offset  size
    0       2    magic "bA"
    2       1    version: 1
    3       1    flags: 1 more variants may be made, 2 the bodies are one frame of Zstandard
    4       2    status
    6       2    number of headers
    8       1    number of variants, the identity first
    9       1    length of the Cache-Control whose max-age depends on the age, 0 for none
    10      4    age in ms when it was stored
    14      4    fresh for so many ms after it was stored
    18      4    may be served while it is refreshed for so many ms after it was stored
    22      4    may be served when the handler fails for so many ms after it was stored
    26      4    gone after so many ms
    30      4    seconds that clients may keep it
    34      16   digest of the key: another request's answer is none of ours
    50      4    CRC-32 of the rest
    54           the Cache-Control; per header u16 length of the name, u32 of the value, name, value;
                 per variant u8 length of the encoding's name, u16 of the ETag, u32 of the body, name, ETag; the bodies

Ages come from what the store says is left of the entry's life, so hosts whose clocks disagree agree about them.
"""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b
from typing import NamedTuple

from b1.asgi.caching.compression import IDENTITY
from b1.asgi.caching.conditional import is_tag
from b1.asgi.caching.directives import date_of, fields_of
from b1.asgi.caching.stored import SharedPairs, StoredAnswer
from b1.cache.packing.zstandard import Unreadable, Zstd
from b1.types import Headers

VERSION = 1
_MAGIC = b"bA"
_HEAD = struct.Struct(">2sBBHHBBIIIIII16sI")
_PAIR = struct.Struct(">HI")
_VARIANT = struct.Struct(">BHI")
_COMPRESSIBLE, _PACKED = 1, 2
# Smaller bodies are not worth a frame; a frame is kept when it is smaller by a seventh. More than the largest answer in all
# its encodings is never unpacked.
_PACK_FROM_BYTES = 1024
_LEVEL = 3
_UNPACKED_MOST_BYTES = 4 * 1024 * 1024
_zstd = Zstd()
_U32_MOST = 2**32 - 1


def digest_of(key: str) -> bytes:
    """Return 16 bytes that stand for a key."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def life_ms(answer: StoredAnswer, now_s: float) -> int:
    """Return for how long the shared store has a use for the answer."""
    until_s = max(answer.fresh_until_s, answer.stale_until_s, answer.error_until_s)
    return max(1, _ms(until_s - now_s))


def encode(key: str, answer: StoredAnswer, body: bytes, now_s: float, frame: bytes | None = None) -> bytes:
    """Return the bytes of an answer.

    Args:
        body: of all variants, as `answer` says where they lie.
        frame: the identity packed, if that is done already.
    """
    told = answer.told or b""
    parts = [told]
    for name, value in answer.common:
        parts += (_PAIR.pack(len(name), len(value)), name, value)
    for variant in answer.variants.values():
        parts += (
            _VARIANT.pack(len(variant.encoding), len(variant.etag), variant.end - variant.start),
            variant.encoding,
            variant.etag,
        )
    if frame is not None and len(answer.variants) == 1:
        packed = frame
    else:
        packed = _zstd.compress(body, _LEVEL) if len(body) >= _PACK_FROM_BYTES else body
    is_packed = len(packed) < len(body) * 6 // 7
    parts.append(packed if is_packed else body)
    rest = b"".join(parts)
    head = _HEAD.pack(
        _MAGIC,
        VERSION,
        (_COMPRESSIBLE if answer.is_compressible else 0) | (_PACKED if is_packed else 0),
        answer.status,
        len(answer.common),
        len(answer.variants),
        len(told),
        _ms(now_s - answer.made_s),
        _ms(answer.fresh_until_s - now_s),
        _ms(answer.stale_until_s - now_s),
        _ms(answer.error_until_s - now_s),
        life_ms(answer, now_s),
        answer.client_ttl_s,
        digest_of(key),
        zlib.crc32(rest),
    )
    return head + rest


class Decoded(NamedTuple):
    """An answer, the bytes of its variants, and its identity packed, where it came so."""

    answer: StoredAnswer
    body: bytes
    frame: bytes | None


def decode(key: str, data: bytes, left_ms: int, now_s: float, pairs: SharedPairs) -> tuple[StoredAnswer, bytes] | None:
    """Return an answer and its bytes; see `decode_packed`."""
    decoded = decode_packed(key, data, left_ms, now_s, pairs)
    return None if decoded is None else (decoded.answer, decoded.body)


def decode_packed(key: str, data: bytes, left_ms: int, now_s: float, pairs: SharedPairs) -> Decoded | None:
    """Return an answer and its bytes; None when the data is not ours, damaged, of another version or another key.

    Args:
        left_ms: what the store says is left of the entry's life.
    """
    if len(data) < _HEAD.size or data[:3] != _MAGIC + bytes((VERSION,)):
        return None
    (_, _, flags, status, headers, variants, told, age_ms, fresh_ms, stale_ms, error_ms, whole_ms, client_ttl_s,
     digest, crc) = _HEAD.unpack_from(data)  # fmt: skip
    rest = memoryview(data)[_HEAD.size :]
    if digest != digest_of(key) or zlib.crc32(rest) != crc or flags & ~(_COMPRESSIBLE | _PACKED):
        return None
    try:
        reader = _Reader(data, _HEAD.size)
        control = reader.take(told)
        common: Headers = [pairs.of(*reader.texts(*reader.unpack(_PAIR))) for _ in range(headers)]
        answer = StoredAnswer(status, pairs.common(common), is_compressible=bool(flags & _COMPRESSIBLE))
        for _ in range(variants):
            name_length, etag_length, length = reader.unpack(_VARIANT)
            encoding, etag = reader.texts(name_length, etag_length)
            if not is_tag(etag):
                return None
            answer.add(encoding, etag, length)
    except (struct.error, IndexError):
        return None
    if next(iter(answer.variants), None) != IDENTITY:
        return None
    size, body = max(one.end for one in answer.variants.values()), data[reader.at :]
    frame: bytes | None = None
    if flags & _PACKED:
        frame = body if len(answer.variants) == 1 else None
        if size > _UNPACKED_MOST_BYTES:
            return None
        try:
            body = _zstd.decompress(body, size)
        except Unreadable:
            return None
    elif len(body) != size:
        return None
    stored_s = now_s - max(0, whole_ms - left_ms) / 1000
    answer.made_s = stored_s - age_ms / 1000
    answer.fresh_until_s, answer.stale_until_s, answer.error_until_s = (
        stored_s + ms / 1000 for ms in (fresh_ms, stale_ms, error_ms)
    )
    answer.told, answer.client_ttl_s = control or None, client_ttl_s
    modified = fields_of(common).get(b"last-modified", [])
    answer.modified_s = date_of(modified[0]) if len(modified) == 1 else None
    return Decoded(answer, body, frame)


class _Reader:
    """Takes pieces from the front; raises IndexError where there are none."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self._data):
            raise IndexError(end)
        piece = self._data[self.at : end]
        self.at = end
        return piece

    def texts(self, first: int, second: int) -> tuple[bytes, bytes]:
        return self.take(first), self.take(second)

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        values: tuple[int, ...] = form.unpack_from(self._data, self.at)
        self.at += form.size
        return values


def _ms(seconds: float) -> int:
    return max(0, min(int(seconds * 1000), _U32_MOST))
