"""What one caller is charged for one set of policies: worked out once and kept, because the same callers come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from b1.limiter.address import address_key, aggregates, network_of
from b1.limiter.decision import Blame, Caller
from b1.limiter.keys import charge_key, is_by_address, offender_key
from b1.limiter.policy import Policy, PolicyTable
from b1.store.base import Charge, PenaltyRule
from b1.store.terms import PLAIN, Offender, Terms

_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Line:
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


@dataclass(frozen=True, slots=True)
class Bill:
    """All charges of one request.

    Attributes:
        told: name, limit and window_s of each line, for bills whose lines are all shown; else None.
        terms: with the offender, when a refusal is held against somebody.
        has_lease: it needs a holder, and somebody who gives it back.
    """

    charges: tuple[Charge, ...]
    lines: tuple[Line, ...]
    told: tuple[tuple[str, int, int], ...] | None
    terms: Terms
    has_lease: bool


EMPTY = Bill((), (), None, PLAIN, False)


class Bills:
    """Makes bills from a table, and keeps the last ones.

    Args:
        rule: of penalties; None: nobody is ever shut out.
    """

    def __init__(self, table: PolicyTable, rule: PenaltyRule | None) -> None:
        self.table = table
        self._rule = rule
        self._bills: dict[object, Bill] = {}

    def __len__(self) -> int:
        return len(self._bills)

    def __repr__(self) -> str:
        return f"Bills({len(self._bills)})"

    def of(self, names: Sequence[str], caller: Caller, cost: int | tuple[int, ...], blame: Blame) -> Bill:
        """Return the bill; `cost` is one for all policies, or one for each.

        Raises:
            ConfigurationError: a name is not in the table.
            ValueError: a cost is out of range.
        """
        names = tuple(names)
        key: object = (names, caller, cost, blame)
        if ":" in caller.address:
            # The addresses of one network are one caller, and there are more of them than anybody can keep.
            key = (names, network_of(caller.address), caller[1:], cost, blame)
        bill = self._bills.get(key)
        if bill is None:
            bill = self._make(names, caller, cost, blame)
            if len(self._bills) >= _KEPT:
                del self._bills[next(iter(self._bills))]  # the oldest; a caller who still calls is soon back
            self._bills[key] = bill
        return bill

    def _make(self, names: tuple[str, ...], caller: Caller, cost: int | tuple[int, ...], blame: Blame) -> Bill:
        address = address_key(caller.address)
        found: dict[str, tuple[Charge, Line]] = {}
        costs = (cost,) * len(names) if isinstance(cost, int) else cost
        for policy, units in zip(map(self.table.require, names), costs, strict=True):
            self._add(found, policy, units, address, caller)
            is_address = is_by_address(policy, caller.actor) and policy.name not in dict(caller.keys)
            if is_address and policy.kind != "lease":
                self._add_aggregates(found, policy, units, caller)
        charges = tuple(charge for charge, _ in found.values())
        lines = tuple(line for _, line in found.values())
        is_shown = all(line.is_shown for line in lines)
        return Bill(
            charges,
            lines,
            tuple((line.name, line.limit, line.window_s) for line in lines) if is_shown else None,
            self._terms(caller, address, blame),
            any(charge.kind == "lease" for charge in charges),
        )

    def _add(
        self, found: dict[str, tuple[Charge, Line]], policy: Policy, units: int, address: str, caller: Caller
    ) -> None:
        key = charge_key(
            policy,
            address=address,
            actor=caller.actor,
            organization=caller.organization,
            custom=dict(caller.keys).get(policy.name) if caller.keys else None,
        )
        is_anonymous = caller.actor is None and policy.scope != "address"
        quota = self.table.quota(policy, role=caller.role, tier=caller.tier, is_anonymous=is_anonymous)
        charge = Charge(key, quota, policy.window_s * 1000, units, policy.shadow, policy.kind, policy.burst_of(quota))
        # One counter is charged once, by the strictest policy that names it.
        if key not in found or quota < found[key][0].quota:
            found[key] = charge, Line(policy, policy.name, charge.depth, _window_s(charge), not policy.shadow)

    def _add_aggregates(
        self, found: dict[str, tuple[Charge, Line]], policy: Policy, units: int, caller: Caller
    ) -> None:
        is_anonymous = policy.scope != "address"
        quota = self.table.quota(policy, role=caller.role, tier=caller.tier, is_anonymous=is_anonymous)
        for network, bits, times in aggregates(caller.address):
            key = charge_key(policy, address=network, actor=None, organization=None)
            charge = Charge(
                key, quota * times, policy.window_s * 1000, units, policy.shadow, policy.kind,
                policy.burst_of(quota) * times,
            )  # fmt: skip
            if key not in found or quota * times < found[key][0].quota:
                line = Line(policy, f"{policy.name}-{bits}", charge.depth, _window_s(charge), is_shown=False)
                found[key] = charge, line

    def _terms(self, caller: Caller, address: str, blame: Blame) -> Terms:
        if self._rule is None or blame == "nobody":
            return PLAIN
        actor = caller.actor if blame == "caller" else None
        return Terms(Offender(offender_key(address=address, actor=actor), self._rule))


def costs_of(table: PolicyTable, names: Sequence[str], cost: int, request: object) -> int | tuple[int, ...]:
    """Return what each policy is charged for this request: one number where it is the same for all.

    Raises:
        ValueError: a policy's function returned something that is no number of units.
    """
    policies: list[Policy] = [table.require(name) for name in names]
    units = tuple(cost * _units(policy, request) for policy in policies)
    return units[0] if units and units.count(units[0]) == len(units) else units or cost


def _units(policy: Policy, request: object) -> int:
    if not callable(policy.cost):
        return policy.cost
    units = policy.cost(request)
    if type(units) is not int or units < 0:
        raise ValueError(f"the cost of policy {policy.name} is {units!r}, expected a whole number, 0 or more")
    return units


def _window_s(charge: Charge) -> int:
    """Return the window that is told: of a bucket the time in which it fills, so that limit per window is its rate."""
    if charge.kind == "lease":
        return 0
    if charge.kind == "bucket":
        return max(1, -(-charge.every_us * charge.depth // 1_000_000))
    return charge.window_ms // 1000


def has_own_costs(table: Mapping[str, Policy]) -> bool:
    """Say whether any policy charges something else than one unit a request."""
    return any(policy.cost != 1 for policy in table.values())
