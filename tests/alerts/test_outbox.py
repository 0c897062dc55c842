"""The bound, the order and what is dropped."""

from __future__ import annotations

from b1.alerts.alert import Alert, Severity, Transition
from b1.alerts.outbox import PATIENCE_ATTEMPTS, Outbox


def transition(name: str, status: str = "firing", severity: str = "warning", at_s: float = 0.0) -> Transition:
    ends_at_s = None if status == "firing" else at_s
    alert = Alert(name, Severity(severity), "", {}, at_s, ends_at_s)
    return Transition(f"{name}-{status}-{at_s:g}", alert, "box", at_s)


def ids(outbox: Outbox) -> list[str]:
    return [one.id for one in outbox]


def drained(outbox: Outbox) -> list[str]:
    order = []
    while (one := outbox.next()) is not None:
        order.append(one.id)
        outbox.settle(one)
    return order


def filled(*transitions: Transition, limit: int = 64) -> Outbox:
    outbox = Outbox(limit=limit, keep_s=100)
    for one in transitions:
        outbox.put(one, one.at_s)
    outbox.release(outbox.mark)
    return outbox


def test_critical_goes_first_and_each_alert_keeps_its_order() -> None:
    outbox = filled(
        transition("High"),
        transition("Critical", severity="critical", at_s=1),
        transition("Critical", "resolved", "critical", at_s=2),
        transition("High", "resolved", at_s=3),
    )
    assert drained(outbox) == ["Critical-firing-1", "Critical-resolved-2", "High-firing-0", "High-resolved-3"]


def test_when_full_what_a_later_message_makes_obsolete_goes_first() -> None:
    outbox = filled(transition("A"), transition("B"), transition("B", "resolved"), limit=3)
    lost = outbox.put(transition("C"), 0)
    assert lost is not None
    assert (lost.id, ids(outbox), outbox.dropped) == (
        "B-firing-0", ["A-firing-0", "B-resolved-0", "C-firing-0"], 1,
    )  # fmt: skip


def test_when_nothing_is_obsolete_the_oldest_mild_one_goes() -> None:
    outbox = filled(transition("A", severity="critical"), transition("B"), transition("C"), limit=3)
    lost = outbox.put(transition("D", severity="critical"), 0)
    assert lost is not None
    assert lost.id == "B-firing-0"


def test_the_bound_holds_and_the_last_word_of_an_alert_survives_a_storm() -> None:
    outbox = Outbox(limit=8, keep_s=100)
    outbox.put(transition("Quiet", severity="critical"), 0)
    for n in range(500):
        outbox.put(transition("Noisy", "firing" if n % 2 else "resolved", at_s=n), n)
    outbox.release(outbox.mark)
    assert len(outbox) == 8
    assert ids(outbox)[0] == "Quiet-firing-0"
    assert ids(outbox)[-1] == "Noisy-firing-499"


def test_a_message_that_the_receiver_dislikes_lets_others_pass_after_a_while() -> None:
    disliked, other = transition("Disliked", severity="critical"), transition("Other")
    outbox = filled(disliked, other)
    for _ in range(PATIENCE_ATTEMPTS):
        assert outbox.next() is disliked
        outbox.note_failure(disliked)
    assert outbox.next() is other


def test_what_is_too_old_is_dropped_and_counted() -> None:
    outbox = filled(transition("Old", at_s=0), transition("New", at_s=60))
    assert outbox.expire(101) == 1
    assert (ids(outbox), outbox.dropped) == (["New-firing-60"], 1)


def test_what_another_process_waited_with_is_as_old_as_it_was_there() -> None:
    outbox = Outbox(limit=64, keep_s=100)
    outbox.put(transition("Inherited"), 1000, age_s=60)
    outbox.put(transition("From the future"), 1000, age_s=-5000)  # the wall clock was set back meanwhile
    assert (0, 1, 1) == (outbox.expire(1040), outbox.expire(1041), outbox.expire(1101))


def test_nothing_goes_before_it_is_released_and_what_comes_later_waits() -> None:
    outbox = Outbox(limit=64, keep_s=100)
    first, second = transition("A"), transition("B", severity="critical")
    outbox.put(first, 0)
    mark = outbox.mark
    outbox.put(second, 0)
    assert outbox.next() is None
    outbox.release(mark)
    assert outbox.next() is first
    outbox.release(outbox.mark)
    assert outbox.next() is second
