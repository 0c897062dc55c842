"""The coherency check: a sample of this process's copies against the version table, the second copy and the source.

It looks, and changes nothing. What moves while it looks is counted as moved and is no finding, so that a finding is one:
the same entry was there before and after, and what it should equal said something else in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, Protocol

from b1.cache.l1.measuring import resident_bytes
from b1.cache.names import entry_name, key_tag, namespace_of
from b1.cache.reading.shared import Answer, State, store_key
from b1.cache.reading.values import ERROR, Meta, Value, encode
from b1.clock import DEADLINE, Clock
from b1.errors import NotRunning
from b1.store.versions import compare
from b1.types import Versions, VersionSource

log = logging.getLogger("b1.cache")

# Loads what a key stands for: the key, and the organisation that it belongs to.
Load = Callable[[str, str | None], Awaitable[Any]]

_OWNED = entry_name("", "")  # what stands between the organisation and the key in an entry's name


class First(Protocol):
    """The part of `b1.cache.l1.table.L1` that is used here."""

    def find(self, key: str) -> Any: ...
    def built_on(self, key: str) -> Versions | None: ...
    def held_bytes(self) -> int: ...
    def snapshot(self) -> Any: ...


class Second(Protocol):
    """The part of `b1.cache.reading.shared.Shared` that is used here."""

    @property
    def is_there(self) -> bool: ...

    async def ask(
        self, name: str, key: str | None, tags: tuple[str, ...], *, namespace: str = ...
    ) -> Answer | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Options of `Checker`.

    Attributes:
        sample: entries of one check that says nothing else, and the most of any.
        most: entries that a check may have.
        loads: how many of them are held against the source; the database is busy with better things.
        pause_s: after each entry.
        load_s: the longest that one load may take.
        limit_s: of a whole check; what was not looked at by then is left out.
        findings: keys that a report names.
    """

    sample: int = 100
    most: int = 2000
    loads: int = 20
    pause_s: float = 0.002
    load_s: float = 5.0
    limit_s: float = 30.0
    findings: int = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One entry that is not what it should be.

    Attributes:
        kind: ``missed`` (invalidated, and served here), ``differs`` (from the second copy), ``stale`` (from the source).
    """

    kind: str
    key: str
    organization: str | None


@dataclass(frozen=True, slots=True)
class Drift:
    """The report of one check.

    Attributes:
        at_s: wall time of its end.
        entries: in this process when it began.
        checked: looked at; what was evicted meanwhile is left out.
        missed: invalidated in the shared table, and still fresh here: always a defect.
        l1_l2_differs: the second copy is current and says something else: the source changed without an invalidation.
        stale: the source says something else.
        unknown: nobody said how to load it, or it is no value of the data cache (a response, a principal).
        compared_l2, compared_source: how many were held against what.
        absent_l2: not in the second copy; no finding, the copies live for different times.
        moved: changed while it was looked at.
        errors: loads and calls that failed.
        accounted_bytes: what the map says that it holds.
        segments_bytes, resident_bytes: what it accounts its segments at, and what the system says; None: it does not say.
        table_is_exact, table_number: of the mirror; None without one.
        is_complete: False: its time was over first.
    """

    at_s: float
    took_s: float
    entries: int
    checked: int
    missed: int
    l1_l2_differs: int
    stale: int
    unknown: int
    compared_l2: int
    compared_source: int
    absent_l2: int
    moved: int
    errors: int
    accounted_bytes: int
    segments_bytes: int | None
    resident_bytes: int | None
    table_is_exact: bool | None
    table_number: int | None
    is_complete: bool
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.missed or self.l1_l2_differs or self.stale)


@dataclass(slots=True)
class _Tally:
    began_s: float
    entries: int
    loads_left: int
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("checked", "missed", "differs", "stale", "unknown", "l2", "source", "absent", "moved", "errors"), 0
        )
    )
    findings: list[Finding] = field(default_factory=list)


class Checker:
    """Runs checks, one at a time.

    Args:
        l1: the first copy.
        sample: gives the names of so many entries of it, by chance.
        shared: the second copy; None without one.
        source: the versions as this process knows them.
        maps: the memory maps that the first copy lies in.
        background: entered around a load: what it asks of the database is background work.
    """

    def __init__(
        self,
        l1: First,
        sample: Callable[[int], Sequence[str]],
        clock: Clock,
        *,
        shared: Second | None = None,
        source: VersionSource | None = None,
        maps: Callable[[], Iterable[mmap]] | None = None,
        background: Callable[[], AbstractContextManager[object]] = nullcontext,
        options: CheckOptions | None = None,
    ) -> None:
        self._l1 = l1
        self._sample = sample
        self._clock = clock
        self._shared = shared
        self._source = source
        self._maps = maps
        self._background = background
        self._options = options or CheckOptions()
        self._loads: dict[str, Load] = {}
        self._running: asyncio.Task[Drift] | None = None
        self._last: Drift | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Checker namespaces={len(self._loads)} is_running={self._running is not None} last={self._last!r}>"

    def knows(self, namespace: str, load: Load) -> None:
        """Have the keys that begin with ``namespace:`` held against what `load` gives for them."""
        self._loads[namespace] = load

    def snapshot(self) -> Drift | None:
        """Return the last report; None before the first."""
        return self._last

    async def check(self, count: int | None = None) -> Drift:
        """Check so many entries and return the report; who comes while a check runs gets that one's.

        Raises:
            NotRunning: after `aclose`.
        """
        if self._is_closed:
            raise NotRunning("the cache is closed")
        if self._running is None:
            asked = min(max(1, count or self._options.sample), self._options.most)
            self._running = asyncio.create_task(self._check(asked), name="b1-cache-check")
        return await asyncio.shield(self._running)

    async def aclose(self) -> None:
        """End a check that runs."""
        self._is_closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _check(self, count: int) -> Drift:
        DEADLINE.set(None)  # whoever asked first does not decide for those who wait too
        tally = _Tally(self._clock.monotonic(), int(self._l1.snapshot().entries), self._options.loads)
        is_complete = True
        try:
            try:
                async with asyncio.timeout(self._options.limit_s):
                    for name in self._sample(count):
                        await self._look(name, tally)
                        await asyncio.sleep(self._options.pause_s)
            except TimeoutError:
                is_complete = False
            self._last = drift = await self._report(tally, is_complete=is_complete)
            if not drift.is_clean:
                log.warning(
                    "the caches differ",
                    extra={"missed": drift.missed, "differs": drift.l1_l2_differs, "stale": drift.stale},
                )
            return drift
        finally:
            self._running = None

    async def _look(self, name: str, tally: _Tally) -> None:
        found, versions = self._l1.find(name), self._l1.built_on(name)
        if found is None or found.is_stale:
            return
        tally.counts["checked"] += 1
        if versions is None or not _is_value(name, found, versions):
            tally.counts["unknown"] += 1
            return
        organization, owned, key = name.rpartition(_OWNED)
        kinds = [await self._against_second(name, key, organization if owned else None, found, versions, tally)]
        kinds.append(await self._against_source(name, key, organization if owned else None, found, versions, tally))
        for kind in filter(None, kinds):
            tally.counts[kind] += 1
            if kind in ("missed", "differs", "stale") and len(tally.findings) < self._options.findings:
                tally.findings.append(Finding(kind, key, organization if owned else None))

    async def _against_second(
        self, name: str, key: str, organization: str | None, found: Any, versions: Versions, tally: _Tally
    ) -> str | None:
        shared = self._shared
        if shared is None or not shared.is_there:
            return None
        answer = await shared.ask(name, store_key(key, organization), versions.tags, namespace=namespace_of(key))
        if answer is None:
            return "errors"
        tally.counts["l2"] += 1
        is_missed = compare(versions.vector, answer.vector) == "hard"
        if not self._is_still(name, versions):
            return "moved"
        if is_missed:
            # Served here although the table says otherwise; by a mirror in order that is a defect, else a matter of time.
            return "missed" if self._source is None or self._source.is_exact else "moved"
        if answer.state is not State.FRESH:
            return "absent"
        return None if answer.value == found.value else "differs"

    async def _against_source(
        self, name: str, key: str, organization: str | None, found: Any, versions: Versions, tally: _Tally
    ) -> str | None:
        load = self._loads.get(namespace_of(key))
        if load is None:
            return "unknown"
        if not tally.loads_left:
            return None
        tally.loads_left -= 1
        try:
            async with asyncio.timeout(self._options.load_s):
                with self._background():
                    value: Value = encode(await load(key, organization))
        except Exception as error:  # noqa: BLE001 - a load may raise what it likes; it is counted and the check goes on
            log.info("a load of the cache check failed", extra={"cause": type(error).__name__})
            return "errors"
        tally.counts["source"] += 1
        if not self._is_still(name, versions):
            return "moved"
        return None if value.data == found.value else "stale"

    def _is_still(self, name: str, versions: Versions) -> bool:
        """Say whether the very entry is still served: it was neither invalidated, nor replaced, nor evicted meanwhile."""
        found = self._l1.find(name)
        return found is not None and not found.is_stale and self._l1.built_on(name) == versions

    async def _report(self, tally: _Tally, *, is_complete: bool) -> Drift:
        counts, held = tally.counts, self._l1.snapshot()
        resident = await self._resident_bytes()
        table = getattr(self._source, "snapshot", lambda: None)()
        now_s = self._clock.monotonic()
        return Drift(
            at_s=self._clock.wall(),
            took_s=now_s - tally.began_s,
            entries=tally.entries,
            checked=counts["checked"],
            missed=counts["missed"],
            l1_l2_differs=counts["differs"],
            stale=counts["stale"],
            unknown=counts["unknown"],
            compared_l2=counts["l2"],
            compared_source=counts["source"],
            absent_l2=counts["absent"],
            moved=counts["moved"],
            errors=counts["errors"],
            accounted_bytes=self._l1.held_bytes(),
            segments_bytes=getattr(held, "resident_bytes", None),
            resident_bytes=resident,
            table_is_exact=None if self._source is None else self._source.is_exact,
            table_number=getattr(table, "number", None),
            is_complete=is_complete,
            findings=tuple(tally.findings),
        )

    async def _resident_bytes(self) -> int | None:
        if self._maps is None:
            return None
        total = 0
        for number, one in enumerate(resident_bytes(list(self._maps()))):
            if one is None:
                return None
            total += one
            if number % 16 == 15:
                await asyncio.sleep(0)
        return total


def _is_value(name: str, found: Any, versions: Versions) -> bool:
    """Say whether an entry is a value of the data cache: those carry the tag of their own name, and no exception."""
    is_named = versions.tags[:1] == (key_tag(name),)
    return is_named and (found.meta is None or (isinstance(found.meta, Meta) and not found.meta.flags & ERROR))
