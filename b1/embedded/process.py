"""Start programs that must not outlive us, as root under a lesser user.

Linux ties "dies with its starter" to the *thread* that forked, so `start` belongs to the main thread. Elsewhere the
tie does not exist and the next start takes over what is left.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_LAUNCH = Path(__file__).with_name("launch.py")
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_SETPCAP = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """The user a program runs as when we are root.

    Attributes:
        uid, gid: whom to become.
        capability: number of the one Linux capability that is kept, None for none.
    """

    uid: int
    gid: int
    capability: int | None = None


def start(
    command: Sequence[str | Path],
    *,
    identity: Identity | None = None,
    death_signal: signal.Signals | None = None,
    own_session: bool = False,
    own_group: bool = False,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    output: IO[Any] | int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` (an absolute path and its arguments) and return at once.

    Args:
        death_signal: what the program gets when the calling thread ends, however it ends (Linux only).
        own_session: out of reach of the terminal's Ctrl-C.
        own_group: the same within the terminal's session.
        output: where both of its outputs go; None means where ours go.
    """
    who = identity or Identity(-1, -1)
    capability = -1 if who.capability is None else who.capability
    tie = (os.getpid(), 0 if death_signal is None else int(death_signal), who.uid, who.gid, capability)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_LAUNCH), *map(str, tie), *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        cwd=cwd,
        env=env,
        start_new_session=own_session,
        process_group=0 if own_group and not own_session else None,
    )


def run(
    command: Sequence[str | Path], *, identity: Identity | None = None, cwd: Path, text: str = "", timeout_s: float = 60
) -> str:
    """Run `command` to its end with `text` as input and return what it printed. Ctrl-C does not reach it.

    Raises:
        subprocess.CalledProcessError: it failed; `output` says why.
        subprocess.TimeoutExpired: it took longer than `timeout_s` and was killed.
    """
    who = identity or Identity(-1, -1)
    capability = -1 if who.capability is None else who.capability
    tie = (os.getpid(), int(signal.SIGKILL), who.uid, who.gid, capability)
    return subprocess.run(
        [sys.executable, "-I", "-S", str(_LAUNCH), *map(str, tie), *map(str, command)],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        cwd=cwd,
        timeout=timeout_s,
        start_new_session=True,
    ).stdout


def stop(child: subprocess.Popen[bytes], *signals: signal.Signals, patience_s: float) -> int:
    """Send each signal in turn until the child is gone, waiting `patience_s` after each; the last resort is SIGKILL."""
    for number in (*signals, signal.SIGKILL):
        if child.poll() is not None:
            break
        child.send_signal(number)
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    return child.wait()


def wait_until(condition: Callable[[], bool], *, limit_s: float, every_s: float = 0.02) -> bool:
    """Poll `condition` until it holds; return whether it did within `limit_s`."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(every_s)
    return True


def lesser_identity(*paths: Path, owner_of: Path) -> Identity | None:
    """Return whom a server should run as: None when we are not root, else a user who can reach `paths`.

    The owner of `owner_of` when that is an ordinary user (the folder of somebody who called sudo), else ``nobody``.
    An owner without a name, as in a container with somebody's folder mounted, will not do: initdb insists on one.

    Raises:
        PermissionError: that user cannot reach `paths`, and this process may not hand on the capability to do so.
    """
    if os.geteuid() != 0:
        return None
    user = _user(owner_of.stat().st_uid)
    uid, gid = user.pw_uid, user.pw_gid
    closed = [folder for path in paths for folder in path.resolve().parents if not _may_search(folder, uid, gid)]
    if not closed:
        return Identity(uid, gid)
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if _is_permitted(CAP_SETPCAP) and _is_permitted(capability):
            return Identity(uid, gid, capability)
    raise PermissionError(f"user {uid} cannot look below {closed[-1]}")


def _user(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid) if uid != 0 else pwd.getpwnam("nobody")
    except KeyError:
        return pwd.getpwnam("nobody")


def _may_search(folder: Path, uid: int, gid: int) -> bool:
    try:
        found = folder.stat()
    except FileNotFoundError:
        return True  # will be made for that user
    shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
    return bool(found.st_mode >> shift & 1)


def _is_permitted(capability: int) -> bool:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return False
    sets = {line.partition(":")[0]: line.split()[-1] for line in lines if line.startswith("Cap")}
    allowed = int(sets.get("CapPrm", "0"), 16) & int(sets.get("CapBnd", "0"), 16)
    return bool(allowed >> capability & 1)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago; whoever binds it next may still lose it."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def can_bind(host: str, port: int) -> bool:
    """Return whether `port` is free on `host` for a server that reuses addresses."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def can_connect(host: str, port: int, *, timeout_s: float = 0.5) -> bool:
    """Return whether somebody accepts connections at `port`."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True
