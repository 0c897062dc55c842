"""Whose hand-over it is, when it was made, and what that means on this process's clock."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from b1.store.window import opens_at_ms

# Two clocks of one host agree this well about a time that passed, unless one was set.
_AGREE_MS = 2000


@dataclass(frozen=True, slots=True)
class Origin:
    """The first frame.

    Attributes:
        name: unique; the same bytes are taken once.
        includes: hand-overs that its maker had taken, and so are in this one.
        kind: ``memory`` or ``redis``: whether its maker had a Redis.
        made_ms: monotonic clock of the maker.
        made_wall_ms: its wall clock.
        floor: fences and ids from here on are the successor's, those below the maker's.
        salt: decides which keys share an overflow window.
    """

    name: str
    includes: tuple[str, ...]
    kind: str
    made_ms: int
    made_wall_ms: int
    floor: int
    salt: bytes

    def fields(self) -> dict[str, Any]:
        """Return what the frame says."""
        return {
            "name": self.name,
            "includes": list(self.includes),
            "kind": self.kind,
            "made_ms": self.made_ms,
            "made_wall_ms": self.made_wall_ms,
            "floor": self.floor,
            "salt": self.salt.hex(),
            "order": sys.byteorder,
        }

    def shift(self, now_ms: int, wall_ms: int) -> Shift:
        """Return how its times become ours.

        Processes of one host share the monotonic clock, and then nothing changes. When the wall clock contradicts it (it
        was set, or this is another boot), the shorter of the two waits counts: nothing ends too early.
        """
        waits_ms = [now_ms - self.made_ms, wall_ms - self.made_wall_ms]
        if waits_ms[0] >= 0 and abs(waits_ms[0] - waits_ms[1]) <= _AGREE_MS:
            return Shift(0)
        waited_ms = min((wait_ms for wait_ms in waits_ms if wait_ms >= 0), default=0)
        return Shift(now_ms - waited_ms - self.made_ms)


@dataclass(frozen=True, slots=True)
class Shift:
    """Milliseconds to add to the maker's monotonic times."""

    ms: int

    def time(self, at_ms: int) -> int:
        """Return a moment on our clock; 0, which is none, stays."""
        return at_ms + self.ms if at_ms else 0

    def counter(self, counter: int, window_ms: int) -> int:
        """Return the counter of ours for the youngest units in one of the maker's."""
        if not self.ms:
            return counter
        return (opens_at_ms(counter + 1, window_ms) - 1 + self.ms) * 60 // window_ms


def read_origin(fields: Mapping[str, Any]) -> Origin:
    """Return the origin that a frame says.

    Raises:
        ValueError: something is missing or of another type.
    """
    try:
        origin = Origin(
            name=str(fields["name"]),
            includes=tuple(str(name) for name in fields.get("includes", ())),
            kind=str(fields["kind"]),
            made_ms=int(fields["made_ms"]),
            made_wall_ms=int(fields["made_wall_ms"]),
            floor=int(fields.get("floor", 0)),
            salt=bytes.fromhex(fields.get("salt", "")),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"the first frame cannot be read ({error!r})") from error
    if fields.get("order") != sys.byteorder:
        raise ValueError(f"it is from a machine with {fields.get('order')} byte order")
    return origin
