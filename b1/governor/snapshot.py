"""What the governor says about itself: read by health, metrics, alerts and the dashboard."""

from __future__ import annotations

from dataclasses import dataclass

from b1.governor.reclaim import Reclaimed


@dataclass(frozen=True, slots=True)
class GovernorSnapshot:
    """Memory as the governor sees it.

    Attributes:
        reclaimed_bytes: the sum of what its steps measurably gave back since the start.
        limit_source: which of the candidates for the limit is the least.
        used_source: how the used bytes were measured.
        swapped_bytes: part of the used bytes that lies in swap.
        slope_bytes_per_s: growth over the last ten seconds.
        time_to_limit_s: when that growth reaches the limit; None when it does not.
        promoted_by: why the level is one higher than the ratio alone: ``time-to-limit``, ``stalls``, ``swap-in``.
        stall_some, stall_full: per cent of ten seconds lost to memory, by PSI; None where the kernel does not say.
        is_injected: the pressure is pretended (staging).
        is_irreclaimable: the last reclaim returned less than 5 % of the excess; only a new worker helps.
        last_reclaim: the latest reclaim with the yield of each step.
        returned_by_step: bytes given back since the start, by step.
        longest_slice_s: the longest time that evicting ever held the loop at once.
        held: accounted bytes of everything reclaimable, by name.
        ballast_bytes: memory kept for the emergency level.
        report: file name of the latest report of what holds the memory.
        report_path: of the report that is about to be written, else of the latest one; not for strangers.
    """

    used_bytes: int
    limit_bytes: int
    level: str
    level_number: int
    reclaims: int
    reclaimed_bytes: int
    limit_source: str = "configured"
    used_source: str = "processes"
    swapped_bytes: int = 0
    slope_bytes_per_s: float = 0.0
    time_to_limit_s: float | None = None
    promoted_by: str | None = None
    stall_some: float | None = None
    stall_full: float | None = None
    swap_in_pages_per_s: float | None = None
    is_injected: bool = False
    is_irreclaimable: bool = False
    last_reclaim: Reclaimed | None = None
    returned_by_step: tuple[tuple[str, int], ...] = ()
    longest_slice_s: float = 0.0
    held: tuple[tuple[str, int], ...] = ()
    ballast_bytes: int = 0
    report: str | None = None
    report_path: str | None = None

    @property
    def ratio(self) -> float:
        """Used memory as a share of the limit."""
        return self.used_bytes / self.limit_bytes
