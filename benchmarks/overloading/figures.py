"""From what the load saw to the figures of the table. Pure.

A request is good when its answer has status 200 and came within a second of the intended time. Recovery is how long after
the burst the first whole second of light traffic begins in which every request is answered as fast as before the burst.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from statistics import median

GOOD_S = 1.0
PROBE_S = 0.05
REFUSED = frozenset({"503", "429"})
NORMAL_LEAST_S = 0.1
NORMAL_TIMES = 3.0
CALM_S = 1.0

# When it was due and how long it took, in seconds; how it ended; how often it was sent.
Note = tuple[float, float, str, int]
# Its path, when it was sent and how long it took, and its status.
ProbeNote = tuple[str, float, float, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """One round of one cell; of several rounds the medians, and of the probes the sums.

    Attributes:
        good: good answers per second of the burst; `refused`, `timeouts` and `errors` as well.
        p50_ms, p99_ms: of the answers with status 200; None without any.
        probes_asked, probes_ok: during the burst; ok is 200 within 50 ms.
        recovery_s: None when light traffic never became normal while it was watched.
        gap_ms: the longest time in the burst without a good answer.
        later_good: good share of the light traffic after the burst.
        late_ms: how late the load itself was, at the worst; it counts against the server.
        ran, robbed: shares of the burst for which the server's threads ran, and for which they could have run and
            somebody else had the core: how much the machine was disturbed.
    """

    offered: float
    good: float
    refused: float
    timeouts: float
    errors: float
    p50_ms: float | None
    p99_ms: float | None
    probes_asked: float
    probes_ok: float
    probe_max_ms: float | None
    recovery_s: float | None
    gap_ms: float
    later_good: float
    late_ms: float
    ran: float
    robbed: float


def figures(
    notes: Iterable[Note],
    probes: Iterable[ProbeNote],
    burst: tuple[float, float],
    end_s: float,
    late_ms: float,
    core: tuple[float, float],
) -> Figures:
    """Return the figures of one round.

    Args:
        burst: its begin and end, in the notes' time.
        end_s: when the light traffic after it ended.
        core: for how long the server ran in the burst, and for how long others had its core, in seconds.
    """
    ordered = sorted(notes)
    begin_s, over_s = burst
    length_s = over_s - begin_s
    before = [note for note in ordered if note[0] < begin_s]
    within = [note for note in ordered if begin_s <= note[0] < over_s]
    after = [note for note in ordered if note[0] >= over_s]
    asked = [note for note in probes if begin_s <= note[1] < over_s]
    took = sorted(note[1] * 1000 for note in within if note[2] == "200")
    refused = sum(note[2] in REFUSED for note in within)
    timeouts = sum(note[2] == "timeout" for note in within)
    normal_s = max(NORMAL_LEAST_S, NORMAL_TIMES * (at(sorted(n[1] for n in before if n[2] == "200"), 0.99) or 0.0))
    return Figures(
        offered=len(within) / length_s,
        good=sum(map(is_good, within)) / length_s,
        refused=refused / length_s,
        timeouts=timeouts / length_s,
        errors=(len(within) - len(took) - refused - timeouts) / length_s,
        p50_ms=at(took, 0.5),
        p99_ms=at(took, 0.99),
        probes_asked=len(asked),
        probes_ok=sum(note[3] == 200 and note[2] <= PROBE_S for note in asked),
        probe_max_ms=max((note[2] * 1000 for note in asked), default=None),
        recovery_s=recovery(after, over_s, end_s, normal_s),
        gap_ms=longest_gap((note[0] + note[1] for note in within if is_good(note)), begin_s, over_s) * 1000,
        later_good=sum(map(is_good, after)) / len(after) if after else 1.0,
        late_ms=late_ms,
        ran=core[0] / length_s,
        robbed=core[1] / length_s,
    )


def is_good(note: Note) -> bool:
    return note[2] == "200" and note[1] <= GOOD_S


def recovery(after: Sequence[Note], over_s: float, end_s: float, normal_s: float) -> float | None:
    """Return when the first calm second begins, in seconds after the burst; None when there is none."""
    begin_s = over_s
    for due_s, took_s, status, _ in after:
        if due_s - begin_s >= CALM_S:
            break
        if status != "200" or took_s > normal_s:
            begin_s = due_s
    return max(0.0, begin_s - over_s) if end_s - begin_s >= CALM_S else None


def longest_gap(moments: Iterable[float], begin_s: float, over_s: float) -> float:
    """Return the longest time between two neighbours, begin and end included."""
    inside = [begin_s, *sorted(moment for moment in moments if begin_s < moment < over_s), over_s]
    return max(later - earlier for earlier, later in pairwise(inside))


def at(ordered: Sequence[float], share: float) -> float | None:
    """Return a quantile of sorted values; None without any."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def middle(rounds: Sequence[Figures]) -> Figures:
    """Return medians over the rounds; sums for the probes, and the worst probe."""

    def of(name: str) -> float | None:
        values: list[float | None] = [getattr(one, name) for one in rounds]
        if name in ("probes_asked", "probes_ok"):
            return sum(value or 0.0 for value in values)
        known = [value for value in values if value is not None]
        if name == "probe_max_ms":
            return max(known, default=None)
        # More than half without a value: the middle one has none.
        return median(known) if 2 * len(known) > len(values) else None

    return Figures(**{field.name: of(field.name) for field in fields(Figures)})  # type: ignore[arg-type]
