"""Signs that the machine is short of memory before a limit is reached: stalls (PSI) and pages coming back from swap.

Both are optional: a kernel without PSI, or a container that hides it, is normal, and then there is no sign from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from b1.host import MemoryGroup, read_counters

# Per cent of the last ten seconds in which some task, or every task, waited for memory.
SOME_PER_CENT = 10.0
FULL_PER_CENT = 2.0
SWAP_IN_PAGES_PER_S = 256.0


@dataclass(frozen=True, slots=True)
class Stall:
    """The signs; None where the machine does not give one."""

    some_avg10: float | None = None
    full_avg10: float | None = None
    swap_in_pages_per_s: float | None = None

    @property
    def reason(self) -> str | None:
        """Return what presses, in a word, or None."""
        if (self.some_avg10 or 0.0) >= SOME_PER_CENT or (self.full_avg10 or 0.0) >= FULL_PER_CENT:
            return "stalls"
        return "swap-in" if (self.swap_in_pages_per_s or 0.0) > SWAP_IN_PAGES_PER_S else None


class StallReader:
    """Reads the signs; the rate of swap-in needs two reads.

    Args:
        root: a fake file tree for tests.
    """

    def __init__(self, *, root: Path = Path("/")) -> None:
        self._root = root
        self._last: tuple[float, int] | None = None

    def __repr__(self) -> str:
        return f"<StallReader last={self._last}>"

    def read(self, now_s: float, groups: Iterable[MemoryGroup] = ()) -> Stall:
        """Return the signs of our own group where it has them, else of the machine."""
        files = [group.folder / "memory.pressure" for group in groups if group.version == 2]
        pressure: dict[str, float] = {}
        for file in [*reversed(files), self._root / "proc/pressure/memory"]:
            pressure = read_pressure(file)
            if pressure:
                break
        return Stall(pressure.get("some"), pressure.get("full"), self._swap_in(now_s))

    def _swap_in(self, now_s: float) -> float | None:
        pages = read_counters(self._root / "proc/vmstat").get("pswpin")
        last, self._last = self._last, None if pages is None else (now_s, pages)
        if pages is None or last is None or now_s <= last[0]:
            return None
        return max(0.0, (pages - last[1]) / (now_s - last[0]))


def read_pressure(file: Path) -> dict[str, float]:
    """Return the averages over ten seconds by line (``some``, ``full``); nothing where there is none."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}  # absent, or switched off at boot: reading then fails although the file is there
    found = {}
    for line in lines:
        kind, _, rest = line.partition(" ")
        for word in rest.split():
            name, _, value = word.partition("=")
            if name == "avg10" and value.replace(".", "", 1).isdigit():
                found[kind] = float(value)
    return found
