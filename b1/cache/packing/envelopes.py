"""Makes envelopes of values and values of envelopes: compression, dictionaries, checks.

Large values are compressed in a thread: zstd works without the interpreter's lock, and 256 KB at the level of cold values
would hold the loop for milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from b1.cache.options import CacheOptions, Residence
from b1.cache.packing.codec import COLD, EXTENDABLE, PACKED, RAW, Head, Packed, open_sealed, pack, seal, unpack
from b1.cache.packing.dictionaries import Dictionaries
from b1.cache.packing.zstandard import Zstd

# Compressing this much takes about a millisecond at level 3, and ten times that at level 9.
_LONG_BYTES, _LONG_COLD_BYTES = 128 * 1024, 16 * 1024


class Opened(NamedTuple):
    """A value and what its envelope says; `same_tags`: it was stored with the tags that were given."""

    head: Head
    value: bytes
    same_tags: bool


class Envelopes:
    """Seals and opens.

    Args:
        on_unknown: called with the namespace and id of a dictionary that an entry was written with and nobody here has.
    """

    def __init__(
        self, options: CacheOptions, dictionaries: Dictionaries, on_unknown: Callable[[str, int], None]
    ) -> None:
        self._options = options
        self._dictionaries = dictionaries
        self._on_unknown = on_unknown
        self._zstd = Zstd()
        self._long = asyncio.Lock()  # one large value at a time: level 9 takes 20 MB while it runs

    def __repr__(self) -> str:
        return f"<Envelopes {self._zstd!r} {self._dictionaries!r}>"

    async def seal(
        self,
        name: str,
        namespace: str,
        value: bytes,
        tags: tuple[str, ...],
        *,
        is_raw: bool,
        residence: Residence,
        created_ms: int,
        life_s: float,
        fresh_s: float,
        delta_s: float,
    ) -> bytes:
        """Return the envelope of a value."""
        is_cold = residence.tier == "cold"
        packed = await self._packed(namespace, value, is_cold=is_cold)
        flags = packed.flags | RAW * is_raw | COLD * is_cold | EXTENDABLE * residence.may_extend
        head = Head(
            flags,
            created_ms,
            int(fresh_s * 1000),
            int(life_s * 1000),
            int(delta_s * 1000),
            packed.dictionary,
            len(value),
        )
        return seal(name, tags, head, packed.data)

    def seal_plain(self, name: str, value: bytes, tags: tuple[str, ...]) -> bytes:
        """Return the envelope of bytes that nothing is done with."""
        return seal(name, tags, Head(RAW, 0, 0, 0, 0, size=len(value)), value)

    async def open(self, name: str, namespace: str, envelope: bytes, tags: tuple[str, ...]) -> Opened:
        """Return the value of an envelope.

        Raises:
            Broken: it is none, or not this entry's.
        """
        head, payload, same_tags = open_sealed(name, tags, envelope)
        dictionary = self._dictionaries.known(head.dictionary) if head.dictionary else None
        packed = Packed(head.flags & PACKED, head.dictionary, payload)
        if head.dictionary and dictionary is None:
            self._on_unknown(namespace, head.dictionary)
        limit_bytes = self._options.value_limit_bytes
        if packed.flags and len(payload) >= _LONG_BYTES:
            async with self._long:
                value = await asyncio.to_thread(unpack, Zstd(), packed, head.size, limit_bytes, dictionary)
        else:
            value = unpack(self._zstd, packed, head.size, limit_bytes, dictionary)
        return Opened(head, value, same_tags)

    async def _packed(self, namespace: str, value: bytes, *, is_cold: bool) -> Packed:
        options = self._options
        level = options.cold_level if is_cold else options.warm_level
        dictionary = self._dictionaries.of(namespace) if len(value) <= self._dictionaries.most_bytes else None
        if len(value) < (_LONG_COLD_BYTES if is_cold else _LONG_BYTES):
            return pack(
                self._zstd, value, level=level, from_bytes=options.compress_from_bytes, saving=options.saving,
                dictionary=dictionary,
            )  # fmt: skip
        async with self._long:
            return await asyncio.to_thread(
                lambda: pack(Zstd(), value, level=level, from_bytes=options.compress_from_bytes, saving=options.saving)
            )
