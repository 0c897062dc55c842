"""Buckets on their way. A frame's columns: ``k`` keys, ``f`` the moments at which they are full (µs), ``o`` and ``m`` what
Redis is owed of each (µs) and what an empty one takes (0: nothing is owed).

The last hand-over has all of them again: of two moments the later one counts, so a caller who asked both workers at once
has one burst more than it should, and nobody has two buckets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from b1.store.buckets import Buckets
from b1.store.passed import Received
from b1.store.passing.budget import Budget
from b1.store.passing.frames import Frame, numbers, pack, texts
from b1.store.passing.origin import Shift

KIND = "gcra"
_ITEMS = 256


def frames(buckets: Buckets, budget: Budget, *, has_redis: bool) -> Iterator[list[bytes]]:
    """Yield the frames of all buckets that are not full."""

    def encode(keys: Sequence[str]) -> tuple[bytes, int]:
        found = [(key, full_us, *buckets.owed.get(key, (0, 0))) for key in keys if (full_us := buckets.full_at(key))]
        columns = zip(*found, strict=True) if found else ((), (), (), ())
        fields = dict(zip("kfom", map(list, columns), strict=True))
        if not has_redis:
            fields["o"] = fields["m"] = [0] * len(found)
        return pack(KIND, fields), len(found)

    keys = buckets.keys()
    for start in range(0, len(keys), _ITEMS):
        yield budget.fit("buckets", keys[start : start + _ITEMS], encode)


def take(buckets: Buckets, frame: Frame, shift: Shift, now_ms: int, *, has_redis: bool) -> list[Received]:
    """Take all of a frame.

    Raises:
        ValueError: it does not add up, and nothing was taken.
    """
    keys = texts(frame.fields, "k")
    moments = numbers(frame.fields, "f", len(keys))
    owed = numbers(frame.fields, "o", len(keys))
    most = numbers(frame.fields, "m", len(keys))
    found = []
    for key, full_us, owed_us, most_us in zip(keys, moments, owed, most, strict=True):
        is_kept = buckets.receive(
            key, full_us + shift.ms * 1000, now_ms * 1000, owed=(owed_us, most_us) if has_redis else (0, 0)
        )
        found.append(Received.TAKEN if is_kept else Received.NO_ROOM)
    return found
