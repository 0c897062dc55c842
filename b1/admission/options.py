"""What the gate is told: classes of requests, their shares, and every number, each with its default.

A class says what is given up first, not what is fast: under no pressure all three are served alike.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from b1.units import MIB

AdmissionClass = Literal["critical", "normal", "sheddable"]
CLASSES: tuple[AdmissionClass, ...] = ("critical", "normal", "sheddable")
# Inside the gate a class is its place in `CLASSES`: comparisons of small numbers on every request.
RANKS: dict[str, int] = {name: rank for rank, name in enumerate(CLASSES)}
CRITICAL, NORMAL, SHEDDABLE = range(3)


class Rung(enum.IntEnum):
    """How far admission is restricted; the memory level less one, and one more when the loop lags."""

    OPEN = 0
    NO_SHEDDABLE = 1
    HALVED = 2
    CRITICAL_ONLY = 3
    EMERGENCY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionOptions:
    """Numbers of the gate. Times are in seconds.

    Attributes:
        initial_limit, least_limit, most_limit: bounds of the adaptive limit on requests that wait (database, network).
        most_reading: requests whose bodies are still on their way; these hold no permit, but each holds memory.
        initial_mixed_limit: the same limit, at first, of requests that also hold the loop; a probe waits behind all of
            them when they wake up together.
        most_sockets: WebSockets that may be open at once; these hold no permit, but each holds memory and a descriptor.
        threads: requests of ``def`` routes in work at once; more would only queue for a thread.
        queue_limit: requests that may wait, of each kind.
        direct_age_s: a younger request goes straight in when there is room. Above the kernel's own resolution of ages,
            which is 4 to 10 ms.
        standing_s, alarm_s: a queue that has not been empty for the first, and in which somebody has waited for the second,
            is no burst but overload,
        alarm_requests: if at least so many wait in it, or somebody for half of `patience_s`: a few clients that ask again
            at once keep a queue filled for ever, and on a busy machine each of them waits longer than `alarm_s`.
        opening_s: after a start, and beside a successor that starts, a standing queue is not overload for this long.
        target_s: the age at which a request is refused under overload. Small values shed what could have been served;
            large ones serve clients that have given up.
        patience_s: the age at which a request is refused otherwise, as after a stall of the loop.
        shares: of the permits, guaranteed to each class while it wants them.
        ahead_s, ahead_turns: how long the loop may go on accepting and parsing before the next request starts.
        heavy_s: a route whose requests hold the loop this long is heavy: the loop turns between their
            long steps.
        cpu_share: a heavy route that holds the loop for this share of its time is CPU-bound: one at a time.
        look_s: how often memory level and lag are asked for.
        stream_after_s: an answer that still goes on this long after its start is a stream and needs no permit.
        large_body_bytes: larger bodies are refused from the severe level on.
        retry_after_least_s, retry_after_most_s: bounds of the jittered Retry-After, whole seconds.
        keep_alive_s: how long idle connections stay open from the elevated level on.
    """

    initial_limit: int = 8
    initial_mixed_limit: int = 4
    least_limit: int = 2
    most_limit: int = 200
    most_reading: int = 200
    most_sockets: int = 350
    threads: int = 4
    queue_limit: int = 256
    direct_age_s: float = 0.02
    standing_s: float = 0.1
    alarm_s: float = 0.25
    alarm_requests: int = 40
    opening_s: float = 2.0
    target_s: float = 0.1
    patience_s: float = 1.0
    shares: tuple[float, float, float] = (0.5, 0.4, 0.1)
    ahead_s: float = 0.008
    ahead_turns: int = 64
    heavy_s: float = 0.002
    cpu_share: float = 0.7
    look_s: float = 0.1
    stream_after_s: float = 1.0
    large_body_bytes: int = MIB
    retry_after_least_s: int = 1
    retry_after_most_s: int = 5
    keep_alive_s: float = 2.0
