"""Arithmetic: one stall, what was seen of it, and the dump if there is one, to a finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from b1.watchdog.causes import Cause, Look, Running, cause_of, main_callback
from b1.watchdog.frames import Kind, Line, blamed, kind_of, told
from b1.watchdog.heartbeat import Stall
from b1.watchdog.reports import Finding

# The line to blame, its stack, the request.
Blame = tuple[Line | None, tuple[Line, ...], Running | None]


class Floor(NamedTuple):
    """Where callbacks begin on the loop's stack.

    Attributes:
        files: of the frames below every callback, innermost first.
        depth: of a callback's first frame, counted from the thread's first.
    """

    files: tuple[str, ...]
    depth: int

    def callback_of(self, dump: Sequence[Line]) -> tuple[Line, ...]:
        """Return the callback's part of a dumped stack; nothing when the stack is another thread's."""
        above = len(dump) - len(self.files)
        is_the_loops = above > 0 and tuple(line.file for line in dump[above:]) == self.files
        return tuple(dump[: len(dump) - self.depth + 1]) if is_the_loops else ()


def judge(
    stall: Stall,
    looks: Sequence[Look],
    dump: Sequence[Line],
    floor: Floor,
    *,
    wall_s: float,
    stall_s: float,
    stack_lines: int,
) -> Finding:
    """Say why the loop did not turn, and whom to blame.

    Args:
        wall_s: when the stall ended.
        stall_s: how long a callback may compute.
        stack_lines: frames that the finding shows.
    """
    dumped = floor.callback_of(dump)
    cause = cause_of(stall, looks, has_dump=bool(dumped), stall_s=stall_s)
    blame: Blame = (None, (), None)
    if cause is Cause.NATIVE and dumped:
        blame = _from_dump(dumped, looks)
    elif cause.blames:
        blame = _from_looks(looks)
    elif cause is Cause.ANOTHER_THREAD and not dumped:
        blame = _from_thread(dump)
    line, lines, running = blame
    return Finding(cause, line, told(lines, stack_lines), running, wall_s, stall.lag_s)


def _from_dump(dumped: tuple[Line, ...], looks: Sequence[Look]) -> Blame:
    """Blame the dump: it was written in the middle. The request comes from a look at the same callback, if there is one."""
    same = [look for look in looks if look.lines and look.lines[-1].file == dumped[-1].file]
    line = blamed(dumped)
    for seen in (seen for look in same for seen in look.lines):
        if line is not None and (seen.file, seen.number) == (line.file, line.number):
            line = seen  # a dump has no qualified names
    return line, dumped, same[-1].running if same else None


def _from_looks(looks: Sequence[Look]) -> Blame:
    """Blame what was seen most; of equals, what was seen when the watchdog had waited longest for the interpreter."""
    callback = main_callback(looks)
    seen = [(blamed(look.lines), look) for look in looks if look.callback == callback and look.lines]
    if callback is None or not seen:
        return None, (), None
    counts = Counter(line for line, _ in seen)
    line, look = max(seen, key=lambda one: (counts[one[0]], one[1].late_s))
    return line, look.lines, look.running


def _from_thread(dump: Sequence[Line]) -> Blame:
    """Blame the thread that was dumped: on Linux since 6.4 the signal goes to the thread that used up the time."""
    line = blamed(dump)
    if line is None or kind_of(line.file) is not Kind.APPLICATION:
        return None, (), None
    return line, tuple(dump), None
