"""Which calls of ours may block the event loop, each with its reason. Everything else fails the test that does it.

An entry is (end of the file's name, functions, the blocked calls, reason). Add one only with a reason that names what
bounds the time: memory-backed files, a descriptor that never waits.
"""

from __future__ import annotations

from typing import NamedTuple


class Allowed(NamedTuple):
    """One exception to "nothing blocks the loop"."""

    file: str
    functions: frozenset[str]
    reason: str


ALLOWED = (
    Allowed(
        "<frozen importlib._bootstrap>",
        frozenset({"_find_and_load"}),
        "an import inside a function, for weight, reads its file once in the process's life",
    ),
    Allowed(
        "linecache.py",
        frozenset({"updatecache", "checkcache"}),
        "a traceback that is being written reads the source lines it shows",
    ),
    Allowed(
        "b1/governor/memory.py",
        frozenset({"process_bytes", "_master_bytes"}),
        "/proc is answered by the kernel from memory, in 22 us; a thread would cost more than the read",
    ),
    Allowed(
        "b1/governor/replacing.py",
        frozenset({"allow", "recent"}),
        "a few bytes on local disk, once in a worker's life: right before it ends",
    ),
    Allowed(
        "b1/profile.py",
        frozenset({"_new_runtime"}),
        "start-up, before any request: reads /proc, the control groups, and looks where slots may lie",
    ),
    Allowed(
        "b1/assembly.py",
        frozenset({"build_stack"}),
        "start-up, before any request: reads the page's file once",
    ),
    Allowed(
        "b1/slots.py",
        frozenset(
            {"open", "close", "_open", "_close", "_lock", "_write", "_make_private", "take", "want", "others_want"}
        ),
        "lock files of a few bytes in /dev/shm: memory, and never a blocking lock",
    ),
    Allowed(
        "asyncpg/connect_utils.py",
        frozenset({"_parse_connect_dsn_and_args"}),
        "asyncpg looks for a password file and certificates at each connect; three connections, minutes apart",
    ),
)
