"""Which encoding a client wants, and how a body gets it: gzip from the standard library, zstd where it is installed.

Strict reading: an element of Accept-Encoding with a weight that is none is no element. A request without the field gets
the identity, although it would have to take anything: who does not ask cannot always decode.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

import anyio.to_thread

from b1.asgi.caching.directives import elements
from b1.cache.packing.zstandard import Zstd

IDENTITY, GZIP, ZSTD = b"identity", b"gzip", b"zstd"
# Ours in the order that we prefer at equal weight: zstd packs as well as gzip in a fifth of the time.
ENCODINGS = (ZSTD, GZIP)

_GZIP_LEVEL, _ZSTD_LEVEL = 5, 3
_GZIP_WINDOW = 31  # 15 bits, with gzip's head and tail
# gzip does about 60 MB/s and zstd 300: up to these sizes a body holds the loop for a millisecond at most. A hop into a
# thread costs 0.1 ms, and both release the interpreter's lock.
_GZIP_HERE_BYTES, _ZSTD_HERE_BYTES = 48 * 1024, 256 * 1024
# Larger bodies go out as they are: seconds of the core for one answer.
COMPRESSED_MOST_BYTES = 8 * 1024 * 1024
_QUICK_FROM_BYTES = 1024 * 1024
# What is not smaller by a twelfth is not worth a second variant.
_WORTH_IT = 11 / 12
_REMEMBERED = 256

_ELEMENT = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?")
_TEXT = re.compile(
    rb"text/(?!event-stream)|application/(?:json|xml|javascript|x-javascript|x-ndjson|ndjson|wasm|graphql|yaml"
    rb"|manifest\+json|[^;\s]+\+(?:json|xml|yaml))(?:[;\s]|$)|image/svg\+xml|font/(?:ttf|otf)"
)


class Preferences:
    """What clients accept, by the text of their header: browsers and libraries send a handful of different ones."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, ...]] = {}

    def __repr__(self) -> str:
        return f"<Preferences known={len(self._known)}>"

    def of(self, accept: bytes | None) -> tuple[bytes, ...]:
        """Return the encodings of ours that the client prefers to the identity, the best first."""
        if not accept:
            return ()
        known = self._known.get(accept)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = preferences(accept)
            if len(accept) <= _REMEMBERED:
                self._known[accept] = known
        return known


def preferences(accept: bytes) -> tuple[bytes, ...]:
    """Return the encodings of ours that an Accept-Encoding prefers to the identity, the best first."""
    weights: dict[bytes, float] = {}
    for element in elements((accept,)):
        match = _ELEMENT.fullmatch(element)
        if match is None:
            continue
        name = match[1].lower()
        weights[GZIP if name == b"x-gzip" else name] = float(match[2] or 1)
    others = weights.get(b"*", 0.0)
    identity = weights.get(IDENTITY, 0.0)
    wanted = [(weights.get(name, others), -place, name) for place, name in enumerate(ENCODINGS)]
    return tuple(name for weight, _, name in sorted(wanted, reverse=True) if weight > 0 and weight >= identity)


def is_text(content_type: bytes) -> bool:
    """Say whether a body of this type becomes smaller; images, archives and event streams do not, or must not."""
    return _TEXT.match(content_type.strip().lower()) is not None


class Compressor:
    """Compresses whole bodies, in a thread where it would hold the loop."""

    def __init__(self) -> None:
        self._zstd = Zstd()
        self.done = 0
        self.before_bytes = 0
        self.after_bytes = 0

    def __repr__(self) -> str:
        return f"<Compressor done={self.done} bytes={self.before_bytes}->{self.after_bytes}>"

    async def compress(self, body: bytes, encoding: bytes) -> bytes | None:
        """Return the encoded body; None when that does not pay."""
        if len(body) > COMPRESSED_MOST_BYTES:
            return None
        here_bytes = _GZIP_HERE_BYTES if encoding == GZIP else _ZSTD_HERE_BYTES
        if len(body) <= here_bytes:
            packed = self._zstd.compress(body, _ZSTD_LEVEL) if encoding == ZSTD else _gzip(body)
        else:
            packing: Callable[[bytes], bytes] = _gzip if encoding == GZIP else _zstd_elsewhere
            packed = await anyio.to_thread.run_sync(packing, body)
        self.done += 1
        self.before_bytes += len(body)
        self.after_bytes += len(packed)
        return packed if len(packed) < len(body) * _WORTH_IT else None


def _gzip(body: bytes) -> bytes:
    level = _GZIP_LEVEL if len(body) < _QUICK_FROM_BYTES else 1
    packing = zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
    return packing.compress(body) + packing.flush()


def _zstd_elsewhere(body: bytes) -> bytes:
    return Zstd().compress(body, _ZSTD_LEVEL if len(body) < _QUICK_FROM_BYTES else 1)
