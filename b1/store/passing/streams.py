"""Replay rings on their way; where one does not fit, its newest part goes.

A frame is a ring: ``stream``, ``since``, ``dropped``, ``until_ms``, and the columns ``i`` ids, ``n`` lengths of the data;
the blob holds the data.
"""

from __future__ import annotations

from collections.abc import Iterator

from b1.store.passed import PassedRing, Received
from b1.store.passing.budget import Budget
from b1.store.passing.frames import Frame, numbers, pack, pieces
from b1.store.passing.origin import Shift
from b1.store.streams import Streams

KIND = "ring"
_HEAD_BYTES = 256
_ENTRY_BYTES = 28  # id and length in the columns


def frames(streams: Streams, budget: Budget, now_ms: int, *, news: bool) -> Iterator[list[bytes]]:
    """Yield the frames of all rings, the one used last first, or of what was appended since."""
    todo = dict(streams.news or {}) if news else dict.fromkeys(streams.keys(), 0)
    for stream, since in todo.items():
        if streams.news is not None and not news:
            streams.news.pop(stream, None)
        ring = streams.passing(stream, now_ms, since=since)
        if ring is None:
            continue
        newest = _newest(ring, budget)
        budget.left_out["entries"] += len(ring.entries) - len(newest.entries)
        yield budget.add("entries", _encode(newest), len(newest.entries))


def take(streams: Streams, frame: Frame, shift: Shift, now_ms: int) -> tuple[Received, int]:
    """Take a ring; return what became of it, and how many entries it had.

    Raises:
        ValueError: it does not add up, and nothing was taken.
    """
    fields = frame.fields
    stream, ids = fields.get("stream"), fields.get("i")
    if not isinstance(stream, str) or not isinstance(ids, list):
        raise ValueError("a ring has no name or no ids")
    since, dropped, until_ms = numbers({"r": [fields.get(n) for n in ("since", "dropped", "until_ms")]}, "r", 3)
    data = pieces(frame.blob, numbers(fields, "n", len(ids)))
    entries = tuple(zip(numbers(fields, "i", len(ids)), data, strict=True))
    ring = PassedRing(stream, since, dropped, shift.time(until_ms), entries)
    return streams.receive(ring, now_ms), len(entries)


def _newest(ring: PassedRing, budget: Budget) -> PassedRing:
    room_bytes, first = budget.left_bytes - _HEAD_BYTES - 2 * len(ring.stream), len(ring.entries)
    while first and room_bytes >= _ENTRY_BYTES + len(ring.entries[first - 1][1]):
        first -= 1
        room_bytes -= _ENTRY_BYTES + len(ring.entries[first][1])
    dropped = ring.entries[first - 1][0] if first else ring.dropped
    return ring._replace(dropped=dropped, entries=ring.entries[first:])


def _encode(ring: PassedRing) -> bytes:
    fields = {
        "stream": ring.stream,
        "since": ring.since,
        "dropped": ring.dropped,
        "until_ms": ring.until_ms,
        "i": [entry_id for entry_id, _ in ring.entries],
        "n": [len(data) for _, data in ring.entries],
    }
    return pack(KIND, fields, b"".join([data for _, data in ring.entries]))
