"""Which callers may do how much: named policies and the table of them that an application may replace.

Everything is checked when a table is made, so that no request ever meets a policy that cannot work.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from b1.errors import ConfigurationError
from b1.store.base import MAX_UNITS, MAX_WINDOW_MS, Kind

Scope = Literal["address", "actor", "organization", "actor+organization", "actor+address", "custom"]
SCOPES: tuple[Scope, ...] = ("address", "actor", "organization", "actor+organization", "actor+address", "custom")
Algorithm = Literal["sliding-window", "gcra", "concurrency"]
KINDS: Mapping[Algorithm, Kind] = MappingProxyType(
    {"sliding-window": "window", "gcra": "bucket", "concurrency": "lease"}
)
# Units of one request, from whatever the caller of the limiter gives it: over HTTP the ASGI scope.
Cost = int | Callable[[Any], int]
# Two names for the same thing, as price lists call it and as code does.
TIER_ALIASES = MappingProxyType({"basic": "free", "premium": "pro"})
_NAME = re.compile(r"[a-z0-9_-]{1,32}")
_RATE = re.compile(r"(\d+)\s*(?:/|\s+per\s+)\s*(\d+)?\s*([a-z]+)", re.ASCII)
_UNIT_S = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
}
_MAX_WINDOW_S = MAX_WINDOW_MS // 1000


class Rate(NamedTuple):
    """`quota` units per `window_s` seconds; ``Policy("name", *parse_rate("100/minute"))``."""

    quota: int
    window_s: int


def parse_rate(text: str) -> Rate:
    """Read "100/minute", "5 per 10 seconds", "1/day".

    Raises:
        ValueError: the text is no such rate, or a number in it is 0.
    """
    match = _RATE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    unit_s = _UNIT_S.get(match[3]) or _UNIT_S.get(match[3].removesuffix("s")) if match else None
    if match is None or unit_s is None:
        raise ValueError(f"{text!r} is not a rate; expected something like 100/minute or 5 per 10 seconds")
    quota, count = int(match[1]), int(match[2] or 1)
    if quota < 1 or count < 1:
        raise ValueError(f"{text!r} is not a rate; its numbers start at 1")
    return Rate(quota, count * unit_s)


@dataclass(frozen=True, slots=True)
class Policy:
    """One named limit.

    Attributes:
        name: 1 to 32 of a-z, 0-9, ``_`` and ``-``; appears in headers, metrics and the store's keys.
        quota: units per window, for tiers that `tiers` does not name.
        window_s: whole seconds, since the headers know nothing finer.
        scope: what is counted together; ``custom``: the text that comes with the caller (`Caller.keys`), else the actor. A
            caller without an actor (or organisation) is counted by address instead:
            no scope lets anybody pass uncounted.
        tiers: quota by tier.
        role_scaled: the table's role multipliers apply.
        anonymous_quota: for callers without an actor, where the scope has one; default: as everybody.
        counter: policies with the same one share their counters (under quotas of their own); default: the name.
        algorithm: ``sliding-window``: never more than `quota` in any window. ``gcra``: `burst` at once, then one unit each
            ``window_s / quota``; so up to ``burst + quota`` in a window. ``concurrency``: `quota` at a time, each for
            `window_s` at most.
        burst: of ``gcra``; default: the quota. It grows with the quota of a tier or role.
        cost: units of one request: a number, or a function of the request that returns one, 0 or more.
        shadow: counted and reported in metrics, refuses nobody and shows in no header.

    Raises:
        ConfigurationError: a value is impossible; the message names the policy and the value.
    """

    name: str
    quota: int
    window_s: int
    scope: Scope = "actor+organization"
    tiers: Mapping[str, int] = field(default_factory=dict, hash=False)
    role_scaled: bool = False
    anonymous_quota: int | None = None
    counter: str | None = None
    algorithm: Algorithm = "sliding-window"
    shadow: bool = False
    burst: int | None = None
    cost: Cost = 1

    def __post_init__(self) -> None:
        for name in (self.name, self.counter or self.name):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ConfigurationError(f"{name!r} is no policy name", remedy="use 1 to 32 of a-z, 0-9, _ and -")
        quotas = {"quota": self.quota, "anonymous_quota": self.anonymous_quota or 1}
        quotas |= {f"tiers[{tier!r}]": quota for tier, quota in self.tiers.items()}
        for what, quota in quotas.items():
            self._check(what, quota, MAX_UNITS)
        self._check("window_s", self.window_s, _MAX_WINDOW_S)
        if self.scope not in SCOPES:
            raise ConfigurationError(f"policy {self.name}: scope is {self.scope!r}", remedy=f"use one of {SCOPES}")
        self._check_algorithm(list(quotas.values()))
        object.__setattr__(self, "tiers", MappingProxyType(dict(self.tiers)))

    @property
    def kind(self) -> Kind:
        """What the store counts."""
        return KINDS[self.algorithm]

    def burst_of(self, quota: int) -> int:
        """Return how many units a caller with this quota may take at once; 0 where the algorithm has no burst."""
        if self.algorithm != "gcra":
            return 0
        return quota if self.burst is None else max(1, self.burst * quota // self.quota)

    def _check_algorithm(self, quotas: list[int]) -> None:
        if self.algorithm not in KINDS:
            raise ConfigurationError(
                f"policy {self.name}: algorithm is {self.algorithm!r}", remedy=f"use one of {tuple(KINDS)}"
            )
        if not callable(self.cost):
            self._check("cost", self.cost, MAX_UNITS)
        elif self.algorithm == "concurrency":
            raise ConfigurationError(
                f"policy {self.name}: what is held at a time has a fixed cost", remedy="use a number"
            )
        if self.burst is not None:
            if self.algorithm != "gcra":
                raise ConfigurationError(f"policy {self.name}: burst is for gcra", remedy="leave it out")
            self._check("burst", self.burst, MAX_UNITS)
        if any(-(-self.window_s * 10**6 // quota) * self.burst_of(quota) > MAX_WINDOW_MS * 1000 for quota in quotas):
            raise ConfigurationError(
                f"policy {self.name}: a burst of {self.burst} takes longer than 24 days to come back",
                remedy="use a smaller burst, or a larger quota",
            )

    def _check(self, what: str, value: int, most: int) -> None:
        if type(value) is not int or not 1 <= value <= most:
            raise ConfigurationError(
                f"policy {self.name}: {what} is {value!r}", remedy=f"use a whole number, 1 to {most}"
            )

    def scaled(self, factor: float) -> Policy:
        """Return this policy with every quota times `factor`, at least 1."""
        anonymous = None if self.anonymous_quota is None else _times(self.anonymous_quota, factor)
        return replace(
            self,
            quota=_times(self.quota, factor),
            burst=None if self.burst is None else _times(self.burst, factor),
            anonymous_quota=anonymous,
            tiers={tier: _times(quota, factor) for tier, quota in self.tiers.items()},
        )


ROLE_MULTIPLIERS: Mapping[str, float] = MappingProxyType(
    {"ORG_OWNER": 2.0, "ORG_ADMIN": 1.5, "MANAGER": 1.2, "MEMBER": 1.0}
)


class PolicyTable(Mapping[str, Policy]):
    """Policies by name, and the multipliers of roles. Immutable.

    Args:
        policies: with different names.
        roles: quota multiplier by role, for policies with `role_scaled`; other roles count as 1.

    Raises:
        ConfigurationError: a name is there twice, a multiplier is not above 0, or a shared counter cannot be shared.
    """

    def __init__(self, policies: Iterable[Policy], *, roles: Mapping[str, float] = ROLE_MULTIPLIERS) -> None:
        self._policies: dict[str, Policy] = {}
        counters: dict[str, Policy] = {}
        for policy in policies:
            first = counters.setdefault(policy.counter or policy.name, policy)
            if (first.window_s, first.scope, first.algorithm) != (policy.window_s, policy.scope, policy.algorithm):
                raise ConfigurationError(
                    f"policies {first.name!r} and {policy.name!r} share a counter and differ in window, scope or algorithm",
                    remedy="give them one of each, or counters of their own",
                )
            if policy.name in self._policies:
                raise ConfigurationError(f"policy {policy.name!r} is in the table twice", remedy="give each its name")
            self._policies[policy.name] = policy
        for role, factor in roles.items():
            if not (math.isfinite(factor) and factor > 0):
                raise ConfigurationError(f"role {role}: multiplier is {factor!r}", remedy="use a number above 0")
        self.roles: Mapping[str, float] = MappingProxyType(dict(roles))

    def __repr__(self) -> str:
        return f"PolicyTable({', '.join(self._policies)})"

    def __iter__(self) -> Iterator[str]:
        return iter(self._policies)

    def __len__(self) -> int:
        return len(self._policies)

    def __getitem__(self, name: str) -> Policy:
        return self._policies[name]

    def require(self, name: str) -> Policy:
        """Return the policy called `name`.

        Raises:
            ConfigurationError: there is none; the message names the nearest.
        """
        found = self._policies.get(name)
        if found is not None:
            return found
        near = difflib.get_close_matches(name, self._policies, n=1) or sorted(self._policies)
        raise ConfigurationError(f"no policy is called {name!r}", remedy=f"did you mean {', '.join(near)}?")

    def quota(self, policy: Policy, *, role: str, tier: str, is_anonymous: bool) -> int:
        """Return what a caller of this role and tier has of `policy`."""
        if is_anonymous and policy.anonymous_quota is not None:
            return policy.anonymous_quota
        quota = policy.tiers.get(tier)
        if quota is None:
            quota = policy.tiers.get(TIER_ALIASES.get(tier, tier), policy.quota)
        return _times(quota, self.roles.get(role, 1.0)) if policy.role_scaled else quota

    def with_policies(self, *policies: Policy) -> PolicyTable:
        """Return a table with `policies` added, or put in the place of those with the same name."""
        return PolicyTable((self._policies | {policy.name: policy for policy in policies}).values(), roles=self.roles)


def scaled(table: PolicyTable, factor: float) -> PolicyTable:
    """Return the table with every quota times `factor` (`B1_LIMIT_SCALE`)."""
    if factor == 1:
        return table
    return PolicyTable((policy.scaled(factor) for policy in table.values()), roles=table.roles)


def _times(quota: int, factor: float) -> int:
    # 1e-9: 115 * 1.2 must not become 137 for the want of one bit.
    return max(1, min(MAX_UNITS, math.floor(quota * factor + 1e-9)))
