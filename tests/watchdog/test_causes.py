from __future__ import annotations

import pytest

from b1.watchdog import Cause, Running
from b1.watchdog.causes import Look, cause_of, main_callback
from b1.watchdog.frames import Line
from b1.watchdog.heartbeat import Stall, Turn
from b1.watchdog.judging import Floor, judge
from b1.watchdog.thread_state import ThreadState

LINE = Line("/srv/app/routes.py", 41, "handler")
SLEEPING, READY = ThreadState(False, 0), ThreadState(True, 0)
FLOOR = Floor(("/srv/loop.py", "/srv/main.py"), 3)


def stall(*, cpu_s: float = 0.0, others_s: float = 0.0, collecting_s: float = 0.0, lag_s: float = 1.0) -> Stall:
    before = Turn(100.0, 100.05, 5.0, 9.0, 1.0)
    at_s = before.due_s + lag_s
    return Stall(before, Turn(at_s, at_s + 0.05, 5.0 + cpu_s, 9.0 + cpu_s + others_s, 1.0 + collecting_s))


def look(
    at_s: float = 0.1,
    *,
    late_s: float = 0.0,
    callback: int | None = 0,
    line: Line = LINE,
    thread: ThreadState | None = SLEEPING,
) -> Look:
    lines = () if callback is None else (line,)
    return Look(100.05 + at_s, late_s, callback, lines, Running("/items", "request-1"), thread)


ON_TIME = [look(0.05), look(0.1), look(0.2)]
TOO_LATE = [look(1.0, late_s=0.95)]


@pytest.mark.parametrize(
    ("expected", "what", "looks"),
    [
        (Cause.PYTHON, stall(cpu_s=0.9), ON_TIME),
        (Cause.NATIVE, stall(cpu_s=0.9), TOO_LATE),
        (Cause.NATIVE, stall(cpu_s=0.9), []),
        (Cause.SLEEPING_CALL, stall(cpu_s=0.01), ON_TIME),
        (Cause.SLEEPING_CALL, stall(cpu_s=0.2), ON_TIME),
        (Cause.GARBAGE_COLLECTION, stall(cpu_s=0.9, collecting_s=0.8), TOO_LATE),
        (Cause.GARBAGE_COLLECTION, stall(cpu_s=0.3, collecting_s=0.2), TOO_LATE),  # on a busy box
        (Cause.ANOTHER_THREAD, stall(others_s=0.9), TOO_LATE),
        (Cause.NOT_SCHEDULED, stall(), TOO_LATE),
        (Cause.NOT_SCHEDULED, stall(), []),
        (Cause.NOT_SCHEDULED, stall(), [look(callback=None)] * 3),
        (Cause.NOT_SCHEDULED, stall(), [look(thread=READY)] * 3),
        (Cause.PYTHON, stall(cpu_s=0.3), [look(thread=READY)] * 3),  # a busy box stretches what blocks
        (Cause.NOT_SCHEDULED, stall(cpu_s=0.3), TOO_LATE),
        (Cause.SLEEPING_CALL, stall(), [look(thread=None)] * 3),  # a system that does not tell
        (Cause.PAGING, stall(), [look(), look(thread=ThreadState(False, 50))]),
        (Cause.MANY_CALLBACKS, stall(cpu_s=0.9), [look(callback=number) for number in range(5)]),
        (Cause.MANY_CALLBACKS, stall(), [look(callback=number) for number in range(5)]),
    ],
)
def test_clocks_and_looks_tell_the_cause(expected: Cause, what: Stall, looks: list[Look]) -> None:
    assert expected is cause_of(what, looks, has_dump=False, stall_s=0.1)


def test_a_dump_is_proof_on_a_busy_box() -> None:
    assert Cause.NATIVE is cause_of(stall(cpu_s=0.3), TOO_LATE, has_dump=True, stall_s=0.1)


def test_a_scheduler_that_is_a_little_late_each_time_does_not_hide_a_python_loop() -> None:
    looks = [look(number / 20, late_s=0.02) for number in range(20)]
    assert Cause.PYTHON is cause_of(stall(cpu_s=0.9), looks, has_dump=False, stall_s=0.1)


def test_the_callback_of_most_looks_is_the_one() -> None:
    assert 7 == main_callback([look(callback=7), look(callback=7), look(callback=8)])
    assert main_callback([look(callback=7), look(callback=8)]) is None
    assert main_callback([]) is None


def found(what: Stall, looks: list[Look], dump: tuple[Line, ...] = ()) -> tuple[Cause, Line | None, Running | None]:
    finding = judge(what, looks, dump, FLOOR, wall_s=0.0, stall_s=0.1, stack_lines=30)
    return finding.cause, finding.line, finding.running


def test_the_line_that_was_seen_most_is_blamed() -> None:
    other = LINE._replace(number=42)
    looks = [look(line=other), look(line=LINE), look(line=LINE)]
    assert (Cause.PYTHON, LINE, Running("/items", "request-1")) == found(stall(cpu_s=0.9), looks)


def test_a_dump_outweighs_the_look_that_came_after() -> None:
    dumped = LINE._replace(function="match_it", number=12)
    below = (Line("/srv/loop.py", 1, "run"), Line("/srv/main.py", 2, "main"))
    assert (Cause.NATIVE, dumped, Running("/items", "request-1")) == found(stall(cpu_s=0.9), TOO_LATE, (dumped, *below))


def test_the_dump_of_another_thread_is_not_the_loops_fault() -> None:
    other = (Line("/srv/app/work.py", 3, "match"), Line("/usr/lib/python3/threading.py", 1, "run"))
    assert (Cause.ANOTHER_THREAD, other[0], None) == found(stall(others_s=0.9), TOO_LATE, other)
    assert LINE == found(stall(cpu_s=0.9), TOO_LATE, other)[1]


@pytest.mark.parametrize("what", [stall(), stall(cpu_s=0.9, collecting_s=0.9)])
def test_nobody_is_blamed_for_what_the_box_did(what: Stall) -> None:
    assert found(what, TOO_LATE)[1] is None
