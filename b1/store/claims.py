"""All claims and records of one process: who owns a key, since which fence, and what came out.

A claim that was released stays as a free entry until its time in the timetable comes: one filing per entry, and the
fence of a key keeps growing.

An entry may mirror one in Redis: it decides nothing while Redis answers, may be dropped to make room, and is what a
duplicate meets when Redis has gone.
"""

from __future__ import annotations

from typing import NamedTuple

from b1.errors import StoreUnavailable
from b1.store.base import GRACE_MS, Claim, ClaimState
from b1.store.passed import NEWS, PassedClaim, Received
from b1.store.timetable import FILING_BYTES, Timetable

# The entry with its slots, dictionary entry at its emptiest, string and bytes headers, the numbers.
ENTRY_BYTES = 392 + FILING_BYTES
_TICK_MS = 1000
_REAP_PER_CLAIM = 4
_REAP_WHEN_FULL = 64
_MIRROR_SHARE = 4
_MIRRORED_RECORD_BYTES = 16 * 1024


class Kept(NamedTuple):
    """A finished claim that Redis has to be told of. `fence` is 0 when it was never claimed there."""

    key: str
    fingerprint: bytes
    fence: int
    record: bytes
    ttl_ms: int


class _Entry:
    """`record` is None while in flight; `until_ms` ends the lease, or the record's life; 0 means free.

    `is_passed`: what is here was decided by another process, and may be changed by its last word.
    """

    __slots__ = ("fence", "fingerprint", "forget_ms", "is_mirror", "is_passed", "record", "until_ms")

    def __init__(self) -> None:
        self.fingerprint = b""
        self.fence = 0
        self.record: bytes | None = None
        self.until_ms = 0
        self.forget_ms = 0
        self.is_mirror = False
        self.is_passed = False

    def size(self, key: str) -> int:
        record = 0 if self.record is None else len(self.record)
        return ENTRY_BYTES + len(key) + len(self.fingerprint) + record


class Claims:
    """A bounded table of claims; every method is synchronous and complete.

    Args:
        limit_bytes: accounted bytes; what does not fit raises `StoreUnavailable`. A record is never evicted before
            its time, because forgetting one means doing its effect twice.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.owed: dict[str, int] = {}
        """Finished keys that Redis does not know, and their fence there (0: none)."""
        self.news: dict[str, None] | None = None
        """Keys that changed since `watch`; None when nobody asked."""
        self._mirrors: dict[str, None] = {}
        self._mirror_bytes = 0
        self._entries: dict[str, _Entry] = {}
        self._timetable = Timetable(_TICK_MS)
        self.last_fence = 0
        """The highest that was given here; the next one is above it."""

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Claims(keys={len(self._entries)}, held={self.held_bytes}/{self.limit_bytes} B)"

    def is_live(self, key: str, now_ms: int) -> bool:
        """Say whether `key` is in flight or finished by what was decided here."""
        entry = self._entries.get(key)
        return entry is not None and entry.until_ms > now_ms and not entry.is_mirror

    def claim(self, key: str, fingerprint: bytes, *, lease_ms: int, now_ms: int, wall_us: int) -> Claim:
        """Become the owner of `key`, or learn who is.

        Raises:
            StoreUnavailable: no room for another claim.
        """
        self.reap(now_ms, _REAP_PER_CLAIM)
        entry = self._entries.get(key)
        if entry is not None and entry.until_ms > now_ms:
            if entry.fingerprint != fingerprint:
                return Claim(ClaimState.MISMATCH, fingerprint=entry.fingerprint)
            if entry.record is not None:
                return Claim(ClaimState.FINISHED, record=entry.record)
            return Claim(ClaimState.IN_FLIGHT, retry_after_ms=entry.until_ms - now_ms)
        entry = self._own(key, entry, fingerprint, now_ms, now_ms + lease_ms)
        # Grows from one process to the next as well, as long as the wall clock does.
        self.last_fence = entry.fence = max(self.last_fence + 1, wall_us)
        return Claim(ClaimState.CLAIMED, fence=entry.fence)

    def renew(self, key: str, fence: int, *, lease_ms: int, now_ms: int) -> bool:
        """Prolong the lease."""
        entry = self._held(key, fence, now_ms)
        if entry is None:
            return False
        entry.until_ms = now_ms + lease_ms
        entry.forget_ms = entry.until_ms + GRACE_MS
        self._note(key)
        return True

    def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int, now_ms: int) -> bool:
        """Replace the claim by its record.

        Raises:
            StoreUnavailable: the record does not fit; the claim stays.
        """
        entry = self._held(key, fence, now_ms)
        if entry is None:
            return False
        if entry.is_mirror:
            self._set_mirror(key, entry, False)
        self._check_room(len(record), now_ms)
        self._store(entry, record, now_ms + ttl_ms)
        self._note(key)
        return True

    def mirror(self, key: str, fingerprint: bytes, fence: int, *, lease_ms: int, now_ms: int) -> None:
        """Follow a claim that this process made in Redis, if there is room."""
        self.reap(now_ms, _REAP_PER_CLAIM)
        size = ENTRY_BYTES + len(key) + len(fingerprint)
        old = self._entries.get(key)
        if (old is None or old.is_mirror) and not self._make_mirror_room(size):
            return
        entry = self._own(key, self._entries.get(key), fingerprint, now_ms, now_ms + lease_ms)
        entry.fence = fence
        self._set_mirror(key, entry, True)

    def mirror_finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int, now_ms: int) -> None:
        """Follow the end of a claim in Redis; a record that is large or finds no room is not followed."""
        entry = self._held(key, fence, now_ms)
        if entry is None or not entry.is_mirror:
            return
        if len(record) > _MIRRORED_RECORD_BYTES or not self._make_mirror_room(len(record), but=key):
            self._drop(key)
            return
        self._store(entry, record, now_ms + ttl_ms)
        self._mirror_bytes += len(record)
        self._note(key)

    def finish_mirror(self, key: str, fence: int, record: bytes, *, ttl_ms: int, now_ms: int) -> bool:
        """Finish here what was claimed in Redis and cannot be finished there; Redis is owed the record.

        Raises:
            StoreUnavailable: the record does not fit.
        """
        entry = self._entries.get(key)
        if entry is None or not entry.is_mirror:
            return False
        if not self.finish(key, fence, record, ttl_ms=ttl_ms, now_ms=now_ms):
            return False
        self.owed[key] = fence
        return True

    def kept(self, key: str, now_ms: int) -> Kept | None:
        """Return a finished claim for Redis; None when its time is over."""
        entry = self._entries.get(key)
        if entry is None or entry.record is None or entry.is_mirror or entry.until_ms <= now_ms:
            return None
        return Kept(key, entry.fingerprint, self.owed.get(key, 0), entry.record, entry.until_ms - now_ms)

    def handed_over(self, key: str, now_ms: int) -> None:
        """Redis has the record: what is kept here is its mirror, or nothing."""
        self.owed.pop(key, None)
        entry = self._entries.get(key)
        if entry is None or entry.is_mirror:
            return
        self._set_mirror(key, entry, True)
        self._make_mirror_room(0)

    def release(self, key: str, fence: int, *, now_ms: int) -> bool:
        """Give the claim up."""
        entry = self._held(key, fence, now_ms)
        if entry is None:
            return False
        entry.until_ms = 0
        self._note(key)
        return True

    def watch(self) -> None:
        """Note from now on which keys change."""
        self.news = {}

    def keys(self) -> list[str]:
        """Return all keys, in the order of their first claim."""
        return list(self._entries)

    def drop_finished(self, key: str) -> bool:
        """Forget a key whose record is kept here, also as a mirror; a claim in flight stays."""
        entry = self._entries.get(key)
        if entry is None or entry.record is None:
            return False
        self._drop(key)
        return True

    def passing(self, key: str, now_ms: int) -> PassedClaim | None:
        """Return an entry for another process; None when nothing is left of it. What is free is `until_ms` 0."""
        entry = self._entries.get(key)
        if entry is None or (entry.record is not None and entry.until_ms <= now_ms):
            return None
        return PassedClaim(
            key, entry.fingerprint, entry.fence, entry.record, entry.until_ms, entry.is_mirror, self.owed.get(key)
        )

    def receive(self, passed: PassedClaim, now_ms: int) -> Received:
        """Go on from what another process decided, unless this one did so itself.

        A claim that is in flight there is in flight here until its lease ends or its owner's last word comes. Nobody
        here holds its fence, and whoever takes it over gets a higher one.
        """
        self.last_fence = max(self.last_fence, passed.fence)
        key, entry = passed.key, self._entries.get(passed.key)
        if entry is not None and not entry.is_passed and entry.until_ms > now_ms:
            return Received.OWN
        if passed.until_ms <= now_ms:
            if entry is not None and entry.is_passed and entry.record is None:
                entry.until_ms = 0
            return Received.TAKEN
        if not self._has_room_for(passed, now_ms):
            return Received.NO_ROOM
        # Making room may have dropped the old one.
        entry = self._own(key, self._entries.get(key), passed.fingerprint, now_ms, passed.until_ms)
        entry.fence, entry.is_passed = passed.fence, True
        if passed.record is not None:
            self._store(entry, passed.record, passed.until_ms)
        if passed.is_mirror:
            self._set_mirror(key, entry, True)
        elif passed.owed is not None:
            self.owed[key] = passed.owed
        return Received.TAKEN

    def _has_room_for(self, passed: PassedClaim, now_ms: int) -> bool:
        size = ENTRY_BYTES + len(passed.key) + len(passed.fingerprint) + len(passed.record or b"")
        if passed.is_mirror:
            return self._make_mirror_room(size, but=passed.key)
        try:
            self._check_room(size, now_ms)
        except StoreUnavailable:
            return False
        return True

    def _note(self, key: str) -> None:
        if self.news is not None and len(self.news) < NEWS:
            self.news[key] = None

    def reap(self, now_ms: int, at_most: int) -> None:
        """Look at up to `at_most` keys that are due, and forget those whose time is over."""
        for _ in range(at_most):
            key = self._timetable.take(now_ms)
            if key is None:
                return
            entry = self._entries.get(key)
            if entry is None:
                continue  # a mirror that had to make room
            if entry.forget_ms > now_ms:
                self._timetable.file(key, entry.forget_ms)
            else:
                self._drop(key)

    def _own(self, key: str, entry: _Entry | None, fingerprint: bytes, now_ms: int, until_ms: int) -> _Entry:
        if entry is None:
            self._check_room(ENTRY_BYTES + len(key) + len(fingerprint), now_ms)
            entry = self._entries[key] = _Entry()
            self._timetable.file(key, until_ms + GRACE_MS)
        else:
            if entry.is_mirror:
                self._set_mirror(key, entry, False)
            self.held_bytes -= entry.size(key)
        self.owed.pop(key, None)
        self._note(key)
        entry.is_passed = False
        entry.fingerprint = fingerprint
        entry.record = None
        entry.until_ms = until_ms
        entry.forget_ms = until_ms + GRACE_MS
        self.held_bytes += entry.size(key)
        return entry

    def _held(self, key: str, fence: int, now_ms: int) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None or entry.fence != fence or entry.record is not None or entry.until_ms == 0:
            return None
        return entry if entry.forget_ms > now_ms else None

    def _store(self, entry: _Entry, record: bytes, until_ms: int) -> None:
        entry.record = record
        entry.until_ms = entry.forget_ms = until_ms
        self.held_bytes += len(record)

    def _drop(self, key: str) -> None:
        entry = self._entries[key]
        if entry.is_mirror:
            self._set_mirror(key, entry, False)
        self.owed.pop(key, None)
        self.held_bytes -= entry.size(key)
        del self._entries[key]

    def _set_mirror(self, key: str, entry: _Entry, is_mirror: bool) -> None:
        entry.is_mirror = is_mirror
        if is_mirror:
            self._mirrors[key] = None
            self._mirror_bytes += entry.size(key)
        else:
            del self._mirrors[key]
            self._mirror_bytes -= entry.size(key)

    def _make_mirror_room(self, size: int, *, but: str = "") -> bool:
        """Drop the oldest mirrors until one more of `size` bytes fits their share."""
        limit = min(self.limit_bytes // _MIRROR_SHARE, self.limit_bytes - self.held_bytes + self._mirror_bytes)
        while self._mirror_bytes + size > limit:
            oldest = next((key for key in self._mirrors if key != but), None)
            if oldest is None:
                return False
            self._drop(oldest)
        return True

    def _check_room(self, size: int, now_ms: int) -> None:
        if self.held_bytes + size > self.limit_bytes:
            self.reap(now_ms, _REAP_WHEN_FULL)
        while self.held_bytes + size > self.limit_bytes and self._mirrors:
            self._drop(next(iter(self._mirrors)))
        if self.held_bytes + size > self.limit_bytes:
            raise StoreUnavailable(f"the memory store's records hold {self.held_bytes} of {self.limit_bytes} bytes")
