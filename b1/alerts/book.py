"""Which alerts fire now, which of them the receiver knows of, and when a change may be told. Pure; times are wall time.

Cool-down is about telling, never about being: an alert that comes back soon after it was told fires at once for the
application's handlers, and the receiver hears of it when the cool-down is over, if it still fires then. A higher severity
is told at once. Wall time, because the book outlives the process; a clock that was set back counts as no time passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from b1.alerts.alert import Alert, Severity, alert_from

FIRING_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Change:
    """What one call changed.

    Attributes:
        is_told: the receiver has to learn of it now.
        escalated_from: the severity that the receiver knows it by.
    """

    alert: Alert
    is_told: bool
    escalated_from: Severity | None = None


@dataclass(slots=True)
class _Held:
    """A firing alert. `told_as` is the severity that the receiver knows; None when it knows nothing."""

    alert: Alert
    told_as: Severity | None = None
    is_inherited: bool = False


class Book:
    """The alerts of one instance.

    Args:
        cooldown_s: least time between two messages that the same alert fires.
        limit: alerts that may fire at once; more are refused and counted.
    """

    def __init__(self, *, cooldown_s: float, limit: int = FIRING_LIMIT) -> None:
        self.is_muted = False
        self.refused = 0
        self._cooldown_s = cooldown_s
        self._limit = limit
        self._firing: dict[str, _Held] = {}
        self._told: dict[str, tuple[Severity, float]] = {}

    def __repr__(self) -> str:
        return f"<Book firing={sorted(self._firing)}{' muted' if self.is_muted else ''}>"

    @property
    def firing(self) -> tuple[Alert, ...]:
        """What fires now, oldest first."""
        return tuple(held.alert for held in self._firing.values())

    @property
    def inherited(self) -> tuple[str, ...]:
        """Names that a predecessor fired and nobody here has confirmed."""
        return tuple(name for name, held in self._firing.items() if held.is_inherited)

    def fire(self, alert: Alert, now_s: float) -> Change | None:
        """Let it fire; None when it does already, with this severity or a higher one."""
        held = self._firing.get(alert.name)
        if held is not None and alert.severity.rank <= held.alert.severity.rank:
            was_inherited, held.is_inherited = held.is_inherited, False
            # Told already, by the predecessor; but for the handlers of this process it begins now.
            return Change(replace(alert, starts_at_s=held.alert.starts_at_s), is_told=False) if was_inherited else None
        if held is None:
            if len(self._firing) >= self._limit:
                self.refused += 1
                return None
            held = self._firing[alert.name] = _Held(alert)
        else:
            held.alert = replace(alert, starts_at_s=held.alert.starts_at_s)
            held.is_inherited = False
        return self._tell(held, now_s) or Change(held.alert, is_told=False)

    def resolve(self, name: str, annotations: Mapping[str, str], now_s: float) -> Change | None:
        """End it; None when it does not fire. What was never told to fire is not told to be over."""
        held = self._firing.pop(name, None)
        if held is None:
            return None
        known = held.told_as or held.alert.severity
        ended = replace(
            held.alert,
            severity=known,
            annotations={**held.alert.annotations, **annotations},
            ends_at_s=max(now_s, held.alert.starts_at_s),
        )
        return Change(ended, is_told=held.told_as is not None)

    def due(self, now_s: float) -> list[Change]:
        """Return what fires, is not told yet, and may be told now."""
        return [change for held in self._firing.values() if (change := self._tell(held, now_s)) is not None]

    def next_due_s(self, now_s: float) -> float | None:
        """Return in how many seconds `due` has something, None when nothing waits."""
        waiting = [
            self._cooling_s(held, now_s)
            for held in self._firing.values()
            if held.told_as is not held.alert.severity and not held.is_inherited
        ]
        return None if self.is_muted or not waiting else min(waiting)

    def records(self, now_s: float) -> dict[str, Any]:
        """Return what `adopt` reads."""
        self._forget(now_s)
        return {
            "firing": [
                held.alert.as_record() | {"toldAs": None if held.told_as is None else str(held.told_as)}
                for held in self._firing.values()
            ],
            "told": [[name, str(severity), at_s] for name, (severity, at_s) in self._told.items()],
        }

    def adopt(self, records: Mapping[str, Any], *, with_cooldowns: bool) -> None:
        """Take over what a predecessor left. What fires here already stays ours, and is not told twice.

        Raises:
            KeyError, TypeError, ValueError: these are no such records.
        """
        inherited = [(alert_from(record), record.get("toldAs")) for record in records.get("firing", ())]
        told = [(str(name), Severity(severity), float(at_s)) for name, severity, at_s in records.get("told", ())]
        for alert, told_as in inherited[: self._limit]:
            self._inherit(alert, None if told_as is None else Severity(told_as))
        for name, severity, at_s in told[: self._limit * 2] if with_cooldowns else ():
            self._told.setdefault(name, (severity, at_s))

    def _inherit(self, alert: Alert, told_as: Severity | None) -> None:
        held = self._firing.get(alert.name)
        if held is None:
            self._firing[alert.name] = _Held(alert, told_as, is_inherited=True)
            return
        held.alert = replace(held.alert, starts_at_s=min(held.alert.starts_at_s, alert.starts_at_s))
        if held.told_as is None and told_as is not None:
            held.told_as = told_as
            if held.alert.severity.rank < told_as.rank:
                held.alert = replace(held.alert, severity=told_as)

    def _tell(self, held: _Held, now_s: float) -> Change | None:
        severity = held.alert.severity
        is_known = held.told_as is severity or held.is_inherited
        if self.is_muted or is_known or self._cooling_s(held, now_s) > 0:
            return None
        change = Change(held.alert, is_told=True, escalated_from=held.told_as)
        held.told_as = severity
        self._told[held.alert.name] = (severity, now_s)
        return change

    def _cooling_s(self, held: _Held, now_s: float) -> float:
        told = self._told.get(held.alert.name)
        if held.told_as is not None or told is None or held.alert.severity.rank > told[0].rank:
            return 0.0
        if now_s < told[1]:  # the clock was set back: counted from now, or it would last until the clock is there again
            told = self._told[held.alert.name] = (told[0], now_s)
        return max(0.0, self._cooldown_s - (now_s - told[1]))

    def _forget(self, now_s: float) -> None:
        over = [name for name, (_, at_s) in self._told.items() if now_s - at_s >= self._cooldown_s]
        for name in over:
            if name not in self._firing:
                del self._told[name]


def names_of(alerts: Iterable[Alert]) -> tuple[str, ...]:
    """Return their names."""
    return tuple(alert.name for alert in alerts)
