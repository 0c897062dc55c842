"""What the head of an answer asks for. Pure."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime


def retry_after_s(text: str | None, now_s: float) -> float | None:
    """Read Retry-After: seconds or an HTTP date; None where it is neither.

    Args:
        now_s: wall time, for a date.
    """
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": UTC without saying so
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_s)
