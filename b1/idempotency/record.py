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
from typing import Any, NamedTuple

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
_NO_CHECKSUM = bytes(4)
_CHECKSUM_AT = _HEAD.size - len(_NO_CHECKSUM)
_MAX_ENTITY_LENGTH = 128


class Record(NamedTuple):
    """An answer that can be given again. A tuple, because a replay builds one.

    Attributes:
        original_ms: wall time of the first answer, in milliseconds since 1970.
        entity: id of what was made, from the body's ``id`` or the end of Location; empty when neither is there.
        is_compared: the request that gets it asked for the same; False: nobody could say (see `fingerprint.compare`). Not
            stored.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    original_ms: int
    entity: str = ""
    actor: str = ""
    is_compared: bool = True


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
    sizes, rest = (len(text), len(body)), text + body
    checksum = _checksum(_HEAD.pack(_VERSION, flags, status, original_ms, *sizes, 0), rest)
    return _HEAD.pack(_VERSION, flags, status, original_ms, *sizes, checksum) + rest


def _checksum(unsigned: bytes, rest: bytes) -> int:
    return zlib.crc32(rest, zlib.crc32(unsigned))


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
    body_at = _HEAD.size + meta_bytes
    if len(data) != body_at + body_bytes:
        raise ValueError(f"record has {len(data)} bytes, expected {body_at + body_bytes}")
    if _checksum(data[:_CHECKSUM_AT] + _NO_CHECKSUM, data[_HEAD.size :]) != checksum:
        raise ValueError("the checksum differs")
    # A later version may say more.
    headers, entity, actor, *_ = _meta(data[_HEAD.size : body_at])
    if flags & _UNSTORED:
        return Unstored(original_ms=original_ms, actor=actor)
    if not 200 <= status <= 599:
        raise ValueError(f"status is {status}, expected 200 to 599")
    body = data[body_at:]
    stored = tuple([(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers])
    return Record(
        status,
        (*stored, _JSON_HEADER) if flags & _JSON else stored,
        _inflate(body) if flags & _COMPRESSED else body,
        original_ms,
        entity,
        actor,
    )


def _meta(text: bytes) -> list[Any]:
    try:
        found: list[Any] = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = json.loads(text)  # which reads what `_pack` may write, see there
    return found


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(body, MAX_STORED_BODY_BYTES + 1)
    if not inflater.eof or len(plain) > MAX_STORED_BODY_BYTES:
        raise ValueError("the compressed body is truncated or larger than any that is stored")
    return plain
