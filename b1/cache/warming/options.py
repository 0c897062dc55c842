"""What can be chosen for warming, and what it says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmingOptions:
    """Options of `Warming`.

    Attributes:
        start_wait_s: for so long readiness waits for the critical warm-ups; the rest goes on behind it.
        at_start: critical warm-ups that run at a time until then.
        load_s: when one warm-up is given up.
        share: the part of the time in which warm-ups may run: after each there is a pause of ``took * (1/share - 1)``.
            What runs is mostly waiting for the database, so the part of the core is smaller.
        pause_least_s, pause_most_s: bounds of that pause.
        look_s: while warming is held, how often it looks whether it may go on.
        held_s: what has been held for longer is left out.
        queue: warm-ups that wait; the next one displaces the least urgent, or is left out.
        user_every_s: for one user, the same warm-up at most once in this time, unless it says otherwise.
        users: of whom that is remembered.
        tracked: readings that are counted.
        top: of these, what is warmed again after a start, and passed on to a successor.
        least_count: what was read less often than this, decayed, is not worth it. An entry counts once per look at most.
        half_life_s: after so long a reading counts half.
        principal_s: how long a principal that this process has not met itself is believed; as identity does.
        sweep_s: how often what was warmed and what is read is looked at.
        sampled: entries that one look takes by chance, to find keys that are read.
        followed: warmed entries of which is watched whether they are used.
        rewarm_every_s: between two warm-ups of everything.
        export_limit_bytes: of what is passed on.
    """

    start_wait_s: float = 2.0
    at_start: int = 2
    load_s: float = 10.0
    share: float = 0.1
    pause_least_s: float = 0.02
    pause_most_s: float = 30.0
    look_s: float = 0.5
    held_s: float = 300.0
    queue: int = 256
    user_every_s: float = 3600.0
    users: int = 1024
    tracked: int = 512
    top: int = 100
    least_count: float = 1.5
    half_life_s: float = 3600.0
    principal_s: float = 300.0
    sweep_s: float = 5.0
    sampled: int = 64
    followed: int = 2048
    rewarm_every_s: float = 60.0
    export_limit_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}, expected more than 0 and 1 at most")
        if min(self.at_start, self.queue, self.users, self.tracked, self.followed) < 1:
            raise ValueError("at_start, queue, users, tracked and followed are at least 1")


@dataclass(frozen=True, slots=True)
class WarmingSnapshot:
    """What warming says about itself; counts since the start.

    Attributes:
        state: ``off``, ``idle``, ``warming``, ``held`` or ``stopped``.
        held_by: why it waits: ``memory``, ``database``, ``queue``, ``lag``; empty: it does not.
        queued: warm-ups that wait.
        warmed: warm-ups that ended well, by kind: ``critical``, ``principal``, ``learnt``.
        failed: that raised or took too long.
        skipped: that were not run, by reason: ``present`` (fresh already), ``full``, ``stopped``, ``forbidden``, ``route``,
            ``principal`` (nobody may act so any more), ``unkept`` (the answer cannot be stored), ``failed`` (the handler
            said 5xx), and what held it too long.
        holds: how often it was held, by reason.
        cost_ms: what the warm-ups took, by kind.
        followed: warmed entries that nobody has used yet and that still live.
        used: warmed entries that were read before they ended.
        wasted: that ended without it.
        unmeasured: warmed entries of which that cannot be told: replaced, not kept, or too many.
        saved_ms: what the used ones took to load, which no request had to wait for.
        tracked: readings that are counted.
        users: users that are remembered.
        rewarmed: how often what was declared or is read most was warmed again.
        start_wait_ms: what readiness waited; None: it has not started.
    """

    state: str
    held_by: str
    queued: int
    warmed: dict[str, int]
    failed: int
    skipped: dict[str, int]
    holds: dict[str, int]
    cost_ms: dict[str, float]
    followed: int
    used: int
    wasted: int
    unmeasured: int
    saved_ms: float
    tracked: int
    users: int
    rewarmed: int
    start_wait_ms: float | None
