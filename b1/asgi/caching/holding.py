"""Stored answers in the in-process map: the identity lies there as the frame that a client who takes zstd gets.

An answer's bodies have places, one behind the other, in bytes that need not exist as such: who sends one takes its slice
(`Bodies`), and only the slice of the identity has to be unpacked. So a hit costs nothing more for who takes zstd, for
who has a gzip variant here, and for a 304.
"""

from __future__ import annotations

from b1.asgi.caching.compression import ZSTD
from b1.asgi.caching.stored import Frame, StoredAnswer
from b1.cache.l1.table import Found
from b1.cache.packing.holding import HoldingMap, Saving, checked, with_crc
from b1.cache.packing.zstandard import Unreadable
from b1.types import Versions


class Bodies:
    """The bodies of a packed answer; `len` and slices are those of the bytes that the answer was made with.

    Slices begin and end where a variant does.
    """

    __slots__ = ("_answer", "_data", "_found", "_frame", "_key", "_map")

    def __init__(
        self, answers: AnswerMap, key: str, found: Found, answer: StoredAnswer, frame: Frame, data: bytes
    ) -> None:
        self._map = answers
        self._key = key
        self._found = found
        self._answer = answer
        self._frame = frame
        self._data = data

    def __repr__(self) -> str:
        return f"<Bodies {self._answer!r} held_bytes={len(self._data)}>"

    def __len__(self) -> int:
        return self._answer.whole_bytes

    def __getitem__(self, part: slice) -> bytes:
        """Return the body of one variant.

        Raises:
            Unreadable: it is none any more, and the entry is gone; a checksum was right, so this does not happen.
        """
        start, size = part.start, self._answer.identity.end
        if start >= size:
            return self._data[start - size : part.stop - size]
        body = self._map.unpacked(self._key, self._found, self.frame(), size)
        if body is None:
            raise Unreadable("a stored answer is damaged")
        return body if start == 0 and part.stop == size else body[start : part.stop]

    def frame(self) -> bytes:
        """Return the identity as it lies here."""
        size = self._answer.identity.end
        return self._data[self._frame.start - size : self._frame.end - size]

    def bodies(self) -> bytes:
        """Return the bytes that the answer was made with: those of all variants that it names."""
        end, size = max(one.end for one in self._answer.variants.values()), self._answer.identity.end
        return self[0:size] + self._data[: end - size]


class AnswerMap(HoldingMap):
    """The map as the response cache sees it: what `find` returns has a `StoredAnswer` beside it, and perhaps `Bodies`."""

    def find(self, key: str) -> Found | None:
        """Return the entry, also when it is stale; see `L1.find`."""
        found = self._find(key)
        if found is None:
            if key in self._ready:
                self.forget_ready(key)
            return None
        answer: StoredAnswer = found.meta
        frame = answer.frame
        if frame is not None:
            data = checked(found.value)
            if data is None:
                self.damaged(key)
                return None
            # Not `found` itself, which would hold what holds it, and the bytes until the collector comes.
            seen = Found(None, answer, found.is_stale, found.expires_s)
            found.value = Bodies(self, key, seen, answer, frame, data)
        return found

    def keep(
        self,
        key: str,
        answer: StoredAnswer,
        body: bytes,
        *,
        frame: bytes | None,
        ttl_s: float,
        stale_s: float,
        versions: Versions,
        owner: str,
    ) -> bool:
        """Store an answer; say whether it was stored.

        Args:
            body: of all its variants.
            frame: its identity packed, as `frame_of` returns it; None: it is kept as it is.
        """
        self.before_put(key)
        if frame is not None:
            answer, body = self._packed(answer, body, frame)
        return self.behind.put(key, body, ttl_s=ttl_s, versions=versions, stale_s=stale_s, meta=answer, owner=owner)

    def frame_of(self, answer: StoredAnswer, body: bytes) -> bytes | None:
        """Return the identity as a frame where it should lie here as one."""
        size = answer.identity.end
        packed = answer.variants.get(ZSTD)
        if packed is not None:
            frame = body[packed.start : packed.end]
            return frame if self.pays(frame, size) else None
        return self.frame(body[:size])

    def _packed(self, answer: StoredAnswer, body: bytes, frame: bytes) -> tuple[StoredAnswer, bytes]:
        """Return what is kept of an answer that is packed: one of its own, because who waits for this one gets `body`."""
        size, known = answer.identity.end, answer.variants.get(ZSTD)
        rest = body[size:]
        start = len(body) if known is None else known.start
        if known is None:
            rest += frame
        kept = answer.copy()
        kept.frame = Frame(start, start + len(frame), Saving(self.tally, len(body) - len(rest)))
        return kept, with_crc(rest)
