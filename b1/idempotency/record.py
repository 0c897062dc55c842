"""What is remembered of a finished request, and its bytes. Pure.

Layout, big endian: version u8, flags u8, status u16, original wall time in ms u64, length of the metadata u32, length of
the stored body u32, CRC-32 of all the rest u32; then the metadata (JSON) and the body. Bytes that do not add up are
never replayed: `decode` raises, and the request gets 503 instead of somebody's garbage.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import orjson

from b1.errors import StoreUnavailable
from b1.idempotency.options import MAX_STORED_BODY_BYTES
from b1.units import KIB

COMPRESS_FROM_BYTES = KIB
_VERSION = 1
_COMPRESSED = 0b01
_UNSTORED = 0b10
# The one header that nearly every answer has, as one bit.
_JSON = 0b100
_JSON_HEADER = (b"content-type", b"application/json")
_HEAD = struct.Struct(">BBHQIII")
_MAX_ENTITY_LENGTH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An answer that can be given again.

    Attributes:
        original_ms: wall time of the first answer, in milliseconds since 1970.
        entity: id of what was made, from the body's ``id`` or the end of Location; empty when neither is there.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    original_ms: int
    entity: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unstored:
    """The effect happened and its answer was not kept (streamed, or over the cap)."""

    original_ms: int
    actor: str = ""


Outcome = Record | Unstored


def entity_of(headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> str:
    """Return the id of what the answer is about, or an empty string."""
    fields = dict(headers)
    if b"json" in fields.get(b"content-type", b"") and b"content-encoding" not in fields:
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        found = value.get("id") if isinstance(value, dict) else None
        if isinstance(found, str | int) and not isinstance(found, bool):
            return str(found)[:_MAX_ENTITY_LENGTH]
    location = fields.get(b"location", b"").decode("latin-1").partition("?")[0].rstrip("/")
    return location.rpartition("/")[2][:_MAX_ENTITY_LENGTH]


def encode(outcome: Outcome) -> bytes:
    """Return the bytes of an outcome."""
    if isinstance(outcome, Unstored):
        return _pack(_UNSTORED, 0, outcome.original_ms, [[], "", outcome.actor], b"")
    flags, stored, body = 0, outcome.headers, outcome.body
    if stored[-1:] == (_JSON_HEADER,):
        flags, stored = _JSON, stored[:-1]
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in stored]
    if len(body) > COMPRESS_FROM_BYTES:
        smaller = zlib.compress(body, level=1)
        if len(smaller) < len(body):
            flags, body = flags | _COMPRESSED, smaller
    return _pack(flags, outcome.status, outcome.original_ms, [headers, outcome.entity, outcome.actor], body)


def _pack(flags: int, status: int, original_ms: int, meta: list[Any], body: bytes) -> bytes:
    # json and not orjson: actors are the application's strings and may hold what UTF-8 cannot.
    text = json.dumps(meta, separators=(",", ":")).encode()
    sizes = (len(text), len(body))
    checksum = zlib.crc32(_HEAD.pack(_VERSION, flags, status, original_ms, *sizes, 0) + text + body)
    return _HEAD.pack(_VERSION, flags, status, original_ms, *sizes, checksum) + text + body


def decode(data: bytes) -> Outcome:
    """Return the outcome in `data`.

    Raises:
        StoreUnavailable: the bytes are damaged, or of a version that this program does not know.
    """
    try:
        return _unpack(bytes(data))
    except (ValueError, struct.error, zlib.error, TypeError, RecursionError) as error:
        raise StoreUnavailable("the record of this Idempotency-Key cannot be read") from error


def _unpack(data: bytes) -> Outcome:
    version, flags, status, original_ms, meta_bytes, body_bytes, checksum = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise ValueError(f"record version is {version}, expected {_VERSION}")
    if len(data) != _HEAD.size + meta_bytes + body_bytes:
        raise ValueError(f"record has {len(data)} bytes, expected {_HEAD.size + meta_bytes + body_bytes}")
    unsigned = _HEAD.pack(version, flags, status, original_ms, meta_bytes, body_bytes, 0)
    if zlib.crc32(unsigned + data[_HEAD.size :]) != checksum:
        raise ValueError("the checksum differs")
    # A later version may say more.
    headers, entity, actor, *_ = json.loads(data[_HEAD.size : _HEAD.size + meta_bytes])
    if flags & _UNSTORED:
        return Unstored(original_ms=original_ms, actor=actor)
    if not 200 <= status <= 599:
        raise ValueError(f"status is {status}, expected 200 to 599")
    body = data[_HEAD.size + meta_bytes :]
    stored = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
    return Record(
        status=status,
        headers=(*stored, _JSON_HEADER) if flags & _JSON else stored,
        body=_inflate(body) if flags & _COMPRESSED else body,
        original_ms=original_ms,
        entity=entity,
        actor=actor,
    )


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(body, MAX_STORED_BODY_BYTES + 1)
    if not inflater.eof or len(plain) > MAX_STORED_BODY_BYTES:
        raise ValueError("the compressed body is truncated or larger than any that is stored")
    return plain
