"""What can be chosen: for the whole cache, and for one kind of read.

A time in seconds is a promise about age and is kept as it is. The name of a tier says where a value lives; how long is
the tier's business, and what is much read may live there longer.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from b1.cache.packing.holding import HoldOptions

Tier = Literal["hot", "warm", "cold"]

HOT_S, WARM_S, COLD_S = 300.0, 3600.0, 86_400.0
# The envelope counts milliseconds in 32 bits; a month is also longer than anything here should be believed.
LONGEST_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Residence:
    """What the name of a lifetime stands for.

    Attributes:
        ttl_s: how long a value is fresh.
        tier: ``hot``: in this process alone; ``warm``: also in Redis; ``cold``: in Redis, compressed harder, and here
            only while it is read often.
        may_extend: what is much read may stay longer, for a day in all. Never true of a time given in seconds.
    """

    ttl_s: float
    tier: Tier
    may_extend: bool = True


NAMED: Mapping[str, Residence] = types.MappingProxyType(
    {"hot": Residence(HOT_S, "hot"), "warm": Residence(WARM_S, "warm"), "cold": Residence(COLD_S, "cold")}
)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How one kind of value is loaded, and what is better than nothing meanwhile.

    Attributes:
        stale_s: for how long after its time a value may still be served as stale; 0: never.
        revalidate: serve stale at once and load in the background. False: wait `soft_timeout_s` for the load first.
        on_error: serve stale when the load fails or takes too long.
        soft_timeout_s: how long a caller waits for a load while a stale value is there; the load goes on.
        hard_timeout_s: when a load is given up, and the longest that a caller waits; None: the cache's.
        throttle_s: after a failed load stale is served for so long without trying again.
        early: how eagerly a value is loaded anew before its end (beta of XFetch); 0: never. 1 is the optimum when a
            load costs what it did last time; at 10 values are reloaded when little of their time is over.
        jitter: the part by which a lifetime varies at random, so that what was loaded together does not end together.
        none_s: how long None is kept ("there is none"), when that is shorter than a value; None: like a value.
        errors: exceptions that are an answer too ("no such row"), kept in this process for `errors_s` seconds.

    Raises:
        ValueError: a number is out of range.
    """

    stale_s: float = 0.0
    revalidate: bool = True
    on_error: bool = True
    soft_timeout_s: float = 0.1
    hard_timeout_s: float | None = None
    throttle_s: float = 5.0
    early: float = 1.0
    jitter: float = 0.1
    none_s: float | None = None
    errors: tuple[type[Exception], ...] = ()
    errors_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ("stale_s", "soft_timeout_s", "throttle_s", "early"):
            _in_range(name, getattr(self, name), 0.0, LONGEST_S)
        _in_range("jitter", self.jitter, 0.0, 0.5)
        for name in ("hard_timeout_s", "none_s", "errors_s"):
            if getattr(self, name) is not None:
                checked_ttl(getattr(self, name), name)


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Of the whole cache.

    Attributes:
        load: what a read uses that says nothing else.
        lifetimes: names for lifetimes, besides ``hot``, ``warm`` and ``cold``.
        hard_timeout_s: when a load is given up that says nothing else.
        loads: how many loads run at a time; more wait for their turn. A load inside a load needs none of its own.
        refreshes: how many of them may be in the background.
        flights: how many loads may run or wait; what comes then is refused at once.
        store_timeout_s: how long one call of the shared store may take before the cache goes on without it.
        local_s: the longest that a value stays in this process while Redis has it too.
        value_limit_bytes: the largest serialised value that is kept; larger ones are answered.
        shared_limit_bytes: the largest entry in Redis, compressed.
        compress_from_bytes: smaller values are not compressed, unless their namespace has a dictionary.
        saving: a compressed value is kept when it is smaller by this part.
        hold: how values lie in the in-process map.
        warm_level: zstd's, for warm values.
        cold_level: zstd's, for cold values.
        promote_reads: reads of one value in a minute that make it much read.
        dictionaries: train dictionaries for namespaces of many small values.
        namespaces: how many namespaces are counted by name.

    Raises:
        ValueError: a number is out of range.
    """

    load: LoadOptions = field(default_factory=LoadOptions)
    lifetimes: Mapping[str, Residence | float] = field(default_factory=dict)
    hard_timeout_s: float = 5.0
    loads: int = 2
    refreshes: int = 1
    flights: int = 1000
    store_timeout_s: float = 1.0
    local_s: float = HOT_S
    value_limit_bytes: int = 4 * 1024 * 1024
    shared_limit_bytes: int = 256 * 1024
    compress_from_bytes: int = 1024
    saving: float = 0.15
    hold: HoldOptions = field(default_factory=HoldOptions)
    warm_level: int = 3
    cold_level: int = 9
    promote_reads: int = 16
    dictionaries: bool = True
    namespaces: int = 64

    def __post_init__(self) -> None:
        for name in ("loads", "refreshes", "flights", "value_limit_bytes", "shared_limit_bytes", "promote_reads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("hard_timeout_s", "store_timeout_s", "local_s"):
            checked_ttl(getattr(self, name), name)
        for name, lifetime in self.lifetimes.items():
            checked_ttl(lifetime.ttl_s if isinstance(lifetime, Residence) else lifetime, f"lifetime {name!r}")

    def residence(self, ttl: float | str, tier: Tier | None = None) -> Residence:
        """Return where and for how long a value lives.

        Raises:
            ValueError: an unknown name, or no time that makes sense.
        """
        if isinstance(ttl, str):
            named = self.lifetimes.get(ttl, NAMED.get(ttl))
            if named is None:
                known = ", ".join(sorted({*NAMED, *self.lifetimes}))
                raise ValueError(f"the lifetime is {ttl!r}, expected seconds or one of {known}")
            if isinstance(named, Residence):
                return named if tier is None else Residence(named.ttl_s, tier, named.may_extend)
            ttl = named
        if tier is None:
            tier = "warm"
        elif tier not in NAMED:
            raise ValueError(f"the tier is {tier!r}, expected one of {', '.join(NAMED)}")
        return Residence(checked_ttl(ttl), tier, may_extend=False)


def checked_ttl(seconds: float, name: str = "ttl") -> float:
    """Return the seconds.

    Raises:
        ValueError: they are none: zero, negative, infinite, or more than 30 days.
    """
    if not 0.0 < seconds <= LONGEST_S:  # not-a-number compares false too
        raise ValueError(f"{name} is {seconds}, expected more than 0 and at most {LONGEST_S:.0f} seconds")
    return float(seconds)


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if math.isnan(value) or not least <= value <= most:
        raise ValueError(f"{name} is {value}, expected {least} to {most}")
