from __future__ import annotations

from b1.watchdog import Cause, Running
from b1.watchdog.frames import Line
from b1.watchdog.reports import Finding, Reports


def finding(number: int | None = 1, *, at_s: float = 0.0, lasted_s: float = 0.2, who: str = "a") -> Finding:
    line = None if number is None else Line("/srv/app/routes.py", number, "handler")
    cause = Cause.NOT_SCHEDULED if line is None else Cause.PYTHON
    return Finding(cause, line, (f"stack {who}",), Running("/items", who), at_s, lasted_s)


def reports(*, kept: int = 20, per_minute: int = 6) -> Reports:
    return Reports(kept=kept, per_minute=per_minute)


def test_two_stalls_at_one_line_are_one_report() -> None:
    known = reports()
    known.add(finding(at_s=10.0, lasted_s=0.5, who="a"))
    report, is_worth_a_line = known.add(finding(at_s=20.0, lasted_s=0.3, who="b"))
    assert (2, 10.0, 20.0, 0.5, 0.3) == (
        report.count,
        report.first_s,
        report.last_s,
        report.worst_s,
        report.newest_s,
    )
    assert "a" == report.request_id
    assert not is_worth_a_line
    assert (report,) == known.newest_first()


def test_the_longest_stall_lends_its_stack_and_its_request() -> None:
    known = reports()
    known.add(finding(at_s=10.0, lasted_s=0.2, who="short"))
    report, _ = known.add(finding(at_s=20.0, lasted_s=0.9, who="long"))
    assert ("long", ("stack long",), 0.9, 10.0, 2) == (
        report.request_id,
        report.stack,
        report.worst_s,
        report.first_s,
        report.count,
    )


def test_six_new_lines_a_minute_are_worth_a_log_line() -> None:
    known = reports()
    logged = [known.add(finding(number, at_s=float(number)))[1] for number in range(10)]
    assert 6 == sum(logged)
    assert 4 == known.silenced
    assert known.add(finding(99, at_s=61.0))[1]


def test_the_report_that_was_quiet_longest_is_forgotten() -> None:
    known = reports(kept=2)
    for number in (1, 2, 1, 3):
        known.add(finding(number))
    assert [3, 1] == [report.line for report in known.newest_first()]
    assert ("python", 4, 0.8) == known.counts()[0]


def test_what_is_nobodys_fault_names_no_line() -> None:
    report, _ = reports().add(finding(None))
    assert (None, None, "not scheduled") == (report.where, report.function, report.cause)
