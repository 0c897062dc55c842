"""What the response cache counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from b1.cache.packing.holding import HoldSnapshot


class Counts:
    """Grows only; owned by the service, because middlewares hold no state.

    Attributes:
        hits: requests answered without the handler, from here or from the shared store, stale ones included.
        misses: requests for which a handler ran, or somebody else's run was waited for.
        shared_hits: hits that came from the shared store.
        stale_hits: hits that were stale, and are being refreshed.
        stale_errors: stale answers in the place of a failure.
        collapsed: misses that got the answer of somebody else's run.
        stored: answers that were kept.
        unstorable: answers that could not be, by a short fixed reason.
        refreshed: refreshes in the background that ended with a kept answer.
        refresh_failures: the others.
        damaged: entries of the shared store that were none.
        writes_skipped: answers that were not sent to the shared store, because too many were on their way.
    """

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self.shared_hits = 0
        self.stale_hits = 0
        self.stale_errors = 0
        self.collapsed = 0
        self.stored = 0
        self.unstorable: Counter[str] = Counter()
        self.refreshed = 0
        self.refresh_failures = 0
        self.damaged = 0
        self.writes_skipped = 0


@dataclass(frozen=True, slots=True)
class ResponseCacheSnapshot:
    """What the response cache says about itself; for the counters see `Counts`.

    Attributes:
        routes: that declare a cache and were asked for.
        running: handlers whose answer may be stored, and that others may wait for.
        waiting: requests that wait for one.
        refreshing: handlers that run in the background.
        writing: answers on their way to the shared store.
        compressed: bodies compressed, with their bytes before and after.
        tags_left_out: tags that did not fit into a header for CDNs.
        held: what lies packed in the in-process map.
    """

    hits: int
    misses: int
    shared_hits: int
    stale_hits: int
    stale_errors: int
    collapsed: int
    stored: int
    unstorable: dict[str, int]
    refreshed: int
    refresh_failures: int
    damaged: int
    writes_skipped: int
    routes: int
    running: int
    waiting: int
    refreshing: int
    writing: int
    compressed: tuple[int, int, int]
    tags_left_out: int
    held: HoldSnapshot = field(default_factory=HoldSnapshot)
