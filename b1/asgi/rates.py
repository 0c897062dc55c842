"""Rates as text: "100/minute", "10 per hour", "5/10s", "1000/day", and "50/minute+10" for a steady rate with a burst."""

from __future__ import annotations

from typing import Any, NamedTuple

from b1.errors import ConfigurationError
from b1.limiter import parse_rate

FORMS = '"100/minute", "10 per hour", "5/10s", "1000/day", or with a burst "50/minute+10"'


class RateText(NamedTuple):
    """`quota` units per `window_s` seconds; with `burst`, evenly, and so many at once (GCRA)."""

    quota: int
    window_s: int
    burst: int = 0

    def shape(self) -> dict[str, Any]:
        """Return the fields of `Policy` that make a burst."""
        return {"algorithm": "gcra", "burst": self.burst} if self.burst else {}


def read_rate(text: str) -> RateText:
    """Read a rate.

    Raises:
        ConfigurationError: the text is none; the message shows the accepted forms.
    """
    base, plus, burst = text.partition("+") if isinstance(text, str) else (text, "", "")
    try:
        rate = parse_rate(base)
    except ValueError:
        raise _wrong(text) from None
    if not plus:
        return RateText(*rate)
    burst = burst.strip()
    if not (burst.isascii() and burst.isdecimal() and int(burst) > 0):
        raise _wrong(text)
    return RateText(rate.quota, rate.window_s, int(burst))


def _wrong(text: object) -> ConfigurationError:
    return ConfigurationError(f"{text!r} is not a rate", remedy=f"use {FORMS}; numbers start at 1")
