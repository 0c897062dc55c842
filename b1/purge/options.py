"""What the purge queue is told: every bound and every pause."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeOptions:
    """Options of `PurgeQueue`.

    Attributes:
        queue_limit: surrogate keys that wait; with more, everything is purged instead of them.
        linger_s: how long keys are gathered before the first call.
        pause_s: least pause between two calls, for receivers that count them.
        attempt_timeout_s: for one call, from the name's resolution to the answer's head.
        backoff_first_s, backoff_max_s: pause after the first failure in a row, and the longest one.
        retry_after_max_s: longest pause that the receiver may ask for.
        trouble_after: failures in a row after which somebody is told.
        keep_s: age at which a key is given up: what it names has left the CDN by itself.
        flush_s: how long a stop waits for what is not delivered.
    """

    queue_limit: int = 5000
    linger_s: float = 0.1
    pause_s: float = 0.0
    attempt_timeout_s: float = 10.0
    backoff_first_s: float = 1.0
    backoff_max_s: float = 60.0
    retry_after_max_s: float = 600.0
    trouble_after: int = 5
    keep_s: float = 86_400.0
    flush_s: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowingOptions:
    """Options of `Following`.

    Attributes:
        names_limit: names that wait; with more, everything is purged instead of them. As many as the queue holds keys.
        look_s: while Redis is away, how often it looks whether it is back.
        flush_s: how long a stop waits for invalidations that the cache has ended already.
    """

    names_limit: int = 5000
    look_s: float = 1.0
    flush_s: float = 0.25
