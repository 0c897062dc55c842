"""Signals as a counter that can be waited for.

A handler that raises could strike between starting a child and remembering it. This one only writes a byte, and every
wait of the supervisor is a wait for that byte too.
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType, TracebackType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Interrupts:
    """Counts requests to stop while its block is open; the handlers of before come back at its end."""

    def __init__(self) -> None:
        self.count = 0
        self.last: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}
        self._read_fd = self._write_fd = -1

    def __repr__(self) -> str:
        return f"Interrupts(count={self.count}, last={self.last!r})"

    def __enter__(self) -> Interrupts:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and a shell's background jobs stay as they are
                self._before[number] = signal.signal(number, self._note)
        # A child that ends wakes the waits as well, so that its end is noticed at once.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._wake)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # what signal.signal itself returned
        os.close(self._read_fd)
        os.close(self._write_fd)

    def wait(self, limit_s: float) -> int:
        """Sleep for `limit_s`, less when a signal comes or a child ends; return how often a stop was asked for."""
        ready, _, _ = select.select([self._read_fd], [], [], limit_s)
        if ready:
            os.read(self._read_fd, 512)
        return self.count

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.last = signal.Signals(number)
        self._wake(number, frame)

    def _wake(self, number: int, frame: FrameType | None) -> None:
        try:
            os.write(self._write_fd, b".")
        except BlockingIOError:
            pass  # full of bytes that already say the same
