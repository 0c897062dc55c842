"""What fires, what is told, and when: on a clock of plain numbers."""

from __future__ import annotations

import json

import pytest

from b1.alerts.alert import Alert, Severity
from b1.alerts.book import Book, Change

NOW = 1_750_000_000.0


def book(cooldown_s: float = 300.0, **others: int) -> Book:
    return Book(cooldown_s=cooldown_s, **others)


def alert(name: str = "B1MemoryHigh", severity: str = "warning", at_s: float = NOW) -> Alert:
    return Alert(name, Severity(severity), "much", {"bytes": "1"}, at_s)


def told(change: Change | None) -> bool | None:
    return None if change is None else change.is_told


def successor_of(old: Book, at_s: float, *, with_cooldowns: bool = True) -> Book:
    fresh = book()
    fresh.adopt(json.loads(json.dumps(old.records(at_s))), with_cooldowns=with_cooldowns)
    return fresh


def test_an_alert_is_told_once_however_often_it_fires() -> None:
    one = book()
    assert [told(one.fire(alert(), NOW + n)) for n in range(3)] == [True, None, None]


def test_the_end_is_told_with_the_beginning_and_new_facts() -> None:
    one = book()
    one.fire(alert(), NOW)
    change = one.resolve("B1MemoryHigh", {"level": "normal"}, NOW + 60)
    assert change is not None
    assert (change.is_told, change.alert.status, change.alert.starts_at_s, change.alert.ends_at_s) == (
        True, "resolved", NOW, NOW + 60,
    )  # fmt: skip
    assert change.alert.annotations == {"bytes": "1", "level": "normal"}


def test_what_does_not_fire_cannot_end() -> None:
    assert book().resolve("B1MemoryHigh", {}, NOW) is None


def test_flapping_within_the_cooldown_is_heard_by_handlers_and_told_to_nobody() -> None:
    one = book()
    one.fire(alert(), NOW)
    one.resolve("B1MemoryHigh", {}, NOW + 1)
    again = one.fire(alert(), NOW + 2)
    assert told(again) is False
    assert told(one.resolve("B1MemoryHigh", {}, NOW + 3)) is False


def test_what_still_fires_when_the_cooldown_ends_is_told_then() -> None:
    one = book(cooldown_s=300)
    one.fire(alert(), NOW)
    one.resolve("B1MemoryHigh", {}, NOW + 1)
    one.fire(alert(at_s=NOW + 100), NOW + 100)
    assert one.next_due_s(NOW + 100) == 200
    assert one.due(NOW + 299) == []
    (late,) = one.due(NOW + 300)
    assert (late.is_told, late.alert.starts_at_s) == (True, NOW + 100)
    assert one.due(NOW + 301) == []


def test_a_higher_severity_is_told_at_once_and_ends_the_milder_series() -> None:
    one = book()
    one.fire(alert(), NOW)
    change = one.fire(alert(severity="critical"), NOW + 1)
    assert change is not None
    assert (change.is_told, change.escalated_from, change.alert.starts_at_s) == (True, Severity.WARNING, NOW)


def test_a_higher_severity_does_not_wait_for_the_cooldown_of_the_milder_one() -> None:
    one = book()
    one.fire(alert(), NOW)
    one.resolve("B1MemoryHigh", {}, NOW + 1)
    assert told(one.fire(alert(severity="critical"), NOW + 2)) is True


def test_a_lower_severity_changes_nothing_while_it_fires() -> None:
    one = book()
    one.fire(alert(severity="critical"), NOW)
    assert one.fire(alert(), NOW + 1) is None
    assert one.firing[0].severity is Severity.CRITICAL


def test_alerts_cool_down_each_on_its_own() -> None:
    one = book()
    one.fire(alert(), NOW)
    assert told(one.fire(alert("B1MemoryCritical", "critical"), NOW)) is True


def test_more_alerts_than_the_bound_are_refused_and_counted() -> None:
    one = book(limit=2)
    assert [told(one.fire(alert(f"A{n}"), NOW)) for n in range(3)] == [True, True, None]
    assert one.refused == 1


def test_a_clock_that_was_set_back_does_not_end_or_prolong_a_cooldown_beyond_its_length() -> None:
    one = book(cooldown_s=300)
    one.fire(alert(), NOW)
    one.resolve("B1MemoryHigh", {}, NOW + 1)
    one.fire(alert(), NOW - 10_000)
    assert one.next_due_s(NOW - 10_000) == 300
    assert one.due(NOW - 9_701) == []
    assert [told(change) for change in one.due(NOW - 9_700)] == [True]


def test_a_successor_ends_what_its_predecessor_told_and_keeps_the_beginning() -> None:
    old = book()
    old.fire(alert(), NOW)
    new = successor_of(old, NOW + 5)
    assert new.inherited == ("B1MemoryHigh",)
    change = new.resolve("B1MemoryHigh", {}, NOW + 10)
    assert change is not None
    assert (change.is_told, change.alert.starts_at_s) == (True, NOW)


def test_a_successor_that_sees_the_same_tells_nobody_but_its_handlers() -> None:
    old = book()
    old.fire(alert(), NOW)
    new = successor_of(old, NOW + 5)
    assert told(new.fire(alert(), NOW + 6)) is False
    assert (new.inherited, new.due(NOW + 1000)) == ((), [])


def test_what_fired_while_the_predecessor_lived_is_told_once_by_both_together() -> None:
    old, new = book(), book()
    old.fire(alert(), NOW)
    new.is_muted = True
    assert told(new.fire(alert(), NOW + 1)) is False
    new.adopt(old.records(NOW + 2), with_cooldowns=True)
    new.is_muted = False
    assert (new.due(NOW + 2), new.inherited) == ([], ())
    assert told(new.resolve("B1MemoryHigh", {}, NOW + 3)) is True


def test_what_fired_only_here_while_the_predecessor_lived_is_told_when_it_is_gone() -> None:
    new = book()
    new.is_muted = True
    new.fire(alert(), NOW)
    assert (new.due(NOW + 1), new.next_due_s(NOW + 1)) == ([], None)
    new.is_muted = False
    assert [change.alert.name for change in new.due(NOW + 2)] == ["B1MemoryHigh"]


def test_a_worse_turn_during_the_overlap_is_told_as_an_escalation() -> None:
    old, new = book(), book()
    old.fire(alert(), NOW)
    new.is_muted = True
    new.fire(alert(severity="critical"), NOW + 1)
    new.adopt(old.records(NOW + 2), with_cooldowns=True)
    new.is_muted = False
    (change,) = new.due(NOW + 2)
    assert (change.alert.severity, change.escalated_from) == (Severity.CRITICAL, Severity.WARNING)


@pytest.mark.parametrize(("with_cooldowns", "is_told"), [(True, False), (False, True)])
def test_cooldowns_pass_to_a_successor_but_not_to_a_server_started_anew(with_cooldowns: bool, is_told: bool) -> None:
    old = book()
    old.fire(alert(), NOW)
    old.resolve("B1MemoryHigh", {}, NOW + 1)
    new = successor_of(old, NOW + 2, with_cooldowns=with_cooldowns)
    assert told(new.fire(alert(), NOW + 3)) is is_told


def test_what_was_never_told_is_inherited_silently() -> None:
    old = book()
    old.fire(alert(), NOW)
    old.resolve("B1MemoryHigh", {}, NOW + 1)
    old.fire(alert(), NOW + 2)
    new = successor_of(old, NOW + 3)
    assert new.due(NOW + 1000) == []
    assert told(new.resolve("B1MemoryHigh", {}, NOW + 1000)) is False


def test_old_cooldowns_are_forgotten() -> None:
    one = book(cooldown_s=300)
    for n in range(50):
        one.fire(alert(f"A{n}"), NOW)
        one.resolve(f"A{n}", {}, NOW)
    assert len(one.records(NOW + 299)["told"]) == 50
    assert one.records(NOW + 300)["told"] == []
