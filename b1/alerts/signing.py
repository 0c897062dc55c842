"""The signer of alerts: that of `b1.outbound`, with the setting's name in what is said about a wrong secret."""

from __future__ import annotations

from b1.errors import InvalidSetting
from b1.outbound import Signer


def make_signer(secrets: str) -> Signer:
    """Return what signs with ``whsec_…``, or with several of them, separated by spaces.

    Raises:
        InvalidSetting: it is no such text; the text is not shown.
    """
    try:
        return Signer(secrets)
    except ValueError as wrong:
        raise InvalidSetting("ALERT_WEBHOOK_SECRET=*** does not parse", remedy=str(wrong)) from None
