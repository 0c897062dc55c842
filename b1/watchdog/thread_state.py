"""What the kernel says about one thread: whether it wants a core and how often it waited for a page from disk."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class ThreadState(NamedTuple):
    """From ``/proc/self/task/<id>/stat``.

    Attributes:
        is_ready: on a core, or waiting for one.
        page_faults: pages read from disk or swap for it, since it began.
    """

    is_ready: bool
    page_faults: int


def read_thread(native_id: int, *, root: Path = Path("/")) -> ThreadState | None:
    """Return the state, or None where the system does not tell."""
    try:
        text = (root / f"proc/self/task/{native_id}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    if len(fields) < 10 or not fields[9].isdigit():
        return None
    return ThreadState(fields[0] == "R", int(fields[9]))
