"""What the gate shows: to health, metrics, the page and tests."""

from __future__ import annotations

from dataclasses import dataclass

from b1.admission.lane import Lane
from b1.admission.options import CLASSES


@dataclass(frozen=True, slots=True)
class LaneSnapshot:
    """One kind of work.

    Attributes:
        running, queued: requests in work and waiting; `running_by_class` and `queued_by_class` in the order of `CLASSES`.
        is_standing: its queue has not been empty for so long that the newest goes first and the old are refused.
    """

    name: str
    limit: int
    running: int
    queued: int
    running_by_class: tuple[int, ...]
    queued_by_class: tuple[int, ...]
    oldest_age_s: float
    is_standing: bool


def lane_snapshot(lane: Lane, now_s: float) -> LaneSnapshot:
    """Return the present state of a lane."""
    return LaneSnapshot(
        name=lane.name,
        limit=lane.limit,
        running=lane.running,
        queued=lane.queued,
        running_by_class=tuple(lane.busy),
        queued_by_class=tuple(lane.waiting(rank) for rank in range(len(CLASSES))),
        oldest_age_s=lane.oldest_age_s(now_s),
        is_standing=lane.is_standing(now_s),
    )


@dataclass(frozen=True, slots=True)
class AdmissionSnapshot:
    """The gate.

    Attributes:
        rung: how far admission is restricted, by name.
        admitted: requests admitted since the start, by class.
        refused: requests refused since the start, by (class, reason).
        cancelled: requests in work that were ended, by reason.
        streams: answers in progress that hold no permit.
        sockets: WebSockets that are open; they hold no permit either.
        cpu_bound: templates of the routes that run one at a time.
    """

    rung: str
    lanes: tuple[LaneSnapshot, ...]
    admitted: tuple[tuple[str, int], ...]
    refused: tuple[tuple[str, str, int], ...]
    cancelled: tuple[tuple[str, int], ...]
    streams: int
    cpu_bound: tuple[str, ...]
    sockets: int = 0

    @property
    def limit(self) -> int:
        """The adaptive limit on requests that wait."""
        return self.lanes[0].limit

    @property
    def queued(self) -> int:
        return sum(lane.queued for lane in self.lanes)

    @property
    def running(self) -> int:
        return sum(lane.running for lane in self.lanes)

    @property
    def oldest_age_s(self) -> float:
        return max(lane.oldest_age_s for lane in self.lanes)

    @property
    def refusals(self) -> int:
        return sum(count for _, _, count in self.refused)
