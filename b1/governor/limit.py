"""The effective limit. Pure: what was asked for, what control groups allow and what the host still has; the least counts.

    room of a group  = its limit - its working set
    room of the host = MemAvailable - reserve
    limit            = min(configured, used + least room)

For a group that is ours alone `used + room` is the group's own limit; where others share it, it is what they leave us.
On a real App Service B1 no group limits anything, and the host's room is the one that counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from b1.host import MemoryLimit
from b1.units import MIB, format_bytes

# What has to stay free for everybody else on the host: below it the kernel begins to stall who allocates.
RESERVE_BYTES = 96 * MIB


@dataclass(frozen=True, slots=True)
class GroupRoom:
    """A control group that has a limit, ours or above; `used_bytes` is None where its usage cannot be read."""

    label: str
    limit_bytes: int
    used_bytes: int | None
    is_ours_alone: bool


@dataclass(frozen=True, slots=True)
class Holding:
    """What we hold: all of it, the part in swap, and page cache in it that the host also counts as available."""

    used_bytes: int
    swapped_bytes: int = 0
    cached_bytes: int = 0


def effective_limit(
    configured: MemoryLimit,
    holding: Holding,
    groups: Iterable[GroupRoom],
    available_bytes: int | None,
    *,
    reserve_bytes: int = RESERVE_BYTES,
) -> MemoryLimit:
    """Return the least limit with its source; never below one byte."""
    found = [configured]
    for group in groups:
        if group.is_ours_alone or group.used_bytes is None:
            # What lies in swap is part of what we hold, but no group's memory limit counts it.
            found.append(MemoryLimit(group.limit_bytes + holding.swapped_bytes, group.label))
        else:
            room = group.limit_bytes - group.used_bytes
            found.append(MemoryLimit(holding.used_bytes + room, group.label))
    if available_bytes is not None:
        limit = holding.used_bytes - holding.cached_bytes + available_bytes - reserve_bytes
        found.append(MemoryLimit(limit, f"what the host still has, less {format_bytes(reserve_bytes)}"))
    least = min(found, key=lambda candidate: candidate.limit_bytes)
    return MemoryLimit(max(1, least.limit_bytes), least.source)
