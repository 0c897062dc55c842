"""Run a command in a box: start it inside, pass signals on, look at its memory, end what it leaves, remove the box.

One thread and no handlers: signals are blocked and taken one by one between samples, so that none is lost and none
interrupts the clean-up. The command gets the mask that we were started with.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from b1.box.groups import Group, Unavailable
from b1.box.limits import Limits
from b1.box.report import Report, Sample, Usage
from b1.box.version1 import Version1
from b1.box.version2 import Version2

SAMPLE_S = 0.1
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
_PR_SET_PDEATHSIG = 1  # a box that was killed asks its command to stop
_PASSED_ON = {
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
}  # fmt: skip
_WATCHED = {*_PASSED_ON, signal.SIGCHLD}


class NotStarted(Exception):
    """The command could not be executed; `exit_status` is what a shell would say."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def make_group(root: Path, limits: Limits, *, pid: int) -> Group:
    """Make a box with the first mechanism that works.

    Raises:
        Unavailable: none does; the message has each one's reason.
    """
    reasons = []
    for kind in (Version2, Version1):
        try:
            return kind.make(root, limits, pid=pid)
        except Unavailable as refused:
            reasons.append(f"{kind.mechanism}: {refused}")
    raise Unavailable("; ".join(reasons))


def run_in_box(
    command: Sequence[str], limits: Limits, *, environ: Mapping[str, str] | None = None, root: Path = Path("/")
) -> Report:
    """Run a command to its end and return what it used. The box is gone afterwards, whatever happens.

    Raises:
        Unavailable: no mechanism works here.
        NotStarted: the command cannot be executed.
    """
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        group = make_group(root, limits, pid=os.getpid())
        begun_s = time.monotonic()
        killed = 0
        try:
            child = _start(command, group, environ, old_mask)
            sampled = _watch(child, group)
            wall_s = time.monotonic() - begun_s
            usage = group.usage()
        finally:
            killed = group.close()
    finally:
        while signal.sigtimedwait(_PASSED_ON, 0) is not None:
            pass  # it came during the clean-up; there is nobody left to pass it on to
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    return _report(command, child, limits, group, usage, sampled, wall_s, killed)


def _start(
    command: Sequence[str], group: Group, environ: Mapping[str, str] | None, mask: set[signal.Signals | int] | set[int]
) -> subprocess.Popen[bytes]:
    entries = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in group.entries()]
    control = ctypes.CDLL(None).prctl

    def step_inside() -> None:
        # Between fork and exec, so that nothing of the command ever runs outside.
        for entry in entries:
            os.write(entry, b"0")
        control(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        return subprocess.Popen(command, env=environ, preexec_fn=step_inside)  # there is one thread
    except FileNotFoundError:
        raise NotStarted(f"{command[0]}: not found", EXIT_NOT_FOUND) from None
    except PermissionError:
        raise NotStarted(f"{command[0]}: not executable", EXIT_NOT_EXECUTABLE) from None
    except subprocess.SubprocessError:
        raise Unavailable(f"{group.mechanism}: the kernel does not let a process into the box") from None
    except OSError as error:
        raise NotStarted(f"{command[0]}: {error.strerror}", EXIT_NOT_EXECUTABLE) from None
    finally:
        for entry in entries:
            os.close(entry)


def _watch(child: subprocess.Popen[bytes], group: Group) -> Sample:
    sampled = group.sample()
    next_s = time.monotonic()
    while child.poll() is None:
        taken = signal.sigtimedwait(_WATCHED, max(0.0, next_s - time.monotonic()))
        if taken is not None and taken.si_signo in _PASSED_ON:
            _pass_on(child, taken)
        if time.monotonic() >= next_s:
            sampled = sampled.worst(group.sample())
            next_s = time.monotonic() + SAMPLE_S
    return sampled


def _pass_on(child: subprocess.Popen[bytes], taken: signal.struct_siginfo) -> None:
    # A positive code is the kernel's: the terminal sent it to the whole foreground group, the command included.
    if taken.si_code <= 0:
        child.send_signal(taken.si_signo)


def _report(
    command: Sequence[str],
    child: subprocess.Popen[bytes],
    limits: Limits,
    group: Group,
    usage: Usage,
    sampled: Sample,
    wall_s: float,
    killed: int,
) -> Report:
    code = child.returncode
    return Report(
        command=command,
        exit_status=code if code >= 0 else 128 - code,
        wall_s=wall_s,
        mechanism=group.mechanism,
        limits=limits,
        usage=usage,
        sampled=sampled,
        leftovers_killed=killed,
        notes=(*limits.notes, *group.notes),
    )
