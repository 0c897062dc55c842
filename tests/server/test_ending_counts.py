"""Why a worker ended, in one word, and how often, known to its successors."""

from __future__ import annotations

import os

import pytest

from b1.server.ending import CAUSES, Ending, EndingCounts


@pytest.mark.parametrize(
    ("phase", "timed_out", "cause"),
    [
        ("stopped", False, "clean"),
        ("stopped", True, "clean"),
        ("booting", False, "boot"),
        ("serving", False, "killed"),
        ("serving", True, "blocked"),
        ("stopping", False, "cut_off"),
        ("stopping", True, "blocked"),
    ],
)
def test_the_cause_follows_from_the_phase(phase: str, timed_out: bool, cause: str) -> None:
    assert cause == Ending(1, 0.0, phase, timed_out).cause


def test_what_one_process_counts_the_other_reads() -> None:
    counts = EndingCounts()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # stands for the worker, which was there before the end that the master notes
        os.read(read, 1)
        os._exit(counts.snapshot()["killed"])
    counts.note(Ending(1, 0.0, "serving", False))
    counts.note(Ending(2, 0.0, "serving", False))
    os.write(write, b"x")
    _, status = os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert 2 == os.waitstatus_to_exitcode(status)
    assert {cause: 2 * (cause == "killed") for cause in CAUSES} == counts.snapshot()
