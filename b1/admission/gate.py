"""Who may start, who waits, who is refused. One gate per worker, used by its event loop alone.

The order of the questions is the order of their cost: memory level, age, class, room, queue. A healthy request passes
in one call without an await. Everything else goes through the queue of its lane, and `b1.admission.pump` starts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from b1.admission.arrivals import Arrivals
from b1.admission.habits import Habits
from b1.admission.in_work import InWork
from b1.admission.lane import Lane
from b1.admission.limit import MIXED, VegasLimit
from b1.admission.options import CLASSES, SHEDDABLE, AdmissionOptions, Rung
from b1.admission.pump import Pump
from b1.admission.snapshot import AdmissionSnapshot, lane_snapshot
from b1.admission.steps import Core
from b1.admission.ticket import AGE, CLOSED, FULL, GONE, MEMORY, REFUSALS, Refusal, Ticket
from b1.clock import Clock

# Levels of the governor, as numbers: this package is its sibling and does not import it.
_ELEVATED = 1
# How many times the patience a request that waits for others may take by nature, as far as is known while their limit has
# not been found: it was only set, and who waits behind slow requests is not refused for that.
_UNKNOWN = 5.0
# Classes that are served, by rung: all, without the sheddable, ..., the critical alone.
_LOWEST_RANK = {Rung.OPEN: 2, Rung.NO_SHEDDABLE: 1, Rung.HALVED: 1, Rung.CRITICAL_ONLY: 0, Rung.EMERGENCY: 0}


class Gate:
    """The gate.

    Args:
        level: the memory level, 0 (normal) to 5 (emergency); asked ten times a second at most.
        is_overlapping: another worker starts beside this one and takes half of the core: a queue that stands meanwhile is
            no overload.
        lag_level: 1 while the loop lags so much that admission has to be one rung stricter, else 0.
        random: jitters the adaptive limit's probes.
    """

    def __init__(
        self,
        options: AdmissionOptions,
        clock: Clock,
        *,
        level: Callable[[], int] = lambda: 0,
        lag_level: Callable[[], int] = lambda: 0,
        is_overlapping: Callable[[], bool] = lambda: False,
        random: Random | None = None,
    ) -> None:
        self._options = options
        self._clock = clock
        self._is_overlapping = is_overlapping
        self._opened_s = 0.0
        self._level = level
        self._lag_level = lag_level
        random = random or Random()
        least, most = options.least_limit, options.most_limit
        mixed = min(options.initial_limit, options.initial_mixed_limit)
        self._adaptive = VegasLimit(options.initial_limit, least, most, random=random)
        self._adaptive_mixed = VegasLimit(mixed, min(least, mixed), most, random=random, slack=MIXED)
        self._waiting = Lane("waiting", options.initial_limit, options, is_strict=False)
        self._mixed = Lane("mixed", mixed, options, is_strict=False)
        self._threads = Lane("threads", options.threads, options, is_strict=True)
        self._cpu = Lane("cpu", 1, options, is_strict=True)
        self._waiting.usual_s = self._unknown_s = _UNKNOWN * options.patience_s
        self._lanes = (self._waiting, self._mixed, self._threads, self._cpu)
        self._pump = Pump(self, self._lanes, options, clock)
        self._in_work = InWork()
        self._running, self._free = self._in_work.tickets, self._in_work.free  # for the fast path
        self._habits: list[Habits] = []
        self._direct_age_s = options.direct_age_s
        self._look_at_s = 0.0
        self._lowest_rank = SHEDDABLE
        self._emergency: asyncio.TimerHandle | None = None
        self._admitted = [0] * len(CLASSES)
        self._refused = {refusal.reason: [0] * len(CLASSES) for refusal in REFUSALS}
        self._cancelled: dict[str, int] = {}
        self._is_closed = False
        self.refuses_large_bodies = False
        self.reading = 0
        self.sockets = 0
        self.arrivals: Arrivals | None = None
        self.rung = Rung.OPEN

    def __repr__(self) -> str:
        return f"<Gate {self.rung.name.lower()} {' '.join(map(repr, self._lanes))}>"

    def habits(self, template: str, *, rank: int, cpu_bound: bool | None = None, in_thread: bool = False) -> Habits:
        """Return what will be known of a route; ask once per route and keep it."""
        usual = self._threads if in_thread else self._waiting
        habits = Habits(
            template,
            self._options,
            usual=usual,
            mixed=self._mixed,
            cpu=self._cpu,
            rank=rank,
            cpu_bound=cpu_bound,
            in_thread=in_thread,
        )
        self._habits.append(habits)
        return habits

    def open(self) -> None:
        """This worker accepts from now on: what waited in the socket until then has not waited for us."""
        self._opened_s = self._clock.monotonic()
        self._stay_calm(self._opened_s + self._options.opening_s)

    def age_from(self, arrived_s: float) -> float:
        """Return from when a request's age counts."""
        return arrived_s if arrived_s > self._opened_s else self._opened_s

    def _stay_calm(self, until_s: float) -> None:
        for lane in self._lanes:
            lane.calm_until_s = until_s

    # In

    def try_enter(self, ticket: Ticket, now_s: float) -> bool:
        """Let a request in at once if nothing at all is in its way. Whoever is let in must `leave`."""
        if now_s >= self._look_at_s:
            self.look()
        lane, rank = ticket.lane, ticket.rank
        if (
            lane.queued
            or rank > self._lowest_rank
            or now_s - ticket.arrived_s > self._direct_age_s
            or (lane.running >= lane.limit and not lane.has_room(rank))
        ):
            return False
        lane.running += 1  # what `take` and `begin` do, without their calls: every healthy request comes here
        lane.busy[rank] += 1
        ticket.started_s = now_s
        self._admitted[rank] += 1
        if self._free:
            slot = ticket.slot = self._free.pop()
            self._running[slot] = ticket
        else:
            ticket.slot = len(self._running)
            self._running.append(ticket)
        return True

    def serves(self, rank: int, now_s: float) -> bool:
        """Say whether a class is served at all, for answers that cost less than a refusal: they need no permit."""
        if now_s >= self._look_at_s:
            self.look()
        return rank <= self._lowest_rank and not self._is_closed

    def served(self, rank: int) -> None:
        """Count a request that needed no permit."""
        self._admitted[rank] += 1

    async def enter(self, ticket: Ticket) -> Refusal | None:
        """Let a request in when its turn comes; return why not. Whoever is let in must `leave`."""
        now_s = self._clock.monotonic()
        lane = ticket.lane
        if self._is_closed:
            return self.refused(ticket, CLOSED)
        if ticket.rank > self._lowest_rank:
            return self.refused(ticket, MEMORY)
        if now_s - ticket.arrived_s > min(self._options.patience_s, lane.age_limit_s(now_s)):
            return self.refused(ticket, AGE)
        out = lane.offer(ticket, now_s)
        if out is not None and out[0] is ticket:
            return self.refused(ticket, out[1])
        ticket.decision = asyncio.get_running_loop().create_future()
        if out is not None:
            self.decide(*out)
        self._pump.stir()
        try:
            return await ticket.decision
        except asyncio.CancelledError:
            if ticket.decision.cancelled():
                lane.withdraw(ticket)
            elif ticket.decision.result() is None:
                self.leave(ticket, is_honest=False)  # admitted, and cancelled before it could start
            raise

    def begin(self, ticket: Ticket, now_s: float) -> None:
        """Note that a request starts; its permit is taken."""
        ticket.started_s = now_s
        self._admitted[ticket.rank] += 1
        self._in_work.add(ticket)

    def may_open(self, ticket: Ticket) -> Refusal | None:
        """Say why one more WebSocket may not be opened; its handshake then enters like any other request."""
        return self.refused(ticket, FULL) if self.sockets >= self._options.most_sockets else None

    def opened(self, ticket: Ticket) -> None:
        """A handshake has ended well: what follows waits for events, and holds a place but no permit."""
        self.leave(ticket, is_honest=True)
        self.sockets += 1

    def closed(self) -> None:
        """A WebSocket has ended."""
        self.sockets -= 1

    @property
    def core(self) -> Core:
        """Who gives heavy requests their turns at the loop."""
        return self._pump

    # Out

    def leave(self, ticket: Ticket, *, is_honest: bool) -> None:
        """Note that a request ended, in whatever way; its permit is free.

        Args:
            is_honest: it ran to its own end, so that its time says something about the load.
        """
        lane = ticket.lane
        self._running[ticket.slot] = None  # what `InWork.remove` does, without its call
        self._free.append(ticket.slot)
        ticket.task = ticket.context = None  # the context has the ticket: both would wait for the garbage collector
        if ticket.line is not None:
            ticket.line.ticket = None
        if ticket.is_stream:
            self._in_work.streams -= 1
        else:
            lane.running -= 1
            lane.busy[ticket.rank] -= 1
            if is_honest:
                self._learn(ticket, lane)
        if ticket.ended_by is not None:
            self._cancelled[ticket.ended_by] = self._cancelled.get(ticket.ended_by, 0) + 1
        if self._pump.task is not None:
            self._pump.stir()

    def _learn(self, ticket: Ticket, lane: Lane) -> None:
        """Take the time of a request that ran to its own end, less what its client needed to send it."""
        now_s = self._clock.monotonic()
        elapsed_s = now_s - ticket.started_s - ticket.waited_s
        times, in_work = ticket.habits.times, lane.running + 1
        if ticket.held_s >= 0.0:
            ticket.habits.learn(ticket.held_s, elapsed_s)
        if lane is self._waiting:
            adaptive, is_decided = self._adaptive, self._adaptive.take(times, elapsed_s, in_work, now_s)
        elif lane is self._mixed:
            adaptive = self._adaptive_mixed
            is_decided = adaptive.take_known(times, elapsed_s, ticket.queued_s, in_work, now_s)
        else:
            return
        if is_decided:
            lane.set_limit(self._halved(adaptive.limit))
            lane.usual_s = self._unknown_s if adaptive.is_finding else adaptive.usual_s

    def refused(self, ticket: Ticket, refusal: Refusal) -> Refusal:
        """Count a refusal."""
        self._refused[refusal.reason][ticket.rank] += 1
        return refusal

    def decide(self, ticket: Ticket, refusal: Refusal) -> None:
        """Refuse a request that waits; one whose task was cancelled meanwhile needs no answer."""
        if ticket.decision is not None and not ticket.decision.done():
            ticket.decision.set_result(self.refused(ticket, refusal))

    def pause(self, ticket: Ticket) -> None:
        """A request waits for its client's bytes: whoever sends slowly may not use up the permits of others."""
        ticket.paused_s = self._clock.monotonic()
        ticket.is_reading = True
        self.reading += 1
        ticket.lane.give(ticket.rank)
        if ticket.lane.queued:
            self._pump.stir()

    def resume(self, ticket: Ticket) -> None:
        """It goes on, with the permit that it was given, although the limit may be passed for a moment."""
        ticket.waited_s += self._clock.monotonic() - ticket.paused_s
        ticket.is_reading = False
        self.reading -= 1
        ticket.lane.take(ticket.rank)

    # Pressure

    def look(self) -> None:
        """Ask for memory level and lag, and act on what changed. Call it too when the level changes.

        Lag alone goes up to "critical only": cancelling work frees memory, and no processor time that is spent.
        """
        level = self._level()
        rung = max(0, level - 1)
        rung = max(rung, min(rung + self._lag_level(), Rung.CRITICAL_ONLY))
        now_s = self._clock.monotonic()
        self._look_at_s = now_s + self._options.look_s
        if self._is_overlapping():
            self._stay_calm(now_s + self._options.opening_s)
        if self.arrivals is not None:
            self.arrivals.shorten(self._options.keep_alive_s if level >= _ELEVATED else None)
        if rung != self.rung:
            self.rung = Rung(rung)
            self._lowest_rank = _LOWEST_RANK[self.rung]
            self.refuses_large_bodies = self.rung >= Rung.HALVED
            self._threads.set_limit(self._halved(self._options.threads))
            for lane in self._lanes:
                for ticket in lane.refuse_from(self._lowest_rank + 1):
                    self.decide(ticket, MEMORY)
        self._waiting.set_limit(self._halved(self._adaptive.limit))
        self._mixed.set_limit(self._halved(self._adaptive_mixed.limit))
        self._in_work.release_streams(self._lanes, now_s - self._options.stream_after_s)
        if self.rung is Rung.EMERGENCY and self._in_work.give_up_newest() and self._emergency is None:
            self._emergency = asyncio.get_running_loop().call_later(self._options.look_s, self._look_again)

    def _halved(self, limit: int) -> int:
        return max(1, limit // 2) if self.rung >= Rung.HALVED else limit

    def _look_again(self) -> None:
        self._emergency = None
        self.look()

    # End

    async def aclose(self) -> None:
        """Refuse whoever waits, and end the pump."""
        self._is_closed = True
        if self._emergency is not None:
            self._emergency.cancel()
        for lane in self._lanes:
            for ticket in lane.refuse_from(0):
                self.decide(ticket, CLOSED)
        await self._pump.aclose()

    def gone(self, ticket: Ticket) -> Refusal:
        """Refuse a request whose client hung up before it could start."""
        return self.refused(ticket, GONE)

    def snapshot(self) -> AdmissionSnapshot:
        """Return counts and state."""
        now_s = self._clock.monotonic()
        ranks = range(len(CLASSES))
        return AdmissionSnapshot(
            rung=self.rung.name.lower(),
            lanes=tuple(lane_snapshot(lane, now_s) for lane in self._lanes),
            admitted=tuple(zip(CLASSES, self._admitted, strict=True)),
            refused=tuple(
                (CLASSES[rank], reason, counts[rank])
                for reason, counts in self._refused.items()
                for rank in ranks
                if counts[rank]
            ),
            cancelled=tuple(self._cancelled.items()),
            streams=self._in_work.streams,
            sockets=self.sockets,
            cpu_bound=tuple(habits.template for habits in self._habits if habits.lane is self._cpu),
        )
