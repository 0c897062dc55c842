"""Who is shut out, as this process knows it: asked before anything else, so that an attack costs nearly nothing.

An entry never outlives what the store said. It is confirmed there every few seconds by one request, since another process
may have pardoned somebody. Whoever keeps asking while it is shut out knocks; the store hears of that when the block is over
(see `b1.store.terms.Offender`).
"""

from __future__ import annotations

from dataclasses import dataclass

from b1.limiter.deciding import waiting
from b1.limiter.decision import Decision
from b1.store.terms import Penalty, PenaltyRule

Key = str | bytes | tuple[str, str]
# How long others are still refused while one asks whether the block goes on.
_ASKING_MS = 1000


@dataclass(slots=True)
class _Entry:
    until_ms: int
    ask_ms: int
    level: int
    decision: Decision
    told_s: int  # the wait that `decision` tells
    clear_ms: int = 0  # when no knock is left
    struck_ms: int = -(2**62)
    hits: int = 0


class DenyCache:
    """A bounded table; the oldest entry goes first, and then the store is asked.

    Args:
        rule: how knocks add up.
        limit: callers, each about 600 bytes.
        confirm_ms: how long the store's word is taken.
    """

    def __init__(self, rule: PenaltyRule, *, limit: int = 4096, confirm_ms: int = 5000) -> None:
        self.hits = 0
        """Requests refused from here since the start."""
        self._rule = rule
        self._limit = limit
        self._confirm_ms = confirm_ms
        self.entries: dict[Key, _Entry] = {}
        """Who is shut out; look whether it is empty before anything else, it mostly is."""

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"DenyCache(entries={len(self.entries)}/{self._limit}, hits={self.hits})"

    def find(self, key: Key, now_ms: int) -> Decision | None:
        """Return the refusal of one who is shut out, and count the knock; None: the store has to be asked."""
        entry = self.entries.get(key)
        if entry is None:
            return None
        if now_ms >= entry.ask_ms:
            entry.ask_ms = min(entry.until_ms, now_ms + _ASKING_MS)
            return None
        self.hits += 1
        if now_ms - entry.struck_ms >= self._rule.apart_ms:
            entry.struck_ms = now_ms
            entry.clear_ms = max(now_ms, entry.clear_ms) + self._rule.decay_ms
        wait_s = -(-(entry.until_ms - now_ms) // 1000)
        if wait_s != entry.told_s:
            entry.told_s, entry.decision = wait_s, waiting(entry.decision, wait_s)
        return entry.decision

    def knocks(self, key: Key, now_ms: int) -> int:
        """Return how often one has knocked that the store has not heard of."""
        entry = self.entries.get(key)
        return 0 if entry is None else -(-max(0, entry.clear_ms - now_ms) // self._rule.decay_ms)

    def note(self, key: Key, penalty: Penalty, decision: Decision, now_ms: int) -> bool:
        """Take the store's word: shut out, with this refusal, or not; say whether that is news."""
        if not penalty.blocked_ms:
            self.entries.pop(key, None)
            return False
        entry = self.entries.get(key)
        until_ms = now_ms + penalty.blocked_ms
        if entry is not None and entry.level == penalty.level:
            entry.until_ms, entry.ask_ms = until_ms, min(until_ms, now_ms + self._confirm_ms)
            return False
        self.entries.pop(key, None)
        if len(self.entries) >= self._limit:
            del self.entries[next(iter(self.entries))]
        ask_ms = min(until_ms, now_ms + self._confirm_ms)
        self.entries[key] = _Entry(until_ms, ask_ms, penalty.level, decision, decision.retry_after_s)
        return True

    def forget(self, key: Key) -> None:
        """Ask the store at the next request."""
        self.entries.pop(key, None)
