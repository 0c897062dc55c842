"""The stack of a call that holds the interpreter: written by `faulthandler` from C, in the middle of it.

Not by `faulthandler.dump_traceback_later`: its thread reads frames while other threads run, and crashes the process.
Measured on a busy interpreter: 3.11, 3.12 and 3.13 all died, of which 3.13 after some 50 dumps. Here a timer that counts
the process's CPU time (ITIMER_VIRTUAL) sends SIGVTALRM, and `faulthandler.register` writes the stack of the thread that
receives it. Every heartbeat and every look of the watchdog sets the timer back, so it expires only when no Python code
could run while 0.4 s of CPU time passed: somebody holds the interpreter in native code, and frames stand still. A process
that is stopped or gets no core uses no CPU time, so it never expires for that.
"""

from __future__ import annotations

import faulthandler
import linecache
import logging
import os
import re
import signal
import tempfile

from b1.watchdog.frames import Line

log = logging.getLogger("b1.watchdog")

# One dump has at most 100 frames; more than this is never read.
READ_LIMIT_BYTES = 64 * 1024

_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.+)')
_AWAITING = re.compile(r"\bawait\b|\basync (for|with)\b")


class Dumps:
    """The process's one timer and the unlinked file that it dumps into.

    Guardian: `arm` may be called from any thread; `open`, `close` from the loop's thread; `take` and `pause` from the
    watchdog's thread.

    Args:
        after_s: CPU time before a dump.
        cores: with several cores, threads that compute outside of the interpreter use up CPU time while nothing is wrong;
            the time grows with half of the cores.
    """

    _owner: Dumps | None = None  # the signal and the timer are the process's, not ours

    def __init__(self, *, after_s: float, cores: int) -> None:
        self._after_s = after_s * max(1.0, cores / 2)
        self._file: int | None = None
        self._is_paused = False

    def __repr__(self) -> str:
        return f"<Dumps {'armed' if self.is_open else 'off'}>"

    @property
    def is_open(self) -> bool:
        """Whether dumps can be taken."""
        return self._file is not None

    def open(self) -> None:
        """Take the signal; does nothing where somebody else has it or the system has none."""
        if Dumps._owner is not None or not hasattr(signal, "setitimer") or not hasattr(faulthandler, "register"):
            return
        if signal.getsignal(signal.SIGVTALRM) != signal.SIG_DFL or signal.getitimer(signal.ITIMER_VIRTUAL) != (0, 0):
            log.info("SIGVTALRM is in use: calls that hold the interpreter are not dumped")
            return
        self._file, self._is_paused = _unlinked_file(), False
        faulthandler.register(signal.SIGVTALRM, file=self._file, all_threads=False, chain=False)
        Dumps._owner = self

    def close(self) -> None:
        """Give the signal back. The timer stops first: the signal's own default ends the process."""
        if self._file is None:
            return
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        faulthandler.unregister(signal.SIGVTALRM)
        os.close(self._file)
        self._file = None
        Dumps._owner = None

    def arm(self) -> None:
        """Say that Python code runs: the time begins anew."""
        if self._file is not None and not self._is_paused:
            signal.setitimer(signal.ITIMER_VIRTUAL, self._after_s)

    def pause(self) -> None:
        """Stop the timer while the watchdog does something that may take long; frames may move then."""
        self._is_paused = True
        if self._file is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)

    def resume(self) -> None:
        """Let the next `arm` start the timer again."""
        self._is_paused = False

    def take(self) -> tuple[Line, ...]:
        """Return the newest dump, innermost line first, and empty the file."""
        if self._file is None or not (size := os.fstat(self._file).st_size):
            return ()
        text = os.pread(self._file, READ_LIMIT_BYTES, max(0, size - READ_LIMIT_BYTES))
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        return parse(text.decode("utf-8", "replace"))


def parse(text: str) -> tuple[Line, ...]:
    """Return the last stack in faulthandler's text.

    The text does not say which frame is a coroutine's; whether a frame only waits is read from its source line.
    """
    last = text.rpartition("most recent call first")[2]
    found = [_FRAME.fullmatch(line) for line in last.splitlines()]
    frames = [(match["file"], int(match["line"]), match["function"]) for match in found if match]
    return tuple(
        Line(file, number, function, index > 0 and bool(_AWAITING.search(linecache.getline(file, number))))
        for index, (file, number, function) in enumerate(frames)
    )


def _unlinked_file() -> int:
    """Return a descriptor without a name: nothing is left behind, however the process ends."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("b1-dump")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
