"""How much memory counts against the limit, and giving freed memory back to the system.

Reading costs one small file (22 us). Without `malloc_trim` glibc keeps what Python freed: collecting alone gives back
nothing that was allocated in buffers.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def process_bytes(pid: int | str = "self", *, root: Path = Path("/")) -> int:
    """Return the resident memory of a process without the file pages it shares; 0 where /proc cannot say."""
    try:
        words = (root / "proc" / str(pid) / "statm").read_text().split()
        return (int(words[1]) - int(words[2])) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def used_bytes(*, root: Path = Path("/")) -> int:
    """Return what this worker and its gunicorn master hold together."""
    own = process_bytes(root=root)
    if own == 0:
        return _psutil_bytes()
    return own + _master_bytes(root)


@cache
def trimmer() -> Callable[[], int] | None:
    """Return glibc's `malloc_trim(0)`, which releases the GIL while it works; None with another allocator."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: int(trim(0))


def _master_bytes(root: Path) -> int:
    parent = os.getppid()
    try:
        is_gunicorn = b"gunicorn" in (root / "proc" / str(parent) / "cmdline").read_bytes()
    except OSError:
        return 0
    return process_bytes(parent, root=root) if is_gunicorn else 0


def _psutil_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
