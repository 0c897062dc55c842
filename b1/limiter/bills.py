"""What one caller is charged for one set of policies: worked out once and kept, because the same callers come back.

A bill is kept from the second time on. Whoever invents an address for each request comes once, and so pushes out nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from b1.limiter.address import address_key, aggregates, network_of
from b1.limiter.decision import Blame, Caller
from b1.limiter.keys import digest_of, identity_of, offender_key
from b1.limiter.policy import Policy, PolicyTable
from b1.limiter.tariff import EMPTY as NOTHING
from b1.limiter.tariff import NETWORK, SCOPED, Item, Kind, Tariff, tariff_of
from b1.store.asking import Charges, with_key
from b1.store.base import PenaltyRule
from b1.store.terms import PLAIN, Offender, Terms

_KEPT = 1024
_TARIFFS = 256
_SEEN = 4096
# A named tuple made by its own constructor costs twice as much.
_new = tuple.__new__


class Bill(NamedTuple):
    """All charges of one request.

    Attributes:
        terms: with the offender, when a refusal is held against somebody.
    """

    charges: Charges
    terms: Terms
    tariff: Tariff


EMPTY = Bill(Charges(), PLAIN, NOTHING)


class Bills:
    """Makes bills from a table, and keeps the last ones.

    Args:
        rule: of penalties; None: nobody is ever shut out.
    """

    def __init__(self, table: PolicyTable, rule: PenaltyRule | None) -> None:
        self.table = table
        self._rule = rule
        self._bills: dict[object, Bill] = {}
        self._tariffs: dict[object, Tariff] = {}
        self._seen: set[int] = set()  # numbers, so that the garbage collector has nothing to walk

    def __len__(self) -> int:
        return len(self._bills)

    def __repr__(self) -> str:
        return f"Bills({len(self._bills)}, tariffs={len(self._tariffs)})"

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
            self._keep_if_known(key, bill)
        return bill

    def _keep_if_known(self, key: object, bill: Bill) -> None:
        seen = hash(key)
        if seen not in self._seen:
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            self._seen.add(seen)
            return
        if len(self._bills) >= _KEPT:
            del self._bills[next(iter(self._bills))]  # the oldest; a caller who still calls is soon back
        self._bills[key] = bill

    def _make(self, names: tuple[str, ...], caller: Caller, cost: int | tuple[int, ...], blame: Blame) -> Bill:
        address = address_key(caller.address)
        networks = {bits: network for network, bits, _ in aggregates(caller.address)} if ":" in address else {}
        tariff = self._tariff(names, caller, cost, has_networks=bool(networks))
        digests: dict[tuple[str, str | int], str] = {}
        charges = []
        for item in tariff.items:
            who = item.who, item.which
            digest = digests.get(who)
            if digest is None:
                digest = digests[who] = _digest(item, caller, address, networks)
            charges.append(with_key(item.charge, item.prefix + digest))
        return _new(Bill, (Charges(charges), self._terms(caller, address, blame), tariff))

    def _tariff(
        self, names: tuple[str, ...], caller: Caller, cost: int | tuple[int, ...], *, has_networks: bool
    ) -> Tariff:
        key = (names, caller.role, caller.tier, caller.actor is None, has_networks, cost, caller.keys)
        tariff = self._tariffs.get(key)
        if tariff is None:
            costs = (cost,) * len(names) if isinstance(cost, int) else cost
            kind = Kind(caller.role, caller.tier, caller.actor is not None, has_networks, caller.keys)
            tariff = tariff_of(self.table, names, costs, kind)
            if len(self._tariffs) >= _TARIFFS:  # costs and keys may be any: the oldest goes
                del self._tariffs[next(iter(self._tariffs))]
            self._tariffs[key] = tariff
        return tariff

    def _terms(self, caller: Caller, address: str, blame: Blame) -> Terms:
        if self._rule is None or blame == "nobody":
            return PLAIN
        actor = caller.actor if blame == "caller" else None
        return _new(Terms, (Offender(offender_key(address=address, actor=actor), self._rule), "", False))


def _digest(item: Item, caller: Caller, address: str, networks: Mapping[int, str]) -> str:
    if item.who == SCOPED:
        return digest_of(identity_of(item.line.policy.scope, address, caller.actor, caller.organization))
    if item.who == NETWORK:
        return digest_of(("address", networks[int(item.which)]))
    return digest_of(("custom", str(item.which)))


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


def has_own_costs(table: Mapping[str, Policy]) -> bool:
    """Say whether any policy charges something else than one unit a request."""
    return any(policy.cost != 1 for policy in table.values())
