"""What this process has invalidated and the server may not have counted yet, laid over the versions that the server told.

A marked version has a bit that counting never reaches (see `b1.store.versions`). So what was built before the mark is
stale at once, and what is built on a marked version is stale as soon as the mark goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from b1.store.versions import HARD_END, SOFT_END, new_epoch

# Marks of single places; with more, everything is marked.
_MOST = 4096
_HARD_BITS, _SOFT_BITS = 0x7FFF_FF00, 0x7F


class Mark(NamedTuple):
    """Own invalidations of one call; `places` is None for everything."""

    number: int
    places: tuple[int, ...] | None


class Marks:
    """Marks by place in the table, one for everything, and one for time that has passed without the server.

    Attributes:
        is_plain: nothing is marked.
    """

    def __init__(self) -> None:
        self.is_plain = True
        self._places: dict[int, tuple[int, bool]] = {}
        self._everything: tuple[int, bytes] | None = None
        self._counter = 0
        self._aged = 0

    def __len__(self) -> int:
        return len(self._places) + self.is_everything

    def __repr__(self) -> str:
        return f"Marks(places={len(self._places)}, everything={self.is_everything}, aged={self._aged})"

    @property
    def is_everything(self) -> bool:
        return self._everything is not None

    def add(self, hard: Iterable[int] | None, soft: Iterable[int] = ()) -> Mark:
        """Mark places; None: everything."""
        self._counter += 1
        number = self._counter
        self.is_plain = False
        if hard is None:
            self._everything = (number, new_epoch())
            return Mark(number, None)
        places = self._places
        added = {place: places.get(place, (0, False))[1] for place in soft} | dict.fromkeys(hard, True)
        if len(places) + len(added) > _MOST:
            self._everything = (number, new_epoch())
        else:
            places.update({place: (number, is_hard) for place, is_hard in added.items()})
        return Mark(number, tuple(added))

    def remove(self, mark: Mark) -> None:
        """Remove a mark, and older ones of the same places."""
        number, places, everything = mark.number, self._places, self._everything
        if mark.places is None:
            self._places = {place: one for place, one in places.items() if one[0] > number}
            if everything is not None and everything[0] <= number:
                self._everything = None
        else:
            for place in mark.places:
                if place in places and places[place][0] <= number:
                    del places[place]
            if everything is not None and everything[0] == number:
                self._everything = None  # it stood for this mark, which was too large
        self._look()

    def age(self, *, is_over: bool = False) -> None:
        """Mark everything softly; `is_over`: no longer."""
        self._counter += 1
        self._aged = 0 if is_over else self._counter
        self._look()

    def epoch_over(self, epoch: bytes) -> bytes:
        """Return the epoch as this process sees it."""
        return epoch if self._everything is None else self._everything[1]

    def version_over(self, place: int, version: int) -> int:
        """Return the version at a place as this process sees it."""
        number, is_hard = self._places.get(place, (0, False))
        if is_hard:
            version = HARD_END | (number << 8 & _HARD_BITS)
        if self._aged or (number and not is_hard):
            version = version & ~0xFF | SOFT_END | (max(number, self._aged) & _SOFT_BITS)
        return version

    def _look(self) -> None:
        self.is_plain = not self._places and self._everything is None and not self._aged
