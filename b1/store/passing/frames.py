"""The container of a hand-over: a mark with the major version, then frames that can be read and lost one by one.

A frame: kind (4 letters), length of its payload u32, CRC-32 of kind and payload u32, little endian; the payload: length of
the fields u32, the fields (JSON), a blob. Readers skip kinds and fields that they do not know, so a minor version adds
both; a major version may change everything behind the mark.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

MAJOR, MINOR = 1, 0
_MARK = b"b1-pass"
START = _MARK + bytes([MAJOR])
_FRAME = struct.Struct("<4sII")
_FIELDS = struct.Struct("<I")
OVERHEAD_BYTES = _FRAME.size + _FIELDS.size


class Frame(NamedTuple):
    """One part of a hand-over."""

    kind: str
    fields: dict[str, Any]
    blob: memoryview


class UnknownFormat(ValueError):
    """The bytes are no hand-over, or of a major version that this program does not know."""


def pack(kind: str, fields: Mapping[str, Any], blob: bytes = b"") -> bytes:
    """Return a frame; `kind` has four letters."""
    text = _dumped(fields)
    payload = b"".join((_FIELDS.pack(len(text)), text, blob))
    return _FRAME.pack(kind.encode(), len(payload), zlib.crc32(payload, zlib.crc32(kind.encode()))) + payload


def unpack(data: bytes) -> Iterator[Frame | None]:
    """Yield the frames; None for each that is damaged, and for a tail that is none.

    Raises:
        UnknownFormat: nothing can be read; before the first frame.
    """
    view = memoryview(data)
    if view[: len(_MARK)] != _MARK or len(view) < len(START):
        raise UnknownFormat("this is no hand-over")
    if view[len(_MARK)] != MAJOR:
        raise UnknownFormat(f"format {view[len(_MARK)]}, this version reads {MAJOR}")
    return _frames(view, len(START))


def _frames(view: memoryview, at: int) -> Iterator[Frame | None]:
    while at < len(view):
        if at + _FRAME.size > len(view):
            yield None
            return
        kind, length, checksum = _FRAME.unpack_from(view, at)
        at += _FRAME.size
        payload = view[at : at + length]
        if len(payload) < length:
            yield None
            return
        at += length
        is_whole = length >= _FIELDS.size and zlib.crc32(payload, zlib.crc32(kind)) == checksum
        yield _read(kind, payload) if is_whole else None


def _read(kind: bytes, payload: memoryview) -> Frame | None:
    (length,) = _FIELDS.unpack_from(payload)
    text = payload[_FIELDS.size : _FIELDS.size + length]
    try:
        fields = _loaded(text)
        return Frame(kind.decode(), fields, payload[_FIELDS.size + length :]) if isinstance(fields, dict) else None
    except (ValueError, RecursionError):
        return None


def _dumped(fields: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:  # half a surrogate pair in an application's name, or a number above 64 bits
        return json.dumps(fields, separators=(",", ":")).encode()


def _loaded(text: memoryview) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(bytes(text))


def numbers(fields: Mapping[str, Any], name: str, count: int, *, least: int = 0, most: int = 2**62) -> list[int]:
    """Return a column of `count` whole numbers.

    Raises:
        ValueError: it is none.
    """
    column = fields.get(name)
    if not isinstance(column, list) or len(column) != count:
        raise ValueError(f"column {name} has not {count} values")
    if column and (set(map(type, column)) != {int} or min(column) < least or max(column) > most):
        raise ValueError(f"column {name} has values that are none")
    return column


def texts(fields: Mapping[str, Any], name: str) -> list[str]:
    """Return a column of text.

    Raises:
        ValueError: it is none.
    """
    column = fields.get(name)
    if not isinstance(column, list) or (column and set(map(type, column)) != {str}):
        raise ValueError(f"column {name} is no list of text")
    return column


def pieces(blob: memoryview, lengths: list[int]) -> list[bytes]:
    """Cut a blob into pieces of these lengths.

    Raises:
        ValueError: they do not add up to it.
    """
    if sum(lengths) != len(blob):
        raise ValueError(f"a blob has {len(blob)} bytes, expected {sum(lengths)}")
    found, at = [], 0
    for length in lengths:
        found.append(bytes(blob[at : at + length]))
        at += length
    return found
