"""Writing a memory store into a hand-over, and going on from one: which frames there are, and in which order.

What matters most comes first, because the cap and a torn tail both take from the end. After each frame other tasks run;
each frame is read, checked and applied without a pause, so the tables are consistent in between.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from b1.store.passed import Received
from b1.store.passing import buckets, claims, leases, offences, streams, windows
from b1.store.passing.budget import Budget
from b1.store.passing.frames import MINOR, START, Frame, UnknownFormat, pack, unpack
from b1.store.passing.origin import Origin, Shift, read_origin
from b1.store.passing.report import Absorbed, Exported

if TYPE_CHECKING:
    from b1.store.memory import MemoryStore

HEAD, EXTRA, TAGS, DEBTS, END = "head", "xtra", "tags", "debt", "end."
_TAGS = 4096
# Messages to the successor while this process drains; what is invalidated later follows with its last word.
_TOLD = 512
# One message to the successor; longer names become everything.
_NEWS_BYTES = 16 * 1024
# Hand-overs that are remembered so as not to be taken twice.
_NAMES = 16
# Room for the frames that have to be there: the first, the tags' and the last.
_RESERVED_BYTES = 1024
# More than clocks differ by, and more fences than anybody takes in a drain, in microseconds.
_MARGIN_US = 1_000_000


class Debts(windows.UnitDebts, Protocol):
    """What a store owes to Redis besides windows and records."""

    def leave(self) -> tuple[dict[str, Any], bytes, int]:
        """Return fields, blob and count for the successor; what was left once is not left again."""
        ...

    def take(self, fields: Mapping[str, Any], blob: memoryview, shift: Shift) -> int:
        """Owe what a predecessor left; return how much that is.

        Raises:
            ValueError: it does not add up, and nothing was taken.
        """
        ...


@dataclass(slots=True)
class _Taking:
    """One hand-over as it is being taken."""

    origin: Origin
    shift: Shift
    debts: Debts | None
    taken: Counter[str] = field(default_factory=Counter)
    fates: Counter[Received] = field(default_factory=Counter)
    left_out: dict[str, int] = field(default_factory=dict)
    damaged: int = 0
    is_ended: bool = False
    unknown: dict[str, None] = field(default_factory=dict)
    tags: tuple[str, ...] | None = ()
    extras: dict[str, bytes] = field(default_factory=dict)


class Passing:
    """Both directions, of one memory store.

    Args:
        memory: whose tables.
    """

    def __init__(self, memory: MemoryStore) -> None:
        self._memory = memory
        self._tags: dict[str, None] | None = {}
        self._is_watching = False
        self._has_heir: Callable[[], bool] = lambda: False
        self._tell: Callable[[bytes], bool] = lambda data: False
        self._told = 0
        self._left_open: set[str] = set()
        # Debts that are in an export which is still being written.
        self._given: tuple[dict[str, Any], bytes] | None = None
        self._names: deque[str] = deque(maxlen=_NAMES)

    def __repr__(self) -> str:
        return f"Passing(watching={self._is_watching}, taken={len(self._names)})"

    def note_tags(self, tags: Sequence[str] | None) -> None:
        """Something was invalidated."""
        if not (self._is_watching or self._has_heir()):
            return
        # Before the first export a successor takes nothing yet, and news would only fill the way of its connections.
        if self._is_watching and self._told < _TOLD:
            self._told += self._tell(_news(tags))
        if self._tags is None:
            return
        if tags is None or len(self._tags) + len(tags) > _TAGS:
            self._tags = None
        else:
            self._tags.update(dict.fromkeys(tags))

    def tell_through(self, has_heir: Callable[[], bool], tell: Callable[[bytes], bool]) -> None:
        """Do what `PassingStore.tell_through` says."""
        self._has_heir, self._tell = has_heir, tell

    def hear(self, data: bytes) -> list[tuple[str, ...] | None]:
        """Do what `PassingStore.hear` says; return the tags of each message, None: everything."""
        try:
            frames = list(unpack(data))
        except ValueError:
            return []  # of a version that says it otherwise: the last export has it
        return [self._invalidate(frame) for frame in frames if frame is not None and frame.kind == TAGS]

    async def export(
        self,
        limit_bytes: int,
        *,
        last: bool,
        drain_ms: int = 0,
        extras: Mapping[str, bytes] | None = None,
        debts: Debts | None = None,
        is_away: bool = True,
    ) -> Exported:
        """Do what `PassingStore.export` says.

        Args:
            debts: of a store that has a Redis.
            is_away: False: Redis decides, and has what it was told.
        """
        news = self._is_watching
        if not last and not news:
            self._watch()
        budget = Budget(limit_bytes - _RESERVED_BYTES)
        parts = [START, pack(HEAD, self._origin("memory" if debts is None else "redis", 0 if last else drain_ms))]
        for name, data in (extras or {}).items():
            parts += budget.add("extras", pack(EXTRA, {"n": name}, data), 1)
        try:
            for frames in self._frames(budget, news, 0 if last else drain_ms, debts, is_away):
                parts += frames
                await asyncio.sleep(0)
        except BaseException:
            # Nobody gets it: the next one has to have all of it.
            self._take_back(debts)
            raise
        self._given = None
        if self._memory.windows.unnoted:
            budget.left_out["windows"] += self._memory.windows.unnoted
        left_out = {kind: count for kind, count in budget.left_out.items() if count}
        parts.append(pack(END, {"left_out": left_out}))
        passed = {kind: count for kind, count in budget.passed.items() if count}
        return Exported(b"".join(parts), passed, left_out)

    async def absorb(self, data: bytes, *, debts: Debts | None = None) -> Absorbed:
        """Do what `PassingStore.absorb` says."""
        try:
            frames = unpack(data)
            first = next(frames, None)
            if first is None or first.kind != HEAD:
                raise UnknownFormat("its first frame is damaged")
            origin = read_origin(first.fields)
        except ValueError as error:
            return Absorbed(refused=str(error))
        if origin.name in self._names:
            return Absorbed(refused="it was taken before")
        taking = self._begin(origin, debts)
        for frame in frames:
            if frame is None:
                taking.damaged += 1
            else:
                self._take(frame, taking)
            await asyncio.sleep(0)
        return Absorbed(
            taken=dict(taking.taken),
            own=taking.fates[Received.OWN],
            no_room=taking.fates[Received.NO_ROOM],
            left_out=taking.left_out,
            damaged=taking.damaged + (not taking.is_ended),
            unknown=tuple(taking.unknown),
            tags=taking.tags,
            extras=taking.extras,
        )

    def _watch(self) -> None:
        memory = self._memory
        for table in (memory.windows, memory.claims, memory.offences, memory.streams):
            table.watch()
        self._is_watching = True

    def _take_back(self, debts: Debts | None) -> None:
        memory = self._memory
        for table in (memory.windows, memory.claims, memory.offences, memory.streams):
            table.news = None
        self._is_watching, self._tags = False, {}
        self._left_open.clear()
        given, self._given = self._given, None
        if given is not None and debts is not None:
            debts.take(given[0], memoryview(given[1]), Shift(0))

    def _origin(self, kind: str, drain_ms: int) -> dict[str, Any]:
        memory = self._memory
        wall_us = memory.wall_us()
        origin = Origin(
            name=secrets.token_hex(8),
            includes=tuple(self._names),
            kind=kind,
            made_ms=memory.now_ms(),
            made_wall_ms=wall_us // 1000,
            floor=max(wall_us, memory.claims.last_fence, memory.streams.last_id) + drain_ms * 1000 + _MARGIN_US,
            salt=memory.windows.salt,
        )
        return {**origin.fields(), "minor": MINOR}  # said for people; readers go by kinds and fields

    def _frames(
        self, budget: Budget, news: bool, drain_ms: int, debts: Debts | None, is_away: bool
    ) -> Iterator[list[bytes]]:
        memory, now_ms = self._memory, self._memory.now_ms()
        if news or self._tags != {}:
            yield self._tag_frames(budget)
        hold_until_ms = now_ms + drain_ms
        keys = claims.ClaimsOut(
            memory.claims, news=news, hold_until_ms=hold_until_ms, mirrors=is_away, left=self._left_open
        )
        yield from ([] for _ in keys.survey(now_ms))
        yield from keys.open_frames(budget, now_ms)
        yield from offences.frames(memory.offences, budget, news=news)
        if debts is not None and (is_away or news):
            fields, blob, count = debts.leave()
            self._given = fields, blob
            yield budget.add("debts", pack(DEBTS, fields, blob), count) if count else []
        has_tables = is_away or news
        if has_tables:
            yield from buckets.frames(memory.buckets, budget, has_redis=debts is not None and is_away)
            yield from leases.frames(memory.leases, budget, now_ms, drain_ms)
        table = windows.WindowsOut(memory.windows, news=news, has_redis=debts is not None)
        if has_tables:
            if table.size_bytes > budget.left_bytes // 2:
                yield from ([] for _ in table.rank())
            # Half of it for the most used: a flood of callers does not push out the records.
            yield from table.frames(budget, now_ms, spare_bytes=budget.left_bytes // 2)
        yield from keys.done_frames(budget, now_ms)
        if has_tables:
            yield from streams.frames(memory.streams, budget, now_ms, news=news)
            yield from table.frames(budget, now_ms)

    def _tag_frames(self, budget: Budget) -> list[bytes]:
        named = (
            [] if self._tags is None else budget.add("tags", pack(TAGS, {"tags": list(self._tags)}), len(self._tags))
        )
        return named or [pack(TAGS, {"all": True, "tags": []})]

    def _begin(self, origin: Origin, debts: Debts | None) -> _Taking:
        memory = self._memory
        self._names.extend(name for name in (*origin.includes, origin.name) if name not in self._names)
        memory.claims.last_fence = max(memory.claims.last_fence, origin.floor)
        memory.streams.least_id = max(memory.streams.least_id, origin.floor)
        if not len(memory.windows) and len(origin.salt) == len(memory.windows.salt):
            memory.windows.salt = origin.salt
        return _Taking(origin, origin.shift(memory.now_ms(), memory.wall_us() // 1000), debts)

    def _take(self, frame: Frame, taking: _Taking) -> None:
        try:
            self._apply(frame, taking)
        except ValueError:
            taking.damaged += 1

    def _apply(self, frame: Frame, taking: _Taking) -> None:
        memory, now_ms, debts = self._memory, self._memory.now_ms(), taking.debts
        # A predecessor without a Redis told it nothing of what it counted.
        is_owed = debts is not None and taking.origin.kind == "memory"
        if frame.kind == windows.KIND:
            fates = windows.WindowsIn(memory.windows, taking.shift, debts, is_owed=is_owed).take(frame, now_ms)
            _count(taking, "windows", fates)
        elif frame.kind == claims.KIND:
            reader = claims.ClaimsIn(memory.claims, taking.shift, has_redis=debts is not None, is_owed=is_owed)
            for kind, fates in reader.take(frame, now_ms).items():
                _count(taking, kind, fates)
        elif frame.kind == offences.KIND:
            _count(taking, "penalties", offences.take(memory.offences, frame, taking.shift, now_ms))
        elif frame.kind == buckets.KIND:
            fates = buckets.take(memory.buckets, frame, taking.shift, now_ms, has_redis=debts is not None)
            _count(taking, "buckets", fates)
        elif frame.kind == leases.KIND:
            _count(taking, "leases", leases.take(memory.leases, frame, taking.shift, now_ms))
        elif frame.kind == streams.KIND:
            fate, entries = streams.take(memory.streams, frame, taking.shift, now_ms)
            _count(taking, "entries", [fate] * entries)
        elif frame.kind == TAGS:
            taking.tags = self._invalidate(frame)
        elif frame.kind == DEBTS:
            taking.taken["debts"] += debts.take(frame.fields, frame.blob, taking.shift) if debts is not None else 0
        elif frame.kind == EXTRA:
            taking.extras[str(frame.fields.get("n"))] = bytes(frame.blob)
        elif frame.kind == END:
            taking.is_ended = True
            taking.left_out = _counts(frame.fields.get("left_out"))
        else:
            taking.unknown[frame.kind] = None

    def _invalidate(self, frame: Frame) -> tuple[str, ...] | None:
        """Invalidate the tags that a frame names, and return them; None: everything."""
        found = frame.fields.get("tags")
        is_list = isinstance(found, list) and all(isinstance(tag, str) for tag in found)
        # What cannot be understood may have been anything.
        tags = tuple(found or ()) if is_list and not frame.fields.get("all") else None
        if tags is None or tags:
            self._memory.entries.invalidate(tags)
        return tags


def _news(tags: Sequence[str] | None) -> bytes:
    data = b"" if tags is None else START + pack(TAGS, {"tags": list(tags)})
    return data if 0 < len(data) <= _NEWS_BYTES else START + pack(TAGS, {"all": True, "tags": []})


def _count(taking: _Taking, kind: str, fates: Sequence[Received]) -> None:
    taking.fates.update(fates)
    count = sum(fate is Received.TAKEN for fate in fates)
    if count:
        taking.taken[kind] += count


def _counts(found: object) -> dict[str, int]:
    if not isinstance(found, dict):
        return {}
    return {kind: count for kind, count in found.items() if isinstance(kind, str) and isinstance(count, int)}
