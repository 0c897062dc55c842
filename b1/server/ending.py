"""How workers ended: the phase each was in, in memory shared with the master, and a short list in a file.

The phase outlives a SIGKILL, which leaves no time to write anything: the master reads what the worker wrote last.
gunicorn's hook for a child's end does not get the exit status; the phase says more anyway.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PHASES = ("booting", "serving", "stopping", "stopped")
CAUSES = ("clean", "boot", "killed", "cut_off", "blocked")
KEPT = 20


class PhaseCell:
    """One byte shared between the master and the worker it forks. Written by the worker, read by the master."""

    __slots__ = ("_memory",)

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def __repr__(self) -> str:
        return f"PhaseCell({self.phase})"

    @property
    def phase(self) -> str:
        """``booting``, ``serving``, ``stopping`` or ``stopped``."""
        return PHASES[self._memory[0]]

    @phase.setter
    def phase(self, name: str) -> None:
        self._memory[0] = PHASES.index(name)


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one worker.

    Attributes:
        wall_s: when the master noticed, in seconds since 1970.
        phase: what the worker was doing; anything but ``stopped`` means that it was killed or crashed.
        timed_out: the master killed it because its loop no longer turned.
    """

    pid: int
    wall_s: float
    phase: str
    timed_out: bool

    @classmethod
    def of(cls, worker: Any) -> Ending:
        """Read it from gunicorn's worker object in the master; a worker of another class says nothing."""
        cell = getattr(worker, "phase_cell", None)
        return cls(worker.pid, time.time(), cell.phase if cell else "booting", bool(worker.aborted))

    @property
    def is_clean(self) -> bool:
        """Whether the application's shutdown ran to its end."""
        return self.phase == "stopped"

    @property
    def cause(self) -> str:
        """In one word.

        ``clean``, ``boot`` (never served), ``killed`` (while serving), ``cut_off`` (its stop took too long) or ``blocked``
        (its loop no longer turned).
        """
        if self.is_clean:
            return "clean"
        if self.timed_out:
            return "blocked"
        return {"booting": "boot", "serving": "killed"}.get(self.phase, "cut_off")


class EndingCounts:
    """How many workers of this master ended, by cause: made in the master, written there, read by every worker.

    In shared memory, so that the metrics of a worker know the ends of its predecessors without reading a file.
    """

    _NUMBERS = struct.Struct(f"{len(CAUSES)}I")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._NUMBERS.size)

    def __repr__(self) -> str:
        return f"EndingCounts({dict(self.snapshot())})"

    def note(self, ending: Ending) -> None:
        """Count one end."""
        counts = [*self._NUMBERS.unpack(self._memory[:])]
        counts[CAUSES.index(ending.cause)] += 1
        self._memory[:] = self._NUMBERS.pack(*counts)

    def snapshot(self) -> Mapping[str, int]:
        """Return the counts, those of zero too."""
        return dict(zip(CAUSES, self._NUMBERS.unpack(self._memory[:]), strict=True))


class EndingLog:
    """The last endings, newest last, as ``worker-endings.json`` in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "worker-endings.json"

    def __repr__(self) -> str:
        return f"EndingLog({str(self._path)!r})"

    def append(self, ending: Ending) -> None:
        """Add one, atomically; only the master writes.

        Raises:
            OSError: the folder cannot be written, or belongs to somebody else.
        """
        folder = self._path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError(f"{folder} belongs to another user")
        kept = [*self.read(), ending][-KEPT:]
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps([asdict(one) for one in kept]))
        part.replace(self._path)

    def read(self) -> list[Ending]:
        """Return what is noted, oldest first; nothing when there is no readable file."""
        try:
            return [Ending(**members) for members in json.loads(self._path.read_text())]
        except (OSError, ValueError, TypeError):
            return []  # none yet, or of another version: history, not state
