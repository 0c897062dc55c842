"""The two alerts of the memory ladder: a warning from `high` on, a critical one from `critical` on.

Each fires on the way up and is resolved on the way down, so a jump from normal to critical fires both, the critical one
first, and a fall from critical to severe resolves the critical one and leaves the warning.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Protocol

from b1.alerts.alert import Alert, Severity
from b1.alerts.service import Alerts
from b1.units import format_bytes

HIGH = "B1MemoryHigh"
CRITICAL = "B1MemoryCritical"
_LEVELS = ("normal", "elevated", "high", "severe", "critical", "emergency")


class Reading(Protocol):
    """What the governor's snapshot says."""

    @property
    def used_bytes(self) -> int: ...

    @property
    def limit_bytes(self) -> int: ...

    @property
    def report_path(self) -> str | None:
        """The report of what holds the memory: the last one, or the one that is about to be written."""
        ...


class MemoryAlerts:
    """Turns levels into alerts. Levels are known by name, since the governor is a sibling.

    Args:
        clean_up: called once whenever the critical alert begins: gives up what can be had again. A plain call that
            returns at once (`Governor.clean_up`).
    """

    def __init__(self, alerts: Alerts, clean_up: Callable[[], object] | None = None) -> None:
        self._alerts = alerts
        if clean_up is not None:
            alerts.on_alert(Severity.CRITICAL)(lambda alert: _clean_up_for(alert, clean_up))

    def __repr__(self) -> str:
        return f"<MemoryAlerts of {self._alerts!r}>"

    def on_level(
        self,
        previous: enum.Enum,
        level: enum.Enum,
        snapshot: Reading,
        annotations: Mapping[str, object] | None = None,
    ) -> None:
        """Fire or resolve what the new level asks for; harmless when called again with the same level.

        Args:
            annotations: what else to say.
        """
        del previous  # the level alone decides: a call that was missed heals itself with the next one
        name = level.name.lower()
        facts = {"level": name, "bytes": snapshot.used_bytes, "limit": snapshot.limit_bytes, **(annotations or {})}
        rank = _LEVELS.index(name)
        if rank >= _LEVELS.index("critical"):
            report = {"report": snapshot.report_path} if snapshot.report_path is not None else {}
            summary = _summary(snapshot, "the worker is being replaced")
            self._alerts.fire(CRITICAL, Severity.CRITICAL, summary, report | facts)
        else:
            self._alerts.resolve(CRITICAL, facts)
        if rank >= _LEVELS.index("high"):
            self._alerts.fire(HIGH, Severity.WARNING, _summary(snapshot, "memory is being reclaimed"), facts)
        else:
            self._alerts.resolve(HIGH, facts)


def _clean_up_for(alert: Alert, clean_up: Callable[[], object]) -> None:
    if alert.name == CRITICAL:  # the application has critical alerts of its own, which are none of memory's business
        clean_up()


def _summary(snapshot: Reading, doing: str) -> str:
    share = 100 * snapshot.used_bytes / max(1, snapshot.limit_bytes)
    return (
        f"{format_bytes(snapshot.used_bytes)} of {format_bytes(snapshot.limit_bytes)} in use ({share:.0f} %): {doing}"
    )
