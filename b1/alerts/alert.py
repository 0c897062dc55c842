"""What an alert is, and the change of one that has to be told. Pure values.

A transition owns the `webhook-id`: every attempt to tell it, by this worker or a successor, carries the same one, so that
a receiver can tell a repeat from news.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAME_LENGTH = 100
SUMMARY_LENGTH = 500
ANNOTATIONS = 16
ANNOTATION_LENGTH = 2000


class Severity(enum.StrEnum):
    """How bad it is."""

    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Higher is worse."""
        return 1 if self is Severity.CRITICAL else 0


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert at one moment.

    Attributes:
        name: as in `alertname`; identifies it on this instance.
        is_firing: False once it is resolved.
        annotations: short texts for people and programs; bounded in number and length.
        starts_at_s: when it began, seconds since 1970.
        ends_at_s: when it was resolved; None while it fires.
    """

    name: str
    severity: Severity
    summary: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    starts_at_s: float = 0.0
    ends_at_s: float | None = None

    @property
    def is_firing(self) -> bool:
        return self.ends_at_s is None

    @property
    def status(self) -> str:
        """``firing`` or ``resolved``."""
        return "firing" if self.is_firing else "resolved"

    def as_record(self) -> dict[str, Any]:
        """Return what `alert_from` reads."""
        return {
            "name": self.name,
            "severity": str(self.severity),
            "summary": self.summary,
            "annotations": dict(self.annotations),
            "startsAt": self.starts_at_s,
            "endsAt": self.ends_at_s,
        }


@dataclass(frozen=True, slots=True)
class Transition:
    """A change that the receiver has to learn of.

    Attributes:
        id: the `webhook-id`, the same for every attempt.
        instance: where it happened, as the receiver sees it.
        escalated_from: the severity it had been told with before; that series ends with this message.
    """

    id: str
    alert: Alert
    instance: str
    at_s: float
    escalated_from: Severity | None = None

    def as_record(self) -> dict[str, Any]:
        """Return what `transition_from` reads."""
        return {
            "id": self.id,
            "alert": self.alert.as_record(),
            "instance": self.instance,
            "at": self.at_s,
            "escalatedFrom": None if self.escalated_from is None else str(self.escalated_from),
        }


def bounded_annotations(annotations: Mapping[str, object] | None) -> dict[str, str]:
    """Return at most 16 annotations as texts of at most 2000 characters, so that a message stays below 40 KiB."""
    if not annotations:
        return {}
    kept = list(annotations.items())[:ANNOTATIONS]
    return {str(name)[:NAME_LENGTH]: _printable(str(value))[:ANNOTATION_LENGTH] for name, value in kept}


def bounded_summary(summary: str) -> str:
    """Return a summary that fits."""
    return _printable(summary)[:SUMMARY_LENGTH]


def checked_name(name: str) -> str:
    """Return the name of an alert as it was given.

    Raises:
        ValueError: it is empty or too long.
    """
    if not 0 < len(name) <= NAME_LENGTH:
        raise ValueError(f"an alert's name has 1 to {NAME_LENGTH} characters, seen {len(name)}")
    return name


def alert_from(record: Mapping[str, Any]) -> Alert:
    """Read what `Alert.as_record` made, by this version or its neighbours.

    Raises:
        KeyError, TypeError, ValueError: it is no such record.
    """
    ends = record.get("endsAt")
    return Alert(
        name=checked_name(str(record["name"])),
        severity=Severity(record["severity"]),
        summary=bounded_summary(str(record.get("summary", ""))),
        annotations=bounded_annotations(record.get("annotations")),
        starts_at_s=float(record["startsAt"]),
        ends_at_s=None if ends is None else float(ends),
    )


def transition_from(record: Mapping[str, Any]) -> Transition:
    """Read what `Transition.as_record` made.

    Raises:
        KeyError, TypeError, ValueError: it is no such record.
    """
    was = record.get("escalatedFrom")
    identity = str(record["id"])
    if not identity.isascii() or not identity.isprintable() or not 0 < len(identity) <= NAME_LENGTH:
        raise ValueError("a webhook-id is visible ASCII")
    return Transition(
        id=identity,
        alert=alert_from(record["alert"]),
        instance=str(record["instance"])[:NAME_LENGTH],
        at_s=float(record["at"]),
        escalated_from=None if was is None else Severity(was),
    )


def _printable(text: str) -> str:
    # A lone surrogate (an undecodable file name in a report) would make the message impossible to encode.
    return text.encode("utf-8", "replace").decode()
