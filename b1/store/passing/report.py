"""The two verbs of passing a store's state on, and what they say they did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from b1.store.base import Store


@dataclass(frozen=True, slots=True)
class Exported:
    """The answer of `PassingStore.export`.

    Attributes:
        data: for the successor's `absorb`; not longer than the limit, or some hundred bytes when the limit is less.
        passed: how many of each kind are in it: ``claims`` (in flight), ``records``, ``penalties``, ``buckets``,
            ``windows``, ``entries`` (of replay rings), ``debts`` (to Redis, besides windows and records).
        left_out: how many of each kind did not fit.
    """

    data: bytes = field(repr=False)
    passed: Mapping[str, int]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Absorbed:
    """The answer of `PassingStore.absorb`.

    Attributes:
        refused: why nothing was taken; empty otherwise.
        taken: how many of each kind; the kinds are those of `Exported.passed`.
        own: keys about which this process had decided itself meanwhile; its word stayed.
        no_room: what did not fit here.
        left_out: what the predecessor had left out.
        damaged: frames that could not be read, the missing end included; all others were taken.
        unknown: kinds of frames that only a later version knows.
        tags: what the predecessor invalidated since its first export; None: everything. The store has done so for its
            own entries, other caches are the caller's.
        extras: what the predecessor's other parts left, by name.
    """

    refused: str = ""
    taken: Mapping[str, int] = field(default_factory=dict)
    own: int = 0
    no_room: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    damaged: int = 0
    unknown: tuple[str, ...] = ()
    tags: tuple[str, ...] | None = ()
    extras: Mapping[str, bytes] = field(default_factory=dict, repr=False)


class PassingStore(Store, Protocol):
    """A store whose worker may have a successor."""

    async def export(
        self, limit_bytes: int, *, last: bool, drain_ms: int = 0, extras: Mapping[str, bytes] | None = None
    ) -> Exported:
        """Return what a successor needs; call it once (``last=True``), or twice: first with ``last=False``, then last.

        The last one after a first has only what happened in between. A loop that serves is held for about 2 ms at a
        time. A store that owes something to Redis, or whose Redis is away, answers from memory afterwards, until its
        end: its debts are the successor's.

        Args:
            limit_bytes: cap of the result. What does not fit is left out in this order: the rest of the windows, rings,
                records, the most used windows, penalties, claims in flight; `extras` come before all.
            last: nothing is answered after it.
            drain_ms: with ``last=False`` how long this worker may go on answering: claims in flight hold at least so
                long in the successor, and its fences and ids begin above those that may still be given here.
            extras: small things of other parts, returned by `absorb` as they are.
        """
        ...

    def tell_through(self, has_heir: Callable[[], bool], tell: Callable[[bytes], bool]) -> None:
        """Have a successor know what is invalidated while there are two.

        What it may have loaded before it takes over is in the first export; from then on it is told at once, as far as
        `tell` can, and the last export repeats it.
        """
        ...

    def hear(self, data: bytes) -> None:
        """Invalidate what a predecessor told. Never raises for what the bytes are."""
        ...

    async def absorb(self, data: bytes) -> Absorbed:
        """Go on from what a predecessor left. Never raises for what the bytes are, and takes the same ones only once.

        What this process decided itself stays; units add up. Other tasks run in between.
        """
        ...
