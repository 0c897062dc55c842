"""One reclaim: evict in short slices, collect, give freed pages back; and what each step measurably returned.

Evicting gives accounted bytes, but what counts is what leaves the process: mostly that happens in the last step, when
the allocator returns its pages. That step runs in a thread, where it releases the GIL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from b1.clock import Clock
from b1.governor.collection import Collected, Collector
from b1.types import Reclaimable
from b1.units import KIB, MIB

log = logging.getLogger("b1.governor")

SLICE_S = 0.002
# Of entries of 60 bytes this is a millisecond's work; what is larger doubles the slice until it is one too.
_FIRST_SLICE_BYTES = 16 * KIB
_LEAST_SLICE_BYTES = 4 * KIB
_MOST_SLICE_BYTES = 4 * MIB


class OffLoop(Protocol):
    """Runs a blocking call in a thread."""

    def __call__(self, call: Callable[[], Any], /) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class Step:
    """What one step gave back to the system, and how long it took."""

    name: str
    returned_bytes: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """One reclaim.

    Attributes:
        level: the level that caused it, or ``asked``.
        evicted_bytes: what the holders say they gave up.
        steps: evict, collect and trim with what really left the process.
        longest_slice_s: the longest time that evicting held the loop at once.
        is_full: everything was collected, not the young generations alone.
        predicted_pause_s: what a full collection was predicted to take.
    """

    level: str
    at_wall_s: float
    used_before_bytes: int
    evicted_bytes: int
    steps: tuple[Step, ...]
    longest_slice_s: float
    is_full: bool
    predicted_pause_s: float

    @property
    def returned_bytes(self) -> int:
        """What really left the process. Growth meanwhile in one step does not hide what another returned."""
        return sum(step.returned_bytes for step in self.steps)


@dataclass(frozen=True, slots=True)
class Evicted:
    """What the holders gave up."""

    given_bytes: int
    longest_slice_s: float


class Reclaimer:
    """Does the three steps, over everything that registered.

    Args:
        read_used: returns the bytes held now; called in a thread.
        off_loop: runs a blocking call in a thread.
        trim: returns freed pages to the system; None where the allocator has no such call.
    """

    def __init__(
        self,
        clock: Clock,
        collector: Collector,
        *,
        read_used: Callable[[], int],
        off_loop: OffLoop,
        trim: Callable[[], int] | None,
    ) -> None:
        self._clock = clock
        self._collector = collector
        self._read_used = read_used
        self._off_loop = off_loop
        self._trim = trim
        self._holders: list[Reclaimable] = []

    def __repr__(self) -> str:
        return f"<Reclaimer holders={[holder.name for holder in self._holders]}>"

    def register(self, holder: Reclaimable) -> None:
        """Take from it from now on; lower priorities are emptied first."""
        self._holders.append(holder)
        self._holders.sort(key=lambda one: one.priority)

    def held(self) -> tuple[tuple[str, int], ...]:
        """Return what each holder accounts for, by name."""
        return tuple((holder.name, _held(holder)) for holder in self._holders)

    async def reclaim(self, share: float, *, level: str) -> Reclaimed:
        """Take `share` (0 to 1) of all that is held, lower priorities first, then collect and trim."""
        at_wall_s = self._clock.wall()
        before = await self._off_loop(self._read_used)
        steps: list[Step] = []
        begun_s = self._clock.monotonic()
        evicted = await evict(self._holders, share, self._clock)
        used = await self._note(steps, "evict", before, begun_s)
        begun_s = self._clock.monotonic()
        collected: Collected = self._collector.collect()
        used = await self._note(steps, "collect", used, begun_s)
        if self._trim is not None:
            begun_s = self._clock.monotonic()
            await self._off_loop(self._trim)
            await self._note(steps, "trim", used, begun_s)
        return Reclaimed(
            level=level,
            at_wall_s=at_wall_s,
            used_before_bytes=before,
            evicted_bytes=evicted.given_bytes,
            steps=tuple(steps),
            longest_slice_s=evicted.longest_slice_s,
            is_full=collected.is_full,
            predicted_pause_s=collected.predicted_s,
        )

    async def _note(self, steps: list[Step], name: str, before: int, begun_s: float) -> int:
        took_s = self._clock.monotonic() - begun_s
        after: int = await self._off_loop(self._read_used)
        steps.append(Step(name, max(0, before - after), took_s))
        return after


async def evict(holders: Iterable[Reclaimable], share: float, clock: Clock) -> Evicted:
    """Take `share` of what the holders have, the first holder first, in slices that hold the loop for at most 2 ms.

    A slice's size follows the time that the last one took: entries of one kilobyte are a thousand times dearer to drop,
    per byte, than one of a megabyte. A holder that gives nothing, or fails, is passed over.
    """
    waiting = list(holders)
    missing = int(sum(_held(holder) for holder in waiting) * share)
    given, longest_s, slice_bytes = 0, 0.0, _FIRST_SLICE_BYTES
    while waiting and missing > 0:
        begun_s = clock.monotonic()
        got = _take(waiting[0], min(slice_bytes, missing))
        took_s = clock.monotonic() - begun_s
        longest_s = max(longest_s, took_s)
        slice_bytes = _next_slice(slice_bytes, took_s)
        given += got
        missing -= got
        if got <= 0:
            waiting.pop(0)
        await asyncio.sleep(0)  # let the loop turn between slices
    return Evicted(given, longest_s)


def _next_slice(slice_bytes: int, took_s: float) -> int:
    if took_s > SLICE_S / 4:  # a slice may cost more than the last one did: stay well below
        return max(_LEAST_SLICE_BYTES, slice_bytes // 2)
    if took_s < SLICE_S / 16:
        return min(_MOST_SLICE_BYTES, slice_bytes * 2)
    return slice_bytes


def _held(holder: Reclaimable) -> int:
    try:
        return holder.held_bytes()
    except Exception:  # as in _take
        log.exception("a holder failed to say what it holds", extra={"holder": holder.name})
        return 0


def _take(holder: Reclaimable, target_bytes: int) -> int:
    try:
        return holder.reclaim(target_bytes)
    except Exception:  # an application's holder must not keep memory from being taken elsewhere
        log.exception("a holder failed to give memory up", extra={"holder": holder.name})
        return 0
