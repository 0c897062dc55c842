"""A meter that says what a test wants, a holder that counts, and a fake machine made of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from b1.clock import ManualClock
from b1.governor import Governor, GovernorOptions
from b1.governor.meter import Reading
from b1.governor.stall import Stall
from b1.plan import WATERMARKS
from b1.units import MIB

LIMIT = 1000 * MIB


class FakeMeter:
    """Memory as a number that the test sets; reclaiming lowers it through `used`."""

    def __init__(self, used_mib: float = 100) -> None:
        self.used = int(used_mib * MIB)
        self.limit = LIMIT
        self.stall = Stall()
        self.is_injected = False
        self.exact_reads = 0

    def read(self, now_s: float, *, exactly: bool = False) -> Reading:
        self.exact_reads += exactly
        return Reading(self.used, "fake", self.limit, "fake limit", stall=self.stall, is_injected=self.is_injected)

    def used_bytes(self) -> int:
        return self.used


class Holder:
    """Holds accounted bytes; what it gives up leaves the meter, too."""

    def __init__(self, name: str, held_mib: float, *, priority: int = 10, meter: FakeMeter | None = None) -> None:
        self.name, self.priority = name, priority
        self.held = int(held_mib * MIB)
        self.asked: list[int] = []
        self._meter = meter

    def held_bytes(self) -> int:
        return self.held

    def reclaim(self, target_bytes: int) -> int:
        self.asked.append(target_bytes)
        given = min(target_bytes, self.held)
        self.held -= given
        if self._meter is not None:
            self._meter.used -= given
        return given


class Bench:
    """A governor on a clock that stands still, driven sample by sample."""

    def __init__(self, clock: ManualClock, meter: FakeMeter, options: GovernorOptions | None = None) -> None:
        self.clock, self.meter = clock, meter
        self.levels: list[tuple[str, str]] = []
        self.irreclaimable = 0
        self.governor = Governor(
            clock,
            limit_bytes=LIMIT,
            marks=WATERMARKS,
            interval_s=0.5,
            options=options or GovernorOptions(ballast_bytes=0),
            meter=meter,
        )
        self.governor.on_level(lambda before, after, _: self.levels.append((before.name.lower(), after.name.lower())))
        self.governor.on_irreclaimable(lambda _: self._count())

    def _count(self) -> None:
        self.irreclaimable += 1

    async def at(self, per_cent: float, samples: int = 2) -> str:
        """Hold memory at a share of the limit for some samples, act on each; return the level."""
        self.meter.used = int(self.meter.limit * per_cent / 100)
        return await self.go(samples)

    async def go(self, samples: int) -> str:
        """Take samples half a second apart and act on each; return the level."""
        for _ in range(samples):
            self.clock.advance(0.5)
            await self.governor.sample()
            await self.governor.act()
        return self.governor.snapshot().level


class Machine:
    """A fake tree: /proc and /sys/fs/cgroup as a kernel would show them to process 42, whose master is 7."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.available(8000)
        self.process(42, private_mib=60, parent=7)
        self.process(7, private_mib=18, parent=1, cmdline="gunicorn: master", children=[42])
        self.process(1, private_mib=1, parent=0, cmdline="sh", children=[7])

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def available(self, mib: float) -> None:
        self.write("proc/meminfo", f"MemTotal: 16000000 kB\nMemAvailable: {int(mib * 1024)} kB\n")

    def process(
        self,
        pid: int,
        *,
        private_mib: float,
        parent: int,
        pss_mib: float | None = None,
        swap_mib: float = 0,
        cmdline: str = "gunicorn: worker",
        children: list[int] | None = None,
    ) -> None:
        """Show a process that has 5 MiB shared with others beside its private memory."""
        for name in (str(pid), "self") if pid == 42 else (str(pid),):
            private, shared = int(private_mib * 256), 5 * 256
            self.write(f"proc/{name}/statm", f"99999 {private + shared} {shared} 1 0 1 0")
            self.write(f"proc/{name}/status", f"Name:\tx\nPid:\t{pid}\nPPid:\t{parent}\n")
            self.write(f"proc/{name}/cmdline", cmdline)
            self.write(f"proc/{name}/task/{pid}/children", " ".join(map(str, children or [])))
            if pss_mib is not None:
                text = f"00-ff ---p 0 0 0 [rollup]\nPss: {int(pss_mib * 1024)} kB\nSwapPss: {int(swap_mib * 1024)} kB\n"
                self.write(f"proc/{name}/smaps_rollup", text)

    def group_v2(
        self, path: str, *, limit: str = "max", used_mib: float = 100, file_mib: float = 0, pids: str = "42\n7\n1\n"
    ) -> None:
        folder = f"sys/fs/cgroup{path.rstrip('/')}"
        self.write(f"{folder}/memory.max", limit)
        self.write(f"{folder}/memory.current", str(int(used_mib * MIB)))
        self.write(f"{folder}/memory.stat", f"anon 1\ninactive_file {int(file_mib * MIB)}\nactive_file 0\n")
        self.write(f"{folder}/cgroup.procs", pids)

    def group_v1(
        self, path: str, *, limit: str, used_mib: float = 100, file_mib: float = 0, pids: str = "42\n7\n1\n"
    ) -> None:
        folder = f"sys/fs/cgroup/memory{path.rstrip('/')}"
        self.write(f"{folder}/memory.limit_in_bytes", limit)
        self.write(f"{folder}/memory.usage_in_bytes", str(int(used_mib * MIB)))
        self.write(f"{folder}/memory.stat", f"inactive_file 7\ntotal_inactive_file {int(file_mib * MIB)}\n")
        self.write(f"{folder}/cgroup.procs", pids)


def mib(count: Callable[[], int] | int) -> float:
    """Return bytes as MiB, rounded."""
    return round((count if isinstance(count, int) else count()) / MIB, 1)
