"""Pressure for staging: a file with a ratio such as 0.87 replaces the measured one, so that every rung can be climbed.

Nothing is allocated. An absent or empty file, or ``off``, means the measured pressure again.
"""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("b1.governor")

RATIO_LIMIT = 2.0


class Injection:
    """The file. Read with every sample, off the loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._complained_of: str | None = None

    def __repr__(self) -> str:
        return f"<Injection {self._path.name}>"

    def ratio(self) -> float | None:
        """Return the ratio that the file asks for, at most 2; None for the measured one."""
        try:
            text = self._path.read_text(errors="replace")[:32].strip().lower()
        except OSError:
            return None
        if text in ("", "off"):
            return None
        try:
            ratio = float(text)
        except ValueError:
            ratio = -1.0
        if not 0.0 <= ratio <= RATIO_LIMIT:  # not a number is outside, too
            self._complain(text)
            return None
        return ratio

    def _complain(self, text: str) -> None:
        if text != self._complained_of:
            self._complained_of = text
            log.warning("injected pressure is no ratio", extra={"found": text, "expected": "0.0 to 2.0, or off"})
