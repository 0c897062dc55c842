"""Who owns a claim, in sixteen bytes; and whether that process is gone, which its own host alone can say.

A process is named by its host, its number and the moment it began: numbers are given again, the three together are not.
The host is one boot of one kernel and one namespace of process numbers, so two containers never judge each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path

OWNER = struct.Struct(">4sIQ")
"""Digest of the host, process number, its begin in clock ticks since the boot."""
NOBODY = b""
"""Where the system does not say; such an owner is never found gone."""

_PROC = Path("/proc")
_BOOT = _PROC / "sys/kernel/random/boot_id"
_NAMESPACE = _PROC / "self/ns/pid"
# Fields behind the command's name, which may hold anything and ends at the last bracket.
_STATE, _BEGAN = 0, 19
_ENDED = frozenset({"Z", "X", "x"})


def own_name() -> bytes:
    """Return this process's name, or `NOBODY`. Reads files: call it in a thread."""
    try:
        fields = _fields_of(os.getpid())
        return OWNER.pack(_host(), os.getpid(), int(fields[_BEGAN]))
    except (OSError, ValueError, IndexError, struct.error):
        return NOBODY


def is_gone(name: bytes) -> bool:
    """Say whether the process is known to have ended; False where nobody here can know. Reads files, as above."""
    with contextlib.suppress(OSError, ValueError, IndexError, struct.error):
        host, number, began = OWNER.unpack(name)
        return host == _host() and _has_ended(number, began)
    return False


def _has_ended(number: int, began: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, or its number does
    fields = _fields_of(number)
    return fields[_STATE] in _ENDED or int(fields[_BEGAN]) != began


def _fields_of(number: int) -> list[str]:
    return (_PROC / str(number) / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _host() -> bytes:
    seen = f"{_BOOT.read_text().strip()} {_NAMESPACE.stat().st_ino}"
    return hashlib.sha256(seen.encode()).digest()[:4]
