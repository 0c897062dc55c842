"""Offenders on their way. A frame has one column, ``o``, of rows: a `PassedOffender` each, in its order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from b1.store.offences import Offences
from b1.store.passed import PassedOffender, Received
from b1.store.passing.budget import Budget
from b1.store.passing.frames import Frame, numbers, pack
from b1.store.passing.origin import Shift

KIND = "pens"
_ITEMS = 256


def frames(offences: Offences, budget: Budget, *, news: bool) -> Iterator[list[bytes]]:
    """Yield the frames of all offenders, or of those about whom something is new."""

    def encode(keys: Sequence[str]) -> tuple[bytes, int]:
        if offences.news is not None and not news:
            for key in keys:
                offences.news.pop(key, None)
        found = [list(passed) for key in keys if (passed := offences.passing(key)) is not None]
        return pack(KIND, {"o": found}), len(found)

    todo = list(offences.news or ()) if news else offences.keys()
    for start in range(0, len(todo), _ITEMS):
        yield budget.fit("penalties", todo[start : start + _ITEMS], encode)


def take(offences: Offences, frame: Frame, shift: Shift, now_ms: int) -> list[Received]:
    """Take all of a frame.

    Raises:
        ValueError: it does not add up, and nothing was taken.
    """
    rows = frame.fields.get("o")
    if not isinstance(rows, list):
        raise ValueError("there are no offenders")
    return [offences.receive(passed, now_ms) for passed in [_read(row, shift) for row in rows]]


def _read(row: object, shift: Shift) -> PassedOffender:
    if not isinstance(row, list) or len(row) < 7 or not isinstance(row[0], str):
        raise ValueError("an offender is incomplete")
    clear_ms, until_ms, level, forget_ms, added_ms = numbers({"o": row[1:6]}, "o", 5, least=-(2**53))
    return PassedOffender(
        row[0],
        shift.time(clear_ms),
        shift.time(until_ms),
        level,
        shift.time(forget_ms),
        added_ms,
        bool(row[6]),
    )
