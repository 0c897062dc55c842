"""Leases on their way: what a worker's requests hold while they end counts against its successor's too.

A frame's columns: ``k`` keys, ``h`` holders, ``u`` until_ms, ``n`` units, one row for each holder; ``e`` true: whoever was
told of before has ended. The holders are requests of the old worker and give back there, which nobody hears of here. So
their leases count for no longer than the old worker may drain, and end with its last hand-over.

Behind a Redis none of this is needed: the server keeps them for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from b1.store.leases import Leases
from b1.store.passed import Received
from b1.store.passing.budget import Budget
from b1.store.passing.frames import Frame, numbers, pack, texts
from b1.store.passing.origin import Shift

KIND = "held"
_ITEMS = 256
_Row = tuple[str, str, int, int]


def frames(leases: Leases, budget: Budget, now_ms: int, drain_ms: int) -> Iterator[list[bytes]]:
    """Yield the frames of all that is held.

    Args:
        drain_ms: how long the holders may still work; 0: this process ends, and they with it.
    """
    if not drain_ms:
        yield budget.add("leases", pack(KIND, {"e": True, "k": [], "h": [], "u": [], "n": []}), 0)
        return
    rows = [
        (key, holder, min(until_ms, now_ms + drain_ms), units)
        for key in leases.keys()  # noqa: SIM118 - a copy of the keys of a table, which is no mapping
        for holder, until_ms, units in leases.holders(key)
    ]
    for start in range(0, len(rows), _ITEMS):
        yield budget.fit("leases", rows[start : start + _ITEMS], _encode)


def take(leases: Leases, frame: Frame, shift: Shift, now_ms: int) -> list[Received]:
    """Take all of a frame.

    Raises:
        ValueError: it does not add up, and nothing was taken.
    """
    keys = texts(frame.fields, "k")
    holders = texts(frame.fields, "h")
    moments = numbers(frame.fields, "u", len(keys))
    units = numbers(frame.fields, "n", len(keys))
    if len(holders) != len(keys):
        raise ValueError(f"there are {len(holders)} holders of {len(keys)} keys")
    if frame.fields.get("e"):
        leases.end_received()
    found = []
    for key, holder, until_ms, held in zip(keys, holders, moments, units, strict=True):
        is_kept = leases.receive(key, holder, until_ms + shift.ms, held, now_ms)
        found.append(Received.TAKEN if is_kept else Received.NO_ROOM)
    return found


def _encode(rows: Sequence[_Row]) -> tuple[bytes, int]:
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pack(KIND, dict(zip("khun", map(list, columns), strict=True))), len(rows)
