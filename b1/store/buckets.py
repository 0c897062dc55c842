"""All buckets (GCRA) of one process, within a byte bound that a flood of new keys cannot turn against the limits.

A bucket is one number: the moment at which it is full again, in microseconds. A unit moves it by the time in which one
flows back, so a bucket that is full needs no entry. The formulas here and in ``lua/shared/bucket.lua`` are the same.

As with windows, nothing that still counts is evicted: a key for which there is no room shares one of 256 buckets of its
policy with the others of its hash, and starts with a copy of that one when there is room again.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from b1.store.base import Balance, Charge
from b1.store.tally import Drained
from b1.store.timetable import FILING_BYTES, Timetable

OVERFLOW_BUCKETS = 256
# The key string without its characters, the number, a dictionary entry at its emptiest.
ENTRY_BYTES = 190 + FILING_BYTES
_TICK_MS = 1000
_REAP_PER_TAKE = 4
_REAP_WHEN_FULL = 64
_OVERFLOW_MARK = ":~"


class Buckets:
    """A bounded table of buckets; every method is synchronous and complete. Times are microseconds.

    Args:
        limit_bytes: accounted bytes; the shared buckets come on top, 256 per policy at most.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.overflowed = 0
        """How many takes went to a shared bucket because there was no room."""
        self.owed: dict[str, tuple[int, int]] = {}
        """What Redis has not been told of, by key: what was taken here, and the time that an empty bucket takes."""
        self.salt = os.urandom(16)
        self._full_at: dict[str, int] = {}
        self._overflow = 0
        self._timetable = Timetable(_TICK_MS)

    def __len__(self) -> int:
        return len(self._full_at)

    def __repr__(self) -> str:
        return f"Buckets(keys={len(self._full_at)}, held={self.held_bytes}/{self.limit_bytes} B)"

    def fits(self, charge: Charge, now_us: int) -> bool:
        """Say whether the cost can be taken now."""
        every_us = charge.every_us
        return self._full(charge, now_us) + every_us * charge.cost - every_us * charge.depth <= now_us

    def take(self, charge: Charge, now_us: int, *, is_stand_in: bool = False) -> None:
        """Take the cost; a bucket is at most empty. A stand-in for Redis notes what it owes."""
        self.reap(now_us, _REAP_PER_TAKE)
        every_us = charge.every_us
        most_us, taken_us = every_us * charge.depth, every_us * charge.cost
        self._set(charge.key, min(self._full(charge, now_us) + taken_us, now_us + most_us), now_us)
        if is_stand_in and charge.key in self._full_at:
            self.owed[charge.key] = self.owed.get(charge.key, (0, 0))[0] + taken_us, most_us

    def refund(self, charge: Charge, now_us: int) -> None:
        """Give the cost back."""
        key = self._key_of(charge.key)
        if key in self._full_at:
            back_us = charge.every_us * charge.cost
            self._full_at[key] = max(now_us, self._full(charge, now_us) - back_us)
            if key in self.owed:
                owed_us, most_us = self.owed[key]
                self.owed[key] = max(0, owed_us - back_us), most_us

    def balance(self, charge: Charge, fits: bool, now_us: int) -> Balance:
        """Return where the bucket stands; `fits` was found before anything was taken."""
        every_us, depth = charge.every_us, charge.depth
        full_us = self._full(charge, now_us)
        remaining = (now_us + every_us * depth - full_us) // every_us

        def wait_ms(units: int) -> int:
            return max(0, -(-(full_us + every_us * units - every_us * depth - now_us) // 1000))

        retry_ms = 0 if fits else -1 if charge.cost > depth else wait_ms(charge.cost)
        renew_ms = 0 if remaining > 0 else wait_ms(1)
        return Balance(fits, depth - remaining, remaining, retry_ms, renew_ms, -(-(full_us - now_us) // 1000))

    def follow(self, charge: Charge, reset_ms: int, now_us: int) -> None:
        """Know what Redis said: the bucket is full again in `reset_ms`."""
        if charge.key in self._full_at or (reset_ms and self._has_room(charge.key)):
            self._set(charge.key, now_us + reset_ms * 1000, now_us)

    def hand_over(self, keys: list[str], now_us: int) -> list[Drained]:
        """Return what Redis has to be told about these keys, and take them off the list."""
        found = []
        for key in keys:
            owed_us, most_us = self.owed.pop(key, (0, 0))
            left_us = min(most_us, self._full_at.get(key, 0) - now_us)
            if left_us > 0:
                found.append(Drained(key, min(owed_us, left_us), left_us, most_us))
        return found

    def owe(self, drained: list[Drained]) -> None:
        """Redis may not have heard it: it is owed again."""
        for bucket in drained:
            self.owed[bucket.key] = self.owed.get(bucket.key, (0, 0))[0] + bucket.owed_us, bucket.most_us

    def keys(self) -> list[str]:
        """Return the keys of buckets that are each one caller's."""
        return [key for key in self._full_at if _OVERFLOW_MARK not in key]

    def full_at(self, key: str) -> int:
        """Return when a bucket is full, 0 where nothing was taken from it."""
        return self._full_at.get(key, 0)

    def receive(self, key: str, full_us: int, now_us: int, *, owed: tuple[int, int]) -> bool:
        """Go on from what another process knows; False: there is no room."""
        if full_us <= now_us:
            return True
        if key not in self._full_at and not self._has_room(key):
            return False
        self._set(key, max(full_us, self._full_at.get(key, 0)), now_us)
        if owed[1]:
            self.owed[key] = max(owed[0], self.owed.get(key, (0, 0))[0]), owed[1]
        return True

    def reap(self, now_us: int, at_most: int) -> None:
        """Look at up to `at_most` keys that are due, and forget those that are full."""
        for _ in range(at_most):
            key = self._timetable.take(now_us // 1000)
            if key is None:
                return
            full_us = self._full_at.get(key)
            if full_us is None:
                continue
            if full_us > now_us:
                self._timetable.file(key, full_us // 1000)
                continue
            del self._full_at[key]
            self.owed.pop(key, None)
            self._overflow -= _OVERFLOW_MARK in key
            self.held_bytes -= ENTRY_BYTES + len(key)

    def _full(self, charge: Charge, now_us: int) -> int:
        full_us = self._full_at.get(charge.key)
        if full_us is None and self._overflow:
            full_us = self._full_at.get(self._overflow_key(charge.key))
        # Later than an empty one's: from a larger quota, or the clock went back.
        return max(now_us, min(full_us or 0, now_us + charge.every_us * charge.depth))

    def _set(self, key: str, full_us: int, now_us: int) -> None:
        if key not in self._full_at:
            if not self._has_room(key):
                self.reap(now_us, _REAP_WHEN_FULL)
            if not self._has_room(key):
                self.overflowed += 1
                key = self._overflow_key(key)
            if key not in self._full_at:
                self._overflow += _OVERFLOW_MARK in key
                self.held_bytes += ENTRY_BYTES + len(key)
                self._timetable.file(key, full_us // 1000)
        self._full_at[key] = full_us

    def _has_room(self, key: str) -> bool:
        return self.held_bytes + ENTRY_BYTES + len(key) <= self.limit_bytes

    def _key_of(self, key: str) -> str:
        return key if key in self._full_at else self._overflow_key(key)

    def _overflow_key(self, key: str) -> str:
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=1, key=self.salt).digest()
        return f"{key.rpartition(':')[0]}{_OVERFLOW_MARK}{digest[0] % OVERFLOW_BUCKETS}"
