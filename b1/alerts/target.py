"""Where alerts go: a URL, and the form of the body that its receiver understands."""

from __future__ import annotations

from dataclasses import dataclass

from b1 import outbound
from b1.errors import InvalidSetting

SHAPES = ("alertmanager", "slack", "teams")
_SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
_TEAMS_HOSTS = (".webhook.office.com", ".logic.azure.com", ".powerplatform.com", ".powerautomate.com")


@dataclass(frozen=True, slots=True)
class Target(outbound.Target):
    """A receiver of alerts.

    Attributes:
        shape: which body it understands.
    """

    shape: str = "alertmanager"


def parse_target(url: str) -> Target:
    """Take a webhook's URL apart.

    Raises:
        InvalidSetting: it is no http or https URL with a host; the URL is not shown.
    """
    prefix, colon, rest = url.strip().partition("://")
    asked, _, scheme = prefix.lower().rpartition("+")
    try:
        where = outbound.parse_target(f"{scheme}{colon}{rest}")
    except ValueError:
        raise _invalid() from None
    if asked not in ("", *SHAPES):
        raise _invalid()
    return Target(
        is_tls=where.is_tls,
        host=where.host,
        port=where.port,
        path=where.path,
        authorization=where.authorization,
        shape=asked or _shape_of(where.host),
    )


def _shape_of(host: str) -> str:
    if host in _SLACK_HOSTS:
        return "slack"
    return "teams" if host.endswith(_TEAMS_HOSTS) else "alertmanager"


def _invalid() -> InvalidSetting:
    return InvalidSetting(
        "ALERT_WEBHOOK_URL=*** does not parse",
        remedy="expected https://host/path; slack+https://… or teams+https://… choose the body's form",
    )
