"""Claims and records on their way.

A frame's columns: ``k`` keys, ``f`` fences, ``u`` until_ms, ``m`` is_mirror, ``o`` the fence with which Redis is owed the
record (-1: it is not), ``p`` and ``r`` lengths of fingerprint and record (-1: none); the blob holds both, in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from b1.store.claims import Claims
from b1.store.passed import PassedClaim, Received
from b1.store.passing.budget import Budget
from b1.store.passing.frames import Frame, numbers, pack, pieces, texts
from b1.store.passing.origin import Shift

KIND = "clms"
_ITEMS = 128
_SURVEY_ITEMS = 1024
_CHUNK_BYTES = 64 * 1024
_NONE = -1


class ClaimsOut:
    """Writes the frames of a table.

    Args:
        news: only what changed since `Claims.watch`.
        hold_until_ms: claims in flight are held until then, since their owner may be at work for so long.
        mirrors: also what only mirrors Redis, which is away.
        left: keys that were left in flight; takes those of the first export, for the last one, which tells their end.
    """

    def __init__(self, claims: Claims, *, news: bool, hold_until_ms: int, mirrors: bool, left: set[str]) -> None:
        self._claims = claims
        self._news = news
        self._hold_until_ms = hold_until_ms
        self._mirrors = mirrors
        self._left = left
        self._open: list[str] = []
        self._done: list[tuple[bool, int, int, str]] = []

    def survey(self, now_ms: int) -> Iterator[None]:
        """Sort what there is; with pauses, before the frames."""
        keys = list(self._claims.news or ()) if self._news else self._claims.keys()
        for start in range(0, len(keys), _SURVEY_ITEMS):
            for key in keys[start : start + _SURVEY_ITEMS]:
                passed = self._claims.passing(key, now_ms)
                if passed is None or not (self._mirrors or not passed.is_mirror or key in self._left):
                    continue
                if passed.record is None:
                    self._open.append(key)
                    self._left.add(key)
                else:
                    self._done.append((not passed.is_mirror, passed.until_ms, len(passed.record), key))
            yield
        self._done.sort(reverse=True)

    def open_frames(self, budget: Budget, now_ms: int) -> Iterator[list[bytes]]:
        """Yield what is in flight, and with `news` what was released."""
        for start in range(0, len(self._open), _ITEMS):
            keys = self._open[start : start + _ITEMS]
            yield budget.fit("claims", keys, lambda keys: self._encode(keys, now_ms))

    def done_frames(self, budget: Budget, now_ms: int) -> Iterator[list[bytes]]:
        """Yield the records, this process's own and the newest first."""
        chunk: list[str] = []
        size_bytes = 0
        for _, _, record_bytes, key in self._done:
            if chunk and (len(chunk) == _ITEMS or size_bytes + record_bytes > _CHUNK_BYTES):
                yield budget.fit("records", chunk, lambda keys: self._encode(keys, now_ms))
                chunk, size_bytes = [], 0
            chunk.append(key)
            size_bytes += record_bytes
        if chunk:
            yield budget.fit("records", chunk, lambda keys: self._encode(keys, now_ms))

    def _encode(self, keys: Sequence[str], now_ms: int) -> tuple[bytes, int]:
        found = [passed for key in keys if (passed := self._passing(key, now_ms)) is not None]
        fields = {
            "k": [passed.key for passed in found],
            "f": [passed.fence for passed in found],
            "u": [passed.until_ms for passed in found],
            "m": [int(passed.is_mirror) for passed in found],
            "o": [_NONE if passed.owed is None else passed.owed for passed in found],
            "p": [len(passed.fingerprint) for passed in found],
            "r": [_NONE if passed.record is None else len(passed.record) for passed in found],
        }
        parts = [part for passed in found for part in (passed.fingerprint, passed.record or b"")]
        return pack(KIND, fields, b"".join(parts)), len(found)

    def _passing(self, key: str, now_ms: int) -> PassedClaim | None:
        passed = self._claims.passing(key, now_ms)
        if self._news or passed is None:
            return passed
        if self._claims.news is not None:
            self._claims.news.pop(key, None)
        if passed.record is None and passed.until_ms:
            return passed._replace(until_ms=max(passed.until_ms, self._hold_until_ms))
        return passed if passed.until_ms else None  # a free key needs no successor: its fence is below the floor


class ClaimsIn:
    """Reads the frames into a table.

    Args:
        has_redis: False forgets what is about Redis.
        is_owed: Redis is owed every record that comes.
    """

    def __init__(self, claims: Claims, shift: Shift, *, has_redis: bool, is_owed: bool) -> None:
        self._claims = claims
        self._shift = shift
        self._has_redis = has_redis
        self._is_owed = is_owed

    def take(self, frame: Frame, now_ms: int) -> dict[str, list[Received]]:
        """Take all of a frame; return what became of its claims and of its records.

        Raises:
            ValueError: it does not add up, and nothing was taken.
        """
        fates: dict[str, list[Received]] = {"claims": [], "records": []}
        for passed in self._read(frame):
            fates["claims" if passed.record is None else "records"].append(self._claims.receive(passed, now_ms))
        return fates

    def _read(self, frame: Frame) -> list[PassedClaim]:
        keys = texts(frame.fields, "k")
        count = len(keys)
        fences, ends_ms = numbers(frame.fields, "f", count), numbers(frame.fields, "u", count, least=-(2**53))
        mirrors, owed = numbers(frame.fields, "m", count), numbers(frame.fields, "o", count, least=_NONE)
        prints, records = numbers(frame.fields, "p", count), numbers(frame.fields, "r", count, least=_NONE)
        lengths = [length for pair in zip(prints, records, strict=True) for length in (pair[0], max(0, pair[1]))]
        parts = pieces(frame.blob, lengths)
        return [
            PassedClaim(
                keys[at],
                parts[2 * at],
                fences[at],
                parts[2 * at + 1] if records[at] >= 0 else None,
                self._shift.time(ends_ms[at]),
                bool(mirrors[at]) and self._has_redis,
                self._owed(owed[at], records[at] >= 0),
            )
            for at in range(count)
        ]

    def _owed(self, fence: int, is_record: bool) -> int | None:
        if not self._has_redis or not is_record:
            return None
        if self._is_owed:
            return 0
        return None if fence == _NONE else fence
