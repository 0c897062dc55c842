"""What processes hold, as /proc says it, and giving freed memory back to the system.

`statm` costs 12 us and misses what is shared or swapped out; `smaps_rollup` counts exactly and costs 0.1 to 8 ms. Without
`malloc_trim` glibc keeps what Python freed: collecting alone gives back nothing that was allocated in buffers.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from b1.host import read_counters

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# More relatives than this are not looked at: one master, two workers while they overlap, and what a worker may start.
RELATIVES_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Share:
    """What a process is accountable for: its part of shared pages counted, and what of it lies in swap."""

    proportional_bytes: int
    swapped_bytes: int


@dataclass(frozen=True, slots=True)
class Family:
    """Whose memory is ours.

    `members`: this process, its gunicorn master, and all their descendants (the successor of a worker is one).
    `ancestors`: the processes above, such as a container's shell; they count only as company in a control group.
    """

    pid: int
    members: frozenset[int]
    ancestors: frozenset[int]


def process_bytes(pid: int | str = "self", *, root: Path = Path("/")) -> int:
    """Return the resident memory of a process without the file pages it shares; 0 where /proc cannot say."""
    try:
        words = (root / "proc" / str(pid) / "statm").read_text().split()
        return (int(words[1]) - int(words[2])) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def process_share(pid: int | str = "self", *, root: Path = Path("/")) -> Share | None:
    """Return the exact share of a process; None where it cannot be read. Not for the event loop: up to 8 ms."""
    counters = read_counters(root / "proc" / str(pid) / "smaps_rollup")
    if "Pss" not in counters:
        return None
    swapped = counters.get("SwapPss", counters.get("Swap", 0))
    return Share(counters["Pss"] + swapped, swapped)


def used_bytes(*, root: Path = Path("/")) -> int:
    """Return what this worker and its gunicorn master hold together, cheaply."""
    own = process_bytes(root=root)
    if own == 0:
        return _psutil_bytes()
    return own + _master_bytes(root)


def family(*, root: Path = Path("/")) -> Family:
    """Find the processes whose memory is ours, by /proc's own process ids."""
    status = read_counters(root / "proc/self/status")
    pid = status.get("Pid", os.getpid())
    chain = list(_ancestors(pid, root))
    master = chain[0] if chain and _is_gunicorn(chain[0], root) else None
    members = {pid}
    waiting = [master or pid]
    while waiting and len(members) < RELATIVES_LIMIT:
        one = waiting.pop()
        members.add(one)
        waiting += [child for child in _children(one, root) if child not in members]
    return Family(pid, frozenset(members), frozenset(chain) - members)


@cache
def trimmer() -> Callable[[], int] | None:
    """Return glibc's `malloc_trim(0)`, which releases the GIL while it works; None with another allocator."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: int(trim(0))


def _ancestors(pid: int, root: Path) -> Iterator[int]:
    for _ in range(16):
        pid = read_counters(root / "proc" / str(pid) / "status").get("PPid", 0)
        if pid == 0:
            return
        yield pid


def _children(pid: int, root: Path) -> list[int]:
    found: list[int] = []
    try:
        for task in (root / "proc" / str(pid) / "task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    except (OSError, ValueError):
        pass  # the process or a thread of it is gone, or the kernel was built without this list
    return found


def _master_bytes(root: Path) -> int:
    parent = os.getppid()
    return process_bytes(parent, root=root) if _is_gunicorn(parent, root) else 0


def _is_gunicorn(pid: int, root: Path) -> bool:
    try:
        return b"gunicorn" in (root / "proc" / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _psutil_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
