"""How this process shares the host's slots with others: when it may take one, and when it has to give one up.

A process without a connection announces that it wants one. Holders of more than one then give one up at a time, with a
pause in between in which the slot can be taken and the announcement withdrawn; a sole holder does so after a quantum.
Whoever gave its last one up waits a moment before it takes again, or it would win the race for its own slot.
"""

from __future__ import annotations

from b1.clock import Clock
from b1.slots import Slot, Slots

# Longer than the 10 ms in which a process that wants a slot looks again; two of them still fit into the 50 ms promised.
PAUSE_S = 0.03


class Sharing:
    """The host's slots as one pool sees them. `kept`: the slots the pool holds, those being given up excepted.

    Args:
        slots: the files.
        clock: for the quantum and the pauses.
        quantum_s: how long a sole connection is kept while somebody else has none.
    """

    def __init__(self, slots: Slots, clock: Clock, quantum_s: float) -> None:
        self.others_want = False
        self._slots = slots
        self._clock = clock
        self._quantum_s = quantum_s
        self._kept = 0
        self._sole_since_s = 0.0
        self._no_yield_before_s = 0.0
        self._no_take_before_s = 0.0

    def __repr__(self) -> str:
        return f"<Sharing kept={self._kept} others_want={self.others_want} {self._slots!r}>"

    @property
    def is_wanting(self) -> bool:
        return self._slots.is_wanting

    def take(self, kept: int) -> Slot | None:
        """Take a slot if that is fair now; announce the wish when this pool has none."""
        slot = None
        if kept:
            if not self._slots.others_want():
                slot = self._slots.take()
        elif self._clock.monotonic() >= self._no_take_before_s:
            slot = self._slots.take()
        self._slots.want(slot is None and not kept)
        if slot is not None:
            self.note_kept(kept + 1)
        return slot

    def want(self, on: bool) -> None:
        """Announce a wish, or withdraw it."""
        self._slots.want(on)

    def look(self, kept: int) -> None:
        """See whether somebody else wants a slot that we could give."""
        self.others_want = kept > 0 and self._slots.others_want()

    def must_yield(self, kept: int) -> bool:
        """Tell whether a free connection is to be given up now."""
        if not self.others_want:
            return False
        now_s = self._clock.monotonic()
        if now_s < self._no_yield_before_s:
            return False
        return kept > 1 or now_s - self._sole_since_s >= self._quantum_s

    def note_yield(self, kept: int) -> None:
        """Hear that a connection is being given up, and `kept` stay."""
        self._no_yield_before_s = self._clock.monotonic() + PAUSE_S
        self.note_kept(kept)

    def note_freed(self, kept: int) -> None:
        """Hear that a slot was given back to the host for others to take."""
        if not kept:
            self._no_take_before_s = self._clock.monotonic() + PAUSE_S

    def note_kept(self, kept: int) -> None:
        """Hear how many slots the pool keeps; a quantum starts when it is down, or up, to one."""
        if kept == 1 and self._kept != 1:
            self._sole_since_s = self._clock.monotonic()
        self._kept = kept
