"""Exec another program as a lesser user, tied to the life of its starter. Run as a script, never imported.

Postgres refuses to run as root, and the user it then runs as cannot look below a folder such as /root. Exactly one
capability, passing search permission, is carried over the change of user; a program can only do that to itself and
before exec, which is why this is a process of its own and not a ``preexec_fn`` (unsafe beside threads).
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def main(words: list[str]) -> None:
    """Exec ``words[5:]``; the five before it are parent pid, signal, uid, gid and capability (-1 means none)."""
    parent, death_signal, uid, gid, capability = (int(word) for word in words[:5])
    libc = ctypes.CDLL(None, use_errno=True)
    if uid >= 0:
        _become(libc, uid, gid, capability)
    if death_signal > 0 and sys.platform == "linux":
        _checked(libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it died before the line above took effect
            sys.exit(1)
    os.execv(words[5], words[5:])


def _become(libc: ctypes.CDLL, uid: int, gid: int, capability: int) -> None:
    if capability >= 0:
        # Keeps all capabilities over the change of user, until capset below. Without it access(2), by which initdb looks
        # for its programs, would also ignore the one that stays.
        _checked(libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl(PR_SET_SECUREBITS)")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if capability >= 0:
        only = 1 << capability
        sets = (_Sets * 2)(_Sets(only, only, only), _Sets(0, 0, 0))
        _checked(libc.capset(ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), sets), "capset")
        _checked(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0), "prctl(PR_CAP_AMBIENT)")


def _checked(result: int, call: str) -> None:
    if result != 0:
        sys.exit(f"{call}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(sys.argv[1:])
