"""What callers of one kind are charged under one set of policies: everything of a bill that does not say who calls.

There are a few tariffs and any number of callers. So the quotas of a role and a tier, and what a client is told of them,
are worked out once, and a new caller costs its digests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from b1.limiter.address import AGGREGATES
from b1.limiter.keys import is_by_address, prefix_of
from b1.limiter.policy import Policy, PolicyTable
from b1.store.base import Charge

# Who is counted: what the policy's scope says, a network around an address, or a text of the caller's own.
SCOPED, NETWORK, CUSTOM = "scoped", "network", "custom"


class Line(NamedTuple):
    """One charge of a bill, as it is told.

    Attributes:
        name: the policy's; of a network around an IPv6 address with its prefix length (``public-48``).
        limit, window_s: as in `PolicyState`.
        is_shown: shadow policies never are, aggregates only when they refuse.
    """

    policy: Policy
    name: str
    limit: int
    window_s: int
    is_shown: bool = True


class Item(NamedTuple):
    """One charge, without the caller.

    Attributes:
        prefix: of the key.
        who: `SCOPED`, `NETWORK` or `CUSTOM`.
        which: the policy's scope, the network's prefix length, or the text.
        charge: to be copied with a key.
    """

    prefix: str
    who: str
    which: str | int
    charge: Charge
    line: Line


class Kind(NamedTuple):
    """What of a caller decides about its tariff.

    Attributes:
        keys: policy names with a text that they count.
        has_networks: it calls from an IPv6 address.
    """

    role: str
    tier: str
    has_actor: bool
    has_networks: bool
    keys: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Tariff:
    """All charges of one kind of caller.

    Attributes:
        told: name, limit and window_s of each line, where all are shown; else None.
        has_lease: it needs a holder, and somebody who gives it back.
    """

    items: tuple[Item, ...]
    lines: tuple[Line, ...]
    told: tuple[tuple[str, int, int], ...] | None
    has_lease: bool


def tariff_of(table: PolicyTable, names: Sequence[str], costs: Sequence[int], kind: Kind) -> Tariff:
    """Work out what callers of this kind are charged.

    Raises:
        ConfigurationError: a name is not in the table.
        ValueError: a cost is out of range.
    """
    found: dict[tuple[str, str, str | int], Item] = {}
    for policy, units in zip(map(table.require, names), costs, strict=True):
        for item in _items(table, policy, units, kind):
            # One counter is charged once, by the strictest policy that names it.
            counter = item.prefix, item.who, item.which
            if counter not in found or item.charge.quota < found[counter].charge.quota:
                found[counter] = item
    items = tuple(found.values())
    lines = tuple(item.line for item in items)
    is_shown = all(line.is_shown for line in lines)
    return Tariff(
        items,
        lines,
        tuple((line.name, line.limit, line.window_s) for line in lines) if is_shown else None,
        any(item.charge.kind == "lease" for item in items),
    )


EMPTY = Tariff((), (), None, has_lease=False)


def _items(table: PolicyTable, policy: Policy, units: int, kind: Kind) -> Iterator[Item]:
    custom = dict(kind.keys).get(policy.name)
    is_anonymous = not kind.has_actor and policy.scope != "address"
    quota = table.quota(policy, role=kind.role, tier=kind.tier, is_anonymous=is_anonymous)
    charge = _charge(policy, quota, units, policy.burst_of(quota))
    line = Line(policy, policy.name, charge.depth, _window_s(charge), not policy.shadow)
    which = policy.scope if custom is None else custom
    yield Item(prefix_of(policy), SCOPED if custom is None else CUSTOM, which, charge, line)
    is_address = is_by_address(policy, "" if kind.has_actor else None) and custom is None
    if not (kind.has_networks and is_address) or policy.kind == "lease":
        return
    for bits, times in AGGREGATES:
        charge = _charge(policy, quota * times, units, policy.burst_of(quota) * times)
        line = Line(policy, f"{policy.name}-{bits}", charge.depth, _window_s(charge), is_shown=False)
        yield Item(prefix_of(policy), NETWORK, bits, charge, line)


def _charge(policy: Policy, quota: int, units: int, burst: int) -> Charge:
    return Charge("", quota, policy.window_s * 1000, units, policy.shadow, policy.kind, burst)


def _window_s(charge: Charge) -> int:
    """Return the window that is told: of a bucket the time in which it fills, so that limit per window is its rate."""
    if charge.kind == "lease":
        return 0
    if charge.kind == "bucket":
        return max(1, -(-charge.every_us * charge.depth // 1_000_000))
    return charge.window_ms // 1000
