"""Reads memory: what we hold, what the limit is at this moment and where it comes from, and the signs of stalls.

Everything here reads files and belongs into a thread: /proc answers in microseconds on a healthy machine, and a machine
without memory is not healthy. What is dear is read seldom: the limit every 5 s, exact shares every 10 s or on request.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from b1.governor import memory
from b1.governor.group import GroupUsage, group_usage, is_ours_alone
from b1.governor.inject import Injection
from b1.governor.limit import RESERVE_BYTES, GroupRoom, Holding, effective_limit
from b1.governor.stall import Stall, StallReader
from b1.host import MemoryGroup, MemoryLimit, group_limit, memory_groups, read_counters

LIMIT_EVERY_S = 5.0
SHARES_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Memory at one moment. With injected pressure `used_bytes` is the pretended amount."""

    used_bytes: int
    used_source: str
    limit_bytes: int
    limit_source: str
    swapped_bytes: int = 0
    stall: Stall = Stall()
    is_injected: bool = False

    @property
    def ratio(self) -> float:
        """Used memory as a share of the limit; may pass 1."""
        return self.used_bytes / self.limit_bytes


class Meter(Protocol):
    """What the governor reads; tests have their own."""

    def read(self, now_s: float, *, exactly: bool = False) -> Reading:
        """Take a sample; `exactly` also reads what is dear."""
        ...

    def used_bytes(self) -> int:
        """Return what is held now, cheaply and never pretended: the yield of a step is the difference of two."""
        ...


class MemoryMeter:
    """The machine's memory, as far as it is ours. One thread at a time.

    Args:
        configured: the limit that the plan names, with its source.
        reserve_bytes: what has to stay free on the host.
        injection: pretended pressure; None (in production) reads the truth alone.
        root: a fake file tree for tests.
    """

    def __init__(
        self,
        configured: MemoryLimit,
        *,
        reserve_bytes: int = RESERVE_BYTES,
        injection: Injection | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._configured = configured
        self._reserve_bytes = reserve_bytes
        self._injection = injection
        self._root = root
        self._stalls = StallReader(root=root)
        self._stall = Stall()
        self._groups: list[MemoryGroup] = []
        self._own_group: MemoryGroup | None = None  # only while it is ours alone
        # For each process of ours, what its exact share has beyond the cheap measure; renewed with the shares.
        self._beyond: dict[int | str, int] = {"self": 0}
        self._swapped_bytes = 0
        self._limit = configured
        self._limit_due_s = self._shares_due_s = float("-inf")

    def __repr__(self) -> str:
        return f"<MemoryMeter limit_bytes={self._limit.limit_bytes} ({self._limit.source})>"

    def read(self, now_s: float, *, exactly: bool = False) -> Reading:
        """Take a sample; renew the limit and the exact shares when they are due."""
        if exactly or now_s >= self._shares_due_s:
            self._shares_due_s = now_s + SHARES_EVERY_S
            self._look_around()
        holding = self._holding()
        if exactly or now_s >= self._limit_due_s:
            self._limit_due_s = now_s + LIMIT_EVERY_S
            self._limit = self._effective_limit(holding)
            self._stall = self._stalls.read(now_s, self._groups)
        injected = self._injection.ratio() if self._injection is not None else None
        return Reading(
            used_bytes=holding.used_bytes if injected is None else int(injected * self._limit.limit_bytes),
            used_source=self._used_source() if injected is None else "injected",
            limit_bytes=self._limit.limit_bytes,
            limit_source=self._limit.source,
            swapped_bytes=holding.swapped_bytes,
            stall=self._stall,
            is_injected=injected is not None,
        )

    def used_bytes(self) -> int:
        """Return what is held now."""
        return self._holding().used_bytes

    def _look_around(self) -> None:
        """Find out who we are, which group counts us, and the exact share of each process of ours."""
        family = memory.family(root=self._root)
        self._groups = memory_groups(self._root)
        own = self._groups[-1] if self._groups else None
        is_alone = own is not None and is_ours_alone(own, family) and group_usage(own) is not None
        self._own_group = own if is_alone else None
        self._beyond, self._swapped_bytes = {}, 0
        if self._own_group is not None:
            return  # the group counts everything
        for pid in family.members:
            share = memory.process_share(pid, root=self._root)
            cheap = memory.process_bytes(pid, root=self._root)
            self._beyond[pid] = share.proportional_bytes - cheap if share is not None and cheap else 0
            self._swapped_bytes += share.swapped_bytes if share is not None else 0

    def _holding(self) -> Holding:
        usage = group_usage(self._own_group) if self._own_group is not None else None
        if usage is not None:
            used = usage.working_set_bytes + usage.swapped_bytes
            return Holding(used, usage.swapped_bytes, usage.active_file_bytes)
        used = sum(self._process_bytes(pid, beyond) for pid, beyond in self._beyond.items())
        return Holding(used or memory.used_bytes(root=self._root), self._swapped_bytes)

    def _process_bytes(self, pid: int | str, beyond: int) -> int:
        cheap = memory.process_bytes(pid, root=self._root)
        return max(0, cheap + beyond) if cheap else 0  # a process that has ended holds nothing

    def _effective_limit(self, holding: Holding) -> MemoryLimit:
        rooms = []
        for group in self._groups:
            limit = group_limit(group)
            if limit is not None:
                rooms.append(self._room(group, limit, group_usage(group)))
        available = read_counters(self._root / "proc/meminfo").get("MemAvailable")
        return effective_limit(self._configured, holding, rooms, available, reserve_bytes=self._reserve_bytes)

    def _room(self, group: MemoryGroup, limit_bytes: int, usage: GroupUsage | None) -> GroupRoom:
        used = usage.working_set_bytes if usage is not None else None
        is_ours_alone = group == self._own_group
        remark = "" if is_ours_alone else ", shared with others" if group == self._groups[-1] else " above ours"
        return GroupRoom(group.label + remark, limit_bytes, used, is_ours_alone)

    def _used_source(self) -> str:
        return f"{self._own_group.label} working set" if self._own_group is not None else "processes"
