"""What is owed to Redis besides windows and records, on its way: invalidations, ring entries, and batches that may have
arrived there, which keep their names so that Redis counts them once whoever sends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from b1.store.passing.frames import numbers, pieces, texts
from b1.store.passing.origin import Shift
from b1.store.tally import Batch, OwedEntry, Tally
from b1.store.window import Part


@dataclass(frozen=True, slots=True)
class Owed:
    """`tags` is None when everything was invalidated."""

    tags: tuple[str, ...] | None
    entries: tuple[OwedEntry, ...]
    batches: tuple[Batch, ...]

    @property
    def count(self) -> int:
        """How many debts these are."""
        return (1 if self.tags is None else len(self.tags)) + len(self.entries) + len(self.batches)


def encode(owed: Owed) -> tuple[dict[str, Any], bytes]:
    """Return fields and blob of a frame."""
    fields = {
        "all": owed.tags is None,
        "tags": list(owed.tags or ()),
        "streams": [entry.stream for entry in owed.entries],
        "entries": [[e.id, e.keep, e.keep_bytes, e.ttl_ms, len(e.data)] for e in owed.entries],
        "batches": [
            [b.name, b.made_ms, int(b.is_owed), [[t.key, t.window_ms, [list(p) for p in t.parts]] for t in b.tallies]]
            for b in owed.batches
        ],
    }
    return fields, b"".join([entry.data for entry in owed.entries])


def decode(fields: Mapping[str, Any], blob: memoryview, shift: Shift) -> Owed:
    """Return what a frame says.

    Raises:
        ValueError: it does not add up.
    """
    streams, rows = texts(fields, "streams"), fields.get("entries")
    if not isinstance(rows, list) or len(rows) != len(streams):
        raise ValueError("there are not as many entries as streams")
    checked = [numbers({"e": row}, "e", 5) for row in rows]
    data = pieces(blob, [row[4] for row in checked])
    entries = tuple(
        OwedEntry(stream, row[0], piece, row[1], row[2], row[3])
        for stream, row, piece in zip(streams, checked, data, strict=True)
    )
    batches = fields.get("batches")
    if not isinstance(batches, list):
        raise ValueError("there are no batches")
    tags = None if fields.get("all") else tuple(texts(fields, "tags"))
    return Owed(tags, entries, tuple(_batch(row, shift) for row in batches))


def _batch(row: Any, shift: Shift) -> Batch:
    match row:
        case [str(name), int(made_ms), int(is_owed), list(tallies)]:
            return Batch(name, tuple(_tally(tally) for tally in tallies), shift.time(made_ms), bool(is_owed))
    raise ValueError("a batch is incomplete")


def _tally(row: Sequence[Any]) -> Tally:
    match row:
        case [str(key), int(window_ms), list(parts)]:
            return Tally(key, window_ms, [Part(*numbers({"p": part}, "p", 3)) for part in parts])
    raise ValueError("a tally is incomplete")
