"""What each statement costs, by its text without values: how long it takes, how often it runs, and which ones are slow.

Bounded: `limit` texts, the one unused for longest goes first. A statement is found by the hash of its text as it was sent,
so that no literal is kept in memory, and one text is normalised once. Values never reach a log or a snapshot (`texts.py`).

A statement's time is estimated as TCP estimates a round trip (Jacobson 1988): a mean and a mean deviation, both moving.
It is called hopeless when even mean - 2 deviations is longer than the time left; a statement whose time depends on its
arguments has a large deviation and is let through.
"""

from __future__ import annotations

import heapq
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass

from b1.db.texts import normalised

_log = logging.getLogger("b1.db")

_MEAN_GAIN = 1 / 8
_DEVIATION_GAIN = 1 / 4
_TRUSTED_CALLS = 5
# Without a refusal's end there is no sample: after this time one call goes through to see whether it is still true.
_LOOK_AGAIN_S = 5.0
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class StatementSnapshot:
    """One statement since the start, or since its text was last forgotten.

    Attributes:
        text: normalised, without values.
        calls: how often it ran to an end, abandoned ones included.
        total_s: seconds in all, from being sent to the last row.
        max_s: the longest.
        mean_s: the moving mean.
        rows: rows that were fetched.
        abandoned: how often its caller did not wait for the end.
    """

    text: str
    calls: int
    total_s: float
    max_s: float
    mean_s: float
    rows: int
    abandoned: int


class Statement:
    """The account of one text; written by `Statements` alone."""

    __slots__ = (
        "abandoned", "calls", "deviation_s", "is_forgotten", "look_at_s", "max_s", "mean_s", "rows", "samples", "text",
        "total_s",
    )  # fmt: skip

    def __init__(self, text: str) -> None:
        self.text = text
        self.calls = 0
        self.total_s = 0.0
        self.max_s = 0.0
        self.mean_s = 0.0
        self.deviation_s = 0.0
        self.samples = 0
        self.rows = 0
        self.abandoned = 0
        self.look_at_s = 0.0
        self.is_forgotten = False

    def __repr__(self) -> str:
        return f"<Statement {self.text!r} calls={self.calls} mean_s={self.mean_s:.4f}>"

    @property
    def at_least_s(self) -> float:
        """What it takes at least, judged by its past; 0 while too little is known."""
        if self.samples < _TRUSTED_CALLS:
            return 0.0
        return max(0.0, self.mean_s - 2 * self.deviation_s)

    def learn(self, took_s: float) -> None:
        """Move the estimate."""
        self.samples += 1
        if self.samples == 1:
            self.mean_s = took_s
            self.deviation_s = took_s / 2
            return
        off_s = took_s - self.mean_s
        self.mean_s += off_s * _MEAN_GAIN
        self.deviation_s += (abs(off_s) - self.deviation_s) * _DEVIATION_GAIN

    def snapshot(self) -> StatementSnapshot:
        return StatementSnapshot(
            self.text, self.calls, self.total_s, self.max_s, self.mean_s, self.rows, self.abandoned
        )


class Statements:
    """The statements of one database.

    Args:
        limit: texts that are known at once.
        slow_s: a statement that takes as long is logged; 0 logs none.
        slow_per_minute: lines of that log in any minute; the next one says how many were left out.
    """

    def __init__(self, *, limit: int, slow_s: float, slow_per_minute: int) -> None:
        self.slow = 0
        self._limit = limit
        self._slow_s = slow_s or float("inf")
        self._by_hash: dict[int, Statement] = {}
        self._by_text: OrderedDict[str, Statement] = OrderedDict()
        self._logged_s: deque[float] = deque(maxlen=max(1, slow_per_minute))
        self._left_out = 0

    def __repr__(self) -> str:
        return f"<Statements known={len(self._by_text)}/{self._limit} slow={self.slow}>"

    def find(self, query: str) -> Statement:
        """Return the account of `query`."""
        found = self._by_hash.get(hash(query))
        return found if found is not None and not found.is_forgotten else self._meet(query)

    def cannot_end(self, query: str, left_s: float, now_s: float) -> bool:
        """Tell whether `query` is known to take longer than `left_s`."""
        statement = self.find(query)
        return statement.at_least_s > left_s and now_s < statement.look_at_s

    def may_begin(self, statement: Statement, left_s: float, now_s: float) -> bool:
        """Tell whether it may end within `left_s`; now and then one is let through to find out anew."""
        if statement.at_least_s <= left_s:
            return True
        if now_s < statement.look_at_s:
            return False
        statement.look_at_s = now_s + _LOOK_AGAIN_S
        return True

    def record(self, statement: Statement, took_s: float, now_s: float, rows: int) -> None:
        """Hear that one ended well after `took_s`."""
        statement.calls += 1
        statement.total_s += took_s
        statement.rows += rows
        if took_s > statement.max_s:
            statement.max_s = took_s
        statement.learn(took_s)
        statement.look_at_s = now_s + _LOOK_AGAIN_S
        if took_s >= self._slow_s:
            self._note_slow(statement, took_s, now_s, "done")

    def record_unlike(self, statement: Statement, took_s: float, now_s: float) -> None:
        """Hear that one ended with an error, or for many arguments at once: that says nothing about the next one's time."""
        statement.calls += 1
        statement.total_s += took_s
        statement.max_s = max(statement.max_s, took_s)
        if took_s >= self._slow_s:
            self._note_slow(statement, took_s, now_s, "done")

    def record_abandoned(self, statement: Statement, after_s: float, now_s: float) -> None:
        """Hear that its caller went after `after_s`: it takes at least as long."""
        statement.calls += 1
        statement.abandoned += 1
        statement.total_s += after_s
        statement.max_s = max(statement.max_s, after_s)
        if after_s > statement.mean_s:
            statement.learn(after_s)
            statement.look_at_s = now_s + _LOOK_AGAIN_S
        if after_s >= self._slow_s:
            self._note_slow(statement, after_s, now_s, "abandoned")

    def top(self, count: int) -> tuple[StatementSnapshot, ...]:
        """Return the statements that took most time in all."""
        dearest = heapq.nlargest(count, self._by_text.values(), key=lambda one: one.total_s)
        return tuple(one.snapshot() for one in dearest)

    def _meet(self, query: str) -> Statement:
        text = normalised(query)
        statement = self._by_text.get(text)
        if statement is None:
            if len(self._by_text) >= self._limit:
                self._by_text.popitem(last=False)[1].is_forgotten = True
            statement = self._by_text[text] = Statement(text)
        else:
            self._by_text.move_to_end(text)
        if len(self._by_hash) >= 4 * self._limit:
            # A program that writes values into its texts has no end of them; the constant ones are met again at once.
            self._by_hash.clear()
        self._by_hash[hash(query)] = statement
        return statement

    def _note_slow(self, statement: Statement, took_s: float, now_s: float, end: str) -> None:
        self.slow += 1
        logged = self._logged_s
        if len(logged) == logged.maxlen and now_s - logged[0] < _MINUTE_S:
            self._left_out += 1
            return
        logged.append(now_s)
        left_out, self._left_out = self._left_out, 0
        _log.warning(
            "slow query",
            extra={
                "statement": statement.text,
                "duration_ms": round(took_s * 1000),
                "ended": end,
                "calls": statement.calls,
                "left_out": left_out,
            },
        )
