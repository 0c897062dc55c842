"""The memory part of the health report: where we stand on the ladder, by what measure, and what was done last.

Open to strangers, so it names holders and steps but no file, no route and no request.
"""

from __future__ import annotations

from typing import Any

from b1.governor import GovernorSnapshot, Reclaimed


def memory_report(memory: GovernorSnapshot) -> dict[str, Any]:
    """Return it; times in seconds, sizes in bytes, null where the machine does not say."""
    left_s = memory.time_to_limit_s
    return {
        "limit_bytes": memory.limit_bytes,
        "used_bytes": memory.used_bytes,
        "ratio": round(memory.ratio, 4),
        "level": memory.level,
        "source": memory.limit_source,
        "used_source": memory.used_source,
        "swapped_bytes": memory.swapped_bytes,
        "slope_bytes_per_s": round(memory.slope_bytes_per_s),
        "time_to_limit_s": None if left_s is None else round(left_s, 1),
        "promoted_by": memory.promoted_by,
        "pressure": {
            "some_avg10": memory.stall_some,
            "full_avg10": memory.stall_full,
            "swap_in_pages_per_s": memory.swap_in_pages_per_s,
        },
        "injected": memory.is_injected,
        "irreclaimable": memory.is_irreclaimable,
        "ballast_bytes": memory.ballast_bytes,
        "held": dict(memory.held),
        "reclaims": memory.reclaims,
        "reclaimed_bytes": memory.reclaimed_bytes,
        "last_reclaim": None if memory.last_reclaim is None else _reclaim(memory.last_reclaim),
    }


def _reclaim(done: Reclaimed) -> dict[str, Any]:
    return {
        "level": done.level,
        "at_s": round(done.at_wall_s, 3),
        "evicted_bytes": done.evicted_bytes,
        "returned_bytes": done.returned_bytes,
        "steps": {
            step.name: {"returned_bytes": step.returned_bytes, "took_ms": round(step.took_s * 1000, 2)}
            for step in done.steps
        },
        "longest_slice_ms": round(done.longest_slice_s * 1000, 3),
        "full_collection": done.is_full,
    }
