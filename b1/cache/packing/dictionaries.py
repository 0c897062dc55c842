"""Dictionaries for namespaces of many small values: alone, 250 bytes of JSON hardly compress; with one, to a fifth.

A dictionary is trained from samples of what was stored, in a thread, and used only if it pays on samples that it has not
seen. It is named by a digest of its bytes, so a name can never mean two dictionaries: who does not have it yet treats the
entry as a miss and fetches it.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b

from b1.cache.packing.zstandard import Dictionary, Unreadable, Zstd, train
from b1.clock import Clock

# What is worth a dictionary: below, the envelope is larger than what is saved; above, a value compresses by itself.
SMALLEST_BYTES, LARGEST_BYTES = 64, 4096
SAMPLES = 1000
_UNSEEN = 100
# All samples of all namespaces; the namespace with the fewest gives way.
_SAMPLES_LIMIT_BYTES = 768 * 1024
_DICTIONARY_BYTES = 16 * 1024
# Of a namespace's values as they would be without one.
_PAYS_BELOW = 0.7
# A digested dictionary takes some 200 KiB: four namespaces, two each.
_NAMESPACES, _KEPT = 4, 2
_AGAIN_S = 6 * 3600.0


class Dictionaries:
    """Samples, trains and knows dictionaries. Guarded by the event loop."""

    most_bytes = LARGEST_BYTES

    def __init__(self, clock: Clock, *, enabled: bool, level: int) -> None:
        self._clock = clock
        self._enabled = enabled
        self._level = level
        self._samples: dict[str, list[bytes]] = {}
        self._sampled_bytes = 0
        self._not_before_s: dict[str, float] = {}
        self._of: dict[str, list[Dictionary]] = {}
        self._known: dict[int, Dictionary] = {}

    def __repr__(self) -> str:
        return f"<Dictionaries known={len(self._known)} sampled_bytes={self._sampled_bytes}>"

    def __len__(self) -> int:
        return len(self._known)

    def of(self, namespace: str) -> Dictionary | None:
        """Return the dictionary to write with."""
        kept = self._of.get(namespace)
        return kept[-1] if kept else None

    def known(self, dictionary_id: int) -> Dictionary | None:
        """Return a dictionary to read with."""
        return self._known.get(dictionary_id)

    def sample(self, namespace: str, value: bytes) -> bool:
        """Remember a value; say whether there are enough of them to train."""
        if not self._enabled or not SMALLEST_BYTES <= len(value) <= LARGEST_BYTES:
            return False
        if self._clock.monotonic() < self._not_before_s.get(namespace, 0.0):
            return False
        if namespace not in self._of and len(self._of) >= _NAMESPACES:
            return False
        samples = self._samples.setdefault(namespace, [])
        if len(samples) < SAMPLES:
            samples.append(value)
            self._sampled_bytes += len(value)
            self._make_room()
        return len(samples) >= SAMPLES

    async def train(self, namespace: str) -> Dictionary | None:
        """Train from the samples, which are gone then; None when no dictionary pays."""
        samples = self._forget(namespace)
        self._put_off(namespace)
        if len(samples) < SAMPLES:
            return None
        data = await asyncio.to_thread(_trained, samples, self._level)
        return None if data is None else self.adopt(namespace, data)

    def adopt(self, namespace: str, data: bytes) -> Dictionary | None:
        """Use a dictionary for a namespace; None when it is none or there is no room for another namespace."""
        if namespace not in self._of and len(self._of) >= _NAMESPACES:
            return None
        dictionary = self._known.get(id_of(data)) or _made(data)
        if dictionary is None:
            return None
        kept = self._of.setdefault(namespace, [])
        if dictionary not in kept:
            kept.append(dictionary)
        self._known[dictionary.id] = dictionary
        for old in kept[:-_KEPT]:
            self._known.pop(old.id, None)
        del kept[:-_KEPT]
        self._forget(namespace)
        self._put_off(namespace)
        return dictionary

    def _make_room(self) -> None:
        while self._sampled_bytes > _SAMPLES_LIMIT_BYTES:
            self._forget(min(self._samples, key=lambda name: len(self._samples[name])))

    def _forget(self, namespace: str) -> list[bytes]:
        samples = self._samples.pop(namespace, [])
        self._sampled_bytes -= sum(map(len, samples))
        return samples

    def _put_off(self, namespace: str) -> None:
        if len(self._not_before_s) >= 64:
            self._not_before_s.clear()
        self._not_before_s[namespace] = self._clock.monotonic() + _AGAIN_S


def id_of(data: bytes) -> int:
    """Return the name of a dictionary: 32 bits of its digest, never 0."""
    return int.from_bytes(blake2b(data, digest_size=4).digest(), "big") or 1


def _made(data: bytes) -> Dictionary | None:
    if not 0 < len(data) <= 2 * _DICTIONARY_BYTES:
        return None
    try:
        return Dictionary(id_of(data), data)
    except Unreadable:
        return None


def _trained(samples: list[bytes], level: int) -> bytes | None:
    """Train and try; runs in a thread."""
    seen, unseen = samples[_UNSEEN:], samples[:_UNSEEN]
    size = min(_DICTIONARY_BYTES, sum(map(len, seen)) // 8)
    data = train(seen, size)
    if data is None:
        return None
    zstd, dictionary = Zstd(), Dictionary(id_of(data), data)
    plain = sum(min(len(value), len(zstd.compress(value, level))) for value in unseen)
    return data if sum(len(zstd.compress(value, level, dictionary)) for value in unseen) < plain * _PAYS_BELOW else None
