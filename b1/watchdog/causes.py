"""Arithmetic: from what the clocks and the looks say to why the loop did not turn, and whom to blame.

    collecting >= half of the stall, or of what was computed    garbage collection
    the loop's thread computed for half of it, or for so long that it had been a stall on a free core, and the watchdog
        could look as planned                                   Python
        could not look: somebody held the interpreter           native
    the loop's thread did not compute, and the watchdog
        could not look, other threads computed                  another thread
        could not look, nobody computed                         not scheduled
        could look: the thread was ready and had no core        not scheduled
        could look: pages came back from swap                   paging
        could look: it slept                                    sleeping call
    no single callback was seen in half of the looks            many callbacks

Only Python, native and sleeping call blame a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from b1.watchdog.frames import Line
from b1.watchdog.heartbeat import Stall
from b1.watchdog.thread_state import ThreadState

# A share of the stall that decides.
MOST = 0.5

# A look that is less late than this had to wait for its turn on a core, not for the interpreter.
LATE_S = 0.03

# Pages read back from disk between two looks that make a stall the memory's fault; a cold module brings in a few.
MANY_PAGE_FAULTS = 20


class Cause(Enum):
    """Why the loop did not turn."""

    PYTHON = "python"
    NATIVE = "native"
    SLEEPING_CALL = "sleeping call"
    GARBAGE_COLLECTION = "garbage collection"
    ANOTHER_THREAD = "another thread"
    NOT_SCHEDULED = "not scheduled"
    PAGING = "paging"
    MANY_CALLBACKS = "many callbacks"

    @property
    def blames(self) -> bool:
        """Whether a line of code is at fault."""
        return self in (Cause.PYTHON, Cause.NATIVE, Cause.SLEEPING_CALL)


class Running(NamedTuple):
    """The request in whose task the loop was: route template and request id."""

    route: str
    request_id: str


class Look(NamedTuple):
    """What the watchdog saw at one moment of a stall.

    Attributes:
        late_s: how much later than planned the watchdog could look.
        callback: which callback ran, numbered within the stall; None when none did.
        lines: of that callback, innermost first.
    """

    at_s: float
    late_s: float
    callback: int | None
    lines: tuple[Line, ...]
    running: Running | None
    thread: ThreadState | None


def cause_of(stall: Stall, looks: Sequence[Look], *, has_dump: bool, stall_s: float) -> Cause:
    """Say why the loop did not turn.

    Args:
        has_dump: the loop's own stack was dumped from C.
        stall_s: how long a callback may compute.
    """
    most_s = stall.lag_s * MOST
    computed_s = stall.after.cpu_s - stall.before.cpu_s
    collecting_s = stall.after.collecting_s - stall.before.collecting_s
    if collecting_s >= most_s or (collecting_s >= stall_s and collecting_s >= computed_s * MOST):
        return Cause.GARBAGE_COLLECTION
    was_shut_out = _was_shut_out(stall, looks)
    waited = None if was_shut_out else _waiting(looks)
    # A busy box stretches what would have been a stall on a free core. One late look is too little to blame then: the
    # watchdog itself may have had no core in a long turn of many short callbacks.
    is_stretched = computed_s >= stall_s and waited in (None, Cause.NOT_SCHEDULED) and (has_dump or len(looks) > 1)
    if computed_s >= most_s or is_stretched:
        if not was_shut_out and main_callback(looks) is None and any(look.callback is not None for look in looks):
            return Cause.MANY_CALLBACKS
        return Cause.NATIVE if was_shut_out or has_dump else Cause.PYTHON
    if waited is not None:
        return waited
    others_s = stall.after.process_s - stall.before.process_s - computed_s
    return Cause.ANOTHER_THREAD if others_s >= max(stall_s, computed_s) else Cause.NOT_SCHEDULED


def _was_shut_out(stall: Stall, looks: Sequence[Look]) -> bool:
    """Say whether the watchdog could not look for most of the time in which it wanted to."""
    if not looks:
        return True
    wanted_s = stall.after.at_s - (looks[0].at_s - looks[0].late_s)
    waited_s = sum(look.late_s for look in looks if look.late_s >= LATE_S)
    return waited_s >= wanted_s * MOST


def _waiting(looks: Sequence[Look]) -> Cause:
    """Say why a thread that the watchdog could look at did not compute."""
    states = [look.thread for look in looks if look.thread is not None]
    if states and states[-1].page_faults - states[0].page_faults >= MANY_PAGE_FAULTS:
        return Cause.PAGING
    if sum(state.is_ready for state in states) > len(states) * MOST:
        return Cause.NOT_SCHEDULED
    if sum(look.callback is None for look in looks) > len(looks) * MOST:
        return Cause.NOT_SCHEDULED  # it was in no callback at all: only the kernel knows why it did not go on
    return Cause.MANY_CALLBACKS if main_callback(looks) is None else Cause.SLEEPING_CALL


def main_callback(looks: Sequence[Look]) -> int | None:
    """Return the callback that was seen in most looks, or None."""
    counts = Counter(look.callback for look in looks if look.callback is not None)
    for callback, count in counts.most_common(1):
        if count > len(looks) * MOST:
            return callback
    return None
