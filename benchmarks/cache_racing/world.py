"""What the processes share: the database (a number per key), and how far each key has been invalidated.

One file, mapped by all. A key is written by one process alone, and a number of eight bytes is written at once, so nothing
is locked. Standard library only: contenders run it in their own environment.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path

KEYS = 24
PROCESSES = 3
RING = 2048
_LANES = 4 + 2 * PROCESSES
_SIZE = 8 * (1 + KEYS * (_LANES + RING))


class World:
    """Numbers only grow.

    Attributes:
        truth: what the database says.
        hard, soft: a read that began later must not give less; a value that says it is stale may be below `soft`.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._numbers = memoryview(self._map).cast("Q")
        lanes = [self._numbers[1 + KEYS * lane : 1 + KEYS * (lane + 1)] for lane in range(_LANES)]
        self.truth, self.hard, self.soft = lanes[0], lanes[1], lanes[2]
        self._done = lanes[3]
        self.own_hard, self.own_soft = lanes[4 : 4 + PROCESSES], lanes[4 + PROCESSES :]
        self._since = self._numbers[1 + KEYS * _LANES :]

    def done(self, process: int) -> None:
        """Say that a process has read enough."""
        self._done[process] = 1

    @property
    def is_done(self) -> bool:
        """Whether all have."""
        return all(self._done[:PROCESSES])

    @property
    def is_over(self) -> bool:
        return bool(self._numbers[0])

    def end(self) -> None:
        """Have everybody stop."""
        self._numbers[0] = 1

    def see(self, key: int, number: int) -> None:
        """From now on older numbers of the key are stale."""
        self._since[key * RING + number % RING] = time.monotonic_ns()
        self.hard[key] = number

    def stale_s(self, key: int, number: int) -> float:
        """Return for how long a number has been stale."""
        following = number + 1
        while following <= self.hard[key]:
            at = self._since[key * RING + following % RING]
            if at:
                return (time.monotonic_ns() - at) / 1e9
            following += 1
        return 0.0


def tags_of(key: int) -> tuple[str, ...]:
    """Return what a key depends on, in a fixed order."""
    return f"cache:{key}", f"group:{key % 4}", "organisation:1"
