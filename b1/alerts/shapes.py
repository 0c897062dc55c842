"""A transition as the body that a receiver understands: Alertmanager's v4 webhook, Slack, or Teams. Pure.

The fingerprint is Prometheus' own (FNV-1a over the sorted labels), so that a receiver which knows alerts by it matches
ours like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from b1.alerts.alert import Alert, Severity, Transition

RECEIVER = "b1"
_FACT_LENGTH = 500  # chat services refuse messages of more than some 28 KB
_NEVER = "0001-01-01T00:00:00Z"
_FNV_OFFSET, _FNV_PRIME, _FNV_MASK = 0xCBF29CE484222325, 0x100000001B3, 0xFFFF_FFFF_FFFF_FFFF


def render(shape: str, transition: Transition, external_url: str) -> bytes:
    """Return the body, the same bytes for every attempt.

    Raises:
        KeyError: no such shape.
    """
    document = _SHAPES[shape](transition, external_url)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return Prometheus' fingerprint of a set of labels, 16 hexadecimal digits."""
    digest = _FNV_OFFSET
    for name in sorted(labels):
        for byte in (*name.encode(), 0xFF, *labels[name].encode(), 0xFF):
            digest = ((digest ^ byte) * _FNV_PRIME) & _FNV_MASK
    return f"{digest:016x}"


def _alertmanager(transition: Transition, external_url: str) -> dict[str, Any]:
    alert, was = transition.alert, transition.escalated_from
    alerts = [_one(alert, alert.severity, transition, external_url, ends_at_s=alert.ends_at_s)]
    if was is not None:
        # Severity is a label: for the receiver the milder alert is another series, and it ends here.
        alerts.append(_one(alert, was, transition, external_url, ends_at_s=transition.at_s))
    first = alerts[0]["labels"]
    return {
        "version": "4",
        "groupKey": "{}:{alertname=" + json.dumps(alert.name, ensure_ascii=False) + "}",
        "truncatedAlerts": 0,
        "status": alert.status,
        "receiver": RECEIVER,
        "groupLabels": {"alertname": alert.name},
        "commonLabels": {
            name: value for name, value in first.items() if all(a["labels"][name] == value for a in alerts)
        },
        "commonAnnotations": alerts[0]["annotations"],
        "externalURL": external_url,
        "alerts": alerts,
    }


def _one(
    alert: Alert, severity: Severity, transition: Transition, external_url: str, *, ends_at_s: float | None
) -> dict[str, Any]:
    labels = {"alertname": alert.name, "severity": str(severity), "instance": transition.instance}
    return {
        "status": "firing" if ends_at_s is None else "resolved",
        "labels": labels,
        "annotations": {"summary": alert.summary, **alert.annotations},
        "startsAt": _moment(alert.starts_at_s),
        "endsAt": _NEVER if ends_at_s is None else _moment(ends_at_s),
        "generatorURL": external_url,
        "fingerprint": fingerprint(labels),
    }


def _slack(transition: Transition, external_url: str) -> dict[str, Any]:
    alert = transition.alert
    facts = "\n".join(f"*{_slack_text(name)}:* {_slack_text(value)}" for name, value in _facts(transition))
    blocks: list[dict[str, Any]] = [
        {"type": "section", "text": {"type": "mrkdwn", "text": f"*{_slack_text(_title(alert))}*\n{facts}"[:3000]}}
    ]
    if external_url:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": f"<{external_url}|Look at it>"}})
    return {"text": f"{_slack_text(_title(alert))}: {_slack_text(alert.summary)}", "blocks": blocks}


def _teams(transition: Transition, external_url: str) -> dict[str, Any]:
    alert = transition.alert
    colour = "good" if not alert.is_firing else "attention" if alert.severity is Severity.CRITICAL else "warning"
    facts = [{"title": name, "value": value} for name, value in _facts(transition)]
    card: dict[str, Any] = {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4",
        "body": [
            {"type": "TextBlock", "weight": "bolder", "color": colour, "text": _title(alert), "wrap": True},
            {"type": "FactSet", "facts": facts},
        ],
    }
    if external_url:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Look at it", "url": external_url}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


_SHAPES: dict[str, Callable[[Transition, str], dict[str, Any]]] = {
    "alertmanager": _alertmanager,
    "slack": _slack,
    "teams": _teams,
}


def _title(alert: Alert) -> str:
    word = alert.severity.upper() if alert.is_firing else "RESOLVED"
    return f"[{word}] {alert.name}"


def _facts(transition: Transition) -> list[tuple[str, str]]:
    alert = transition.alert
    said = ((name, value[:_FACT_LENGTH]) for name, value in alert.annotations.items())
    facts = [("summary", alert.summary), *said, ("instance", transition.instance)]
    facts.append(("since", _moment(alert.starts_at_s)))
    if alert.ends_at_s is not None:
        facts.append(("until", _moment(alert.ends_at_s)))
    return facts


def _slack_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _moment(wall_s: float) -> str:
    moment = datetime.fromtimestamp(wall_s, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
