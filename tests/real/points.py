"""The points at which `tests.real.doomed` can be told to die, and how to tell it. Importing this changes nothing.

In the order in which a request passes them; committing is some instant between the first byte of the last statements and
their answer, storing is when the record is on its way to Redis.
"""

from __future__ import annotations

from pathlib import Path

POINTS = (
    "before-claim", "claimed", "in-transaction", "before-commit", "committing", "committed", "storing", "answering",
)  # fmt: skip


def order(folder: Path, point: str) -> Path:
    """Ask for one death at `point`; return the file that is there until somebody dies."""
    part, doom = folder / "doom.part", folder / "doom"
    part.write_text(point)
    part.replace(doom)
    return doom


def linger(folder: Path, wait_s: float) -> Path:
    """Make every transaction wait, after its effect, until the returned file is removed."""
    file = folder / "linger"
    file.write_text(str(wait_s))
    return file
