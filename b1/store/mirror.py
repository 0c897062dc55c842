"""A copy of the server's version table in this process, so that a cached value can be validated without a trip.

It is fed by what the server pushes on the connection that carries everything else, where a push comes before the reply
to any command that was executed later. So after the reply to any command the mirror has all that was invalidated before.
Changes are numbered: a gap, another epoch, or a trip that knows more means that the mirror is out of order, and it is
not exact until the table was read again. Reading it again costs nothing that is still good: only what moved is stale.
This process's own invalidations are marked on top of it until the server has counted them (`b1.store.marks`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from b1.clock import Clock
from b1.store.changes import HEAD, TABLE_BYTES, Change, any_lower, understood
from b1.store.marks import Mark, Marks
from b1.store.versions import EPOCH_BYTES, VERSION_BYTES, new_epoch, place_of

# What was pushed while the table was being read.
_EARLY = 1024
# A connection on which trips knew more than pushes so often does not push in order.
_DISTRUST = 3


@dataclass(frozen=True, slots=True)
class MirrorSnapshot:
    """What the mirror says about itself.

    Attributes:
        is_exact: it has everything that was pushed, in order, on the present connection.
        changes: of any kind, since the start.
        number: of the last change of the table.
        resyncs: how often the table was read.
        losses: how often the order was lost on a living connection.
        marks: own invalidations that the server has not confirmed.
        last_loss: why the order was lost the last time.
    """

    is_exact: bool
    changes: int
    number: int
    resyncs: int
    losses: int
    marks: int
    held_bytes: int
    last_loss: str | None


class Mirror:
    """The table, what is marked in it, and whether it is in order. Synchronous; the event loop's thread alone.

    Args:
        clock: says how long the server has been away.
        is_up: whether it would be asked now.
        away_limit_s: while it is away, everything counts as softly invalidated each time so much has passed. Read only.

    Attributes:
        changes: grows with every change, of whatever cause.
        is_away: somebody decided that the server does not count, although its connection may live.
        is_lost: set when the table should be read again.
    """

    def __init__(self, clock: Clock, is_up: Callable[[], bool], *, away_limit_s: float = 30.0) -> None:
        self.changes = 0
        self.is_away = False
        self.is_lost = asyncio.Event()
        self._clock = clock
        self._is_up = is_up
        self.away_limit_s = away_limit_s
        self._epoch = new_epoch()
        # What is handled late may tell of one of these.
        self._past: deque[bytes] = deque(maxlen=16)
        self._number = 0
        self._table: bytearray | None = None
        self._is_ordered = False
        self._has_pushes = False
        self._disorders = 0
        self._awaited: asyncio.Future[bytes] | None = None
        self._early: list[Change] = []
        self._marks = Marks()
        self._away_since_s: float | None = None
        self._away_steps = 0
        self._resyncs = self._losses = 0
        self._last_loss: str | None = None

    def __repr__(self) -> str:
        return f"Mirror({self.snapshot()!r})"

    @property
    def is_exact(self) -> bool:
        """Whether `vector` is what the server would answer, up to what it is pushing at this moment."""
        if not self._is_ordered or self.is_away or not self._is_up():
            self.pass_time()
            return False
        if self._away_since_s is not None:  # it was silent for a while; the connection is the same, and so is the order
            self._rejuvenate()
        return True

    @property
    def is_all_marked(self) -> bool:
        """Whether the next invalidation has to be one of everything."""
        return self._marks.is_everything

    @property
    def has_marks(self) -> bool:
        """Whether the server has not confirmed an own invalidation yet."""
        return len(self._marks) > 0

    @property
    def head(self) -> tuple[bytes, int]:
        """Epoch and number of the last change that is known."""
        return self._epoch, self._number

    def vector(self, tags: Sequence[str]) -> bytes:
        """Return the versions of the tags, in their order, behind the epoch."""
        table = self._table
        if table is not None and self._marks.is_plain:
            return b"".join([self._epoch, *[table[place_of(tag)[1]] for tag in tags]])
        return self._marked(tags)

    # Own invalidations

    def mark(self, tags: Sequence[str] | None, soft: Sequence[str] = ()) -> Mark:
        """Make stale here and now what depends on the tags; None: everything. `settle` it when the server has."""
        self.changes += 1
        if tags is None:
            return self._marks.add(None)
        return self._marks.add([place_of(tag)[1].start for tag in tags], [place_of(tag)[1].start for tag in soft])

    def settle(self, mark: Mark) -> None:
        """Remove a mark and older ones of the same tags: the server has counted, and told us so."""
        self._marks.remove(mark)
        self.changes += 1

    # What others did

    def hear(self, message: bytes) -> None:
        """Apply what was pushed."""
        change = understood(message)
        if change is None:
            self._lose(f"a push of {len(message)} bytes was not understood")
        elif self._awaited is not None and self._awaited.done():  # later than the table that is about to be loaded
            self._early.append(change)
        elif self._awaited is None or self._is_ordered:
            self._follow(change)

    def hear_own(self, message: bytes) -> None:
        """Apply the reply to an own invalidation. It may be handled later than pushes that came after it."""
        change = understood(message)
        if change is None or self._apply(change):
            return
        if self._awaited is not None:
            self._early.append(change)
        elif self._is_ordered:
            self._lose(f"own change {change.number} of {change.epoch.hex()} does not follow")
        self._adopt(change)

    def learn(self, tags: Sequence[str], vector: bytes) -> None:
        """Compare with what a trip answered about the tags, and take over what it knows better."""
        table = self._table
        if table is not None:
            known = b"".join([self._epoch, *[table[place_of(tag)[1]] for tag in tags]])
            if known == vector:
                return
        epoch, is_same = vector[:EPOCH_BYTES], vector[:EPOCH_BYTES] == self._epoch
        if self._is_ordered and not is_same:
            if epoch not in self._past:
                self._disorder("a trip answered from another epoch")
            return
        self._enter_blindly(epoch)
        versions = [vector[at : at + VERSION_BYTES] for at in range(EPOCH_BYTES, len(vector), VERSION_BYTES)]
        moved = [(place_of(tag)[1].start, version) for tag, version in zip(tags, versions, strict=False)]
        if self._raise(moved) and self._is_ordered:
            self._disorder("a trip knew more than the pushes")
        else:
            self.changes += 1

    # Order

    def connected(self, reply: asyncio.Future[bytes] | None, *, has_pushes: bool) -> None:
        """On a new connection, whose first reply will be the table."""
        self._is_ordered, self._has_pushes, self._disorders = False, has_pushes, 0
        self.wait_for(reply)

    def wait_for(self, reply: asyncio.Future[bytes] | None) -> None:
        """The table was asked for; what is pushed after the reply came is kept for `load`."""
        self.is_lost.clear()
        self._awaited, self._early = reply, []

    def disconnected(self) -> None:
        """The connection is over."""
        self._awaited, self._is_ordered = None, False
        self._away_since_s = self._clock.monotonic()
        self.changes += 1

    def load(self, data: bytes) -> bool:
        """Take the table over; False: the server has lost changes that are known here, and must begin a new epoch.

        Raises:
            ValueError: it is none.
        """
        early, self._early, self._awaited = self._early, [], None
        if len(data) != HEAD.size + TABLE_BYTES:
            raise ValueError(f"the version table has {len(data)} bytes, expected {HEAD.size + TABLE_BYTES}")
        epoch, number = HEAD.unpack_from(data)
        table, old = data[HEAD.size :], self._table
        if old is not None and epoch == self._epoch and table != old and any_lower(table, old):
            return False
        self._enter(epoch)
        self._number, self._table = number, bytearray(table)
        self._resyncs += 1
        self._rejuvenate()
        self._is_ordered = self._has_pushes and self._disorders < _DISTRUST
        self.changes += 1
        if len(early) > _EARLY:
            self._lose(f"{len(early)} changes came while the table was read")
        for change in early:
            self._follow(change)
        return True

    def give_up(self) -> None:
        """The table did not come."""
        self._awaited = None
        self._early = []

    def check(self, head: bytes) -> None:
        """Compare with the head of the table: does it tell of changes that were not heard of?"""
        epoch, number = HEAD.unpack(head) if len(head) == HEAD.size else (b"", 0)
        if epoch != self._epoch or number > self._number:
            self._lose(f"the table has {len(head)} bytes of head, epoch {epoch.hex()} and change {number}")

    def note_return(self) -> None:
        """The server counts again, on the connection that it always had."""
        self.is_away = False
        if self._is_up():
            self._rejuvenate()

    def pass_time(self) -> None:
        """Age what is here, if the server is away."""
        if not self.is_away and self._is_up():
            return
        now_s = self._clock.monotonic()
        if self._away_since_s is None:
            self._away_since_s = now_s
        steps = int((now_s - self._away_since_s) / self.away_limit_s)
        if steps != self._away_steps:
            self._away_steps = steps
            self._marks.age()
            self.changes += 1

    def snapshot(self) -> MirrorSnapshot:
        """Return numbers; no I/O."""
        return MirrorSnapshot(
            is_exact=self._is_ordered and not self.is_away and self._is_up(),
            changes=self.changes,
            number=self._number,
            resyncs=self._resyncs,
            losses=self._losses,
            marks=len(self._marks),
            held_bytes=0 if self._table is None else TABLE_BYTES,
            last_loss=self._last_loss,
        )

    # The rest is bookkeeping

    def _marked(self, tags: Sequence[str]) -> bytes:
        table, marks = self._table, self._marks
        parts = [marks.epoch_over(self._epoch)]
        for tag in tags:
            place = place_of(tag)[1]
            version = 0 if table is None else int.from_bytes(table[place], "big")
            parts.append(marks.version_over(place.start, version).to_bytes(VERSION_BYTES, "big"))
        return b"".join(parts)

    def _rejuvenate(self) -> None:
        self._away_since_s, self._away_steps = None, 0
        self._marks.age(is_over=True)
        self.changes += 1

    def _follow(self, change: Change) -> None:
        if not self._apply(change):
            self._adopt(change)
            self._number = change.number
            self._lose(f"change {change.number} of {change.epoch.hex()} does not follow")

    def _apply(self, change: Change) -> bool:
        """Apply the next change; True also for one that is known, False when it is another one."""
        if change.epoch == self._epoch and change.number <= self._number:
            return True
        if self._is_ordered and change.epoch in self._past:
            return True  # on two connections for a moment, or a reply that is handled late
        table = self._table
        if table is None or change.before != self._epoch or change.number != self._number + 1:
            return False
        for place, version in change.moved:
            table[place : place + VERSION_BYTES] = version
        self._enter(change.epoch)
        self._number = change.number
        self.changes += 1
        return True

    def _adopt(self, change: Change) -> None:
        """Take over what a change says, out of order."""
        self._enter_blindly(change.epoch)
        self._raise(change.moved)
        self.changes += 1

    def _enter(self, epoch: bytes) -> bool:
        """Say whether this epoch is another one."""
        if epoch == self._epoch:
            return False
        if epoch in self._past:  # an old table came back
            self._past.remove(epoch)
        self._past.append(self._epoch)
        self._epoch = epoch
        return True

    def _enter_blindly(self, epoch: bytes) -> bool:
        """As `_enter`, when nothing is known of the new epoch's table: what was known is of another one."""
        if not self._enter(epoch):
            return False
        self._number = 0
        self._table = bytearray(TABLE_BYTES)
        return True

    def _raise(self, moved: Iterable[tuple[int, bytes]]) -> bool:
        """Set what is greater than what is known; say whether anything was."""
        if self._table is None:
            self._table = bytearray(TABLE_BYTES)
        table, has_moved = self._table, False
        for place, version in moved:
            if table[place : place + VERSION_BYTES] < version:
                table[place : place + VERSION_BYTES] = version
                has_moved = True
        return has_moved

    def _lose(self, reason: str) -> None:
        self._losses += 1
        self._last_loss = reason
        self._is_ordered = False
        self.changes += 1
        if self._has_pushes and self._disorders < _DISTRUST:
            self.is_lost.set()

    def _disorder(self, reason: str) -> None:
        self._disorders += 1
        self._lose(reason)
