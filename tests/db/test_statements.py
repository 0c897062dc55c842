"""What is known about statements: bounded, without values, and a log that cannot flood."""

from __future__ import annotations

import logging

import pytest

from b1.db.statements import Statements


def _statements(**options: float) -> Statements:
    numbers = {"limit": 8, "slow_s": 0.5, "slow_per_minute": 3} | options
    return Statements(
        limit=int(numbers["limit"]), slow_s=numbers["slow_s"], slow_per_minute=int(numbers["slow_per_minute"])
    )


def _run(statements: Statements, query: str, took_s: float, now_s: float = 0.0, rows: int = 0) -> None:
    statements.record(statements.find(query), took_s, now_s, rows)


def test_texts_that_differ_in_values_share_an_account() -> None:
    statements = _statements()
    for number in range(20):
        _run(statements, f"select a from t where b = {number}", 0.01, rows=2)
    (only,) = statements.top(5)
    assert (only.text, only.calls, only.rows) == ("select a from t where b = ?", 20, 40)
    assert only.total_s == pytest.approx(0.2)
    assert only.max_s == pytest.approx(0.01)


def test_the_dearest_in_all_come_first() -> None:
    statements = _statements()
    for text, calls, took_s in (("select a", 100, 0.001), ("select b", 2, 0.3), ("select c", 10, 0.02)):
        for _ in range(calls):
            _run(statements, text, took_s)
    assert [one.text for one in statements.top(2)] == ["select b", "select c"]


def test_the_texts_are_bounded_and_the_oldest_goes() -> None:
    statements = _statements(limit=8)
    for number in range(1000):
        _run(statements, f"select column_{number}", 0.01)
    texts = {one.text for one in statements.top(100)}
    assert texts == {f"select column_{number}" for number in range(992, 1000)}
    _run(statements, "select column_0", 0.01)
    assert "select column_0" in {one.text for one in statements.top(100)}
    assert len(statements._by_hash) <= 32


def test_slow_statements_are_logged_without_values_and_not_without_end(caplog: pytest.LogCaptureFixture) -> None:
    statements = _statements(slow_per_minute=3)
    with caplog.at_level(logging.WARNING, "b1.db"):
        for second in range(10):
            _run(statements, f"select pg_sleep(1), 'secret {second}'", 0.6, now_s=second)
        _run(statements, "select quick", 0.1, now_s=10)
        _run(statements, "select pg_sleep(1), 'secret'", 0.7, now_s=61)
    assert [record.getMessage() for record in caplog.records] == ["slow query"] * 4
    assert "secret" not in str([record.__dict__ for record in caplog.records])
    last = caplog.records[-1].__dict__
    assert (last["statement"], last["duration_ms"], last["left_out"]) == ("select pg_sleep(?), ?", 700, 7)
    assert statements.slow == 11


def test_no_threshold_no_log(caplog: pytest.LogCaptureFixture) -> None:
    statements = _statements(slow_s=0)
    _run(statements, "select a", 1000.0)
    assert caplog.records == []


def test_a_statement_that_cannot_end_in_time_is_known_after_a_few_calls() -> None:
    statements = _statements()
    statement = statements.find("select long")
    for _ in range(4):
        statements.record(statement, 2.0, 10.0, 0)
    assert statements.may_begin(statement, 0.5, 10.0)
    for _ in range(6):
        statements.record(statement, 2.0, 10.0, 0)
    assert not statements.may_begin(statement, 0.5, 10.0)
    assert statements.cannot_end("select long", 0.5, 10.0)
    assert statements.may_begin(statement, 3.0, 10.0)


def test_one_is_let_through_now_and_then_to_find_out_anew() -> None:
    statements = _statements()
    statement = statements.find("select long")
    for _ in range(10):
        statements.record(statement, 2.0, 10.0, 0)
    assert [statements.may_begin(statement, 0.5, now_s) for now_s in (14.9, 15.0, 15.1, 19.9, 20.1)] == [
        False,
        True,
        False,
        False,
        True,
    ]
    for _ in range(30):
        statements.record(statement, 0.01, 21.0, 0)
    assert statements.may_begin(statement, 0.5, 21.0)


def test_a_statement_whose_time_varies_is_let_through() -> None:
    statements = _statements()
    statement = statements.find("select pg_sleep($1)")
    for took_s in (0.01, 3.0) * 10:
        statements.record(statement, took_s, 10.0, 0)
    assert statements.may_begin(statement, 0.2, 10.0)


def test_abandoned_and_failed_ones_are_counted_and_mislead_nobody() -> None:
    statements = _statements()
    statement = statements.find("select a")
    for _ in range(10):
        statements.record(statement, 1.0, 0.0, 0)
    statements.record_abandoned(statement, 0.1, 0.0)  # it says only that it takes 0.1 s or more
    statements.record_unlike(statement, 0.0, 0.0)
    (one,) = statements.top(1)
    assert (one.calls, one.abandoned, one.mean_s) == (12, 1, pytest.approx(1.0))
    statements.record_abandoned(statement, 9.0, 0.0)
    assert statement.mean_s == pytest.approx(2.0)
