"""One decision per request over all its policies, for all or nothing, in one round trip.

The limiter knows policies and callers; counting is the store's. What a caller has to be charged is worked out once and
kept for a while, because the same callers come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from b1.clock import SystemClock
from b1.limiter.address import address_key
from b1.limiter.decision import Caller, Decision, PolicyState
from b1.limiter.keys import charge_key
from b1.limiter.policy import Policy, PolicyTable
from b1.store.base import Balance, Charge, Spent, Store
from b1.store.memory import MemoryStore
from b1.units import MIB

_BILLS = 1024
_LOCAL_BYTES = 2 * MIB


@dataclass(frozen=True, slots=True)
class LimiterSnapshot:
    """What the limiter says about itself; counts since the start."""

    mode: str
    policies: int
    checks: int
    refusals: int
    shadow_refusals: int
    callers_kept: int


@dataclass(frozen=True, slots=True)
class _Bill:
    """What one caller is charged for one set of policies."""

    charges: tuple[Charge, ...]
    policies: tuple[Policy, ...]


class Limiter:
    """Decides which requests pass.

    Args:
        store: counts.
        table: the policies.
        enabled: off, everything passes and no header shows.
        local: counts for `check_local`; default: a small store of its own.
    """

    def __init__(
        self, store: Store, table: PolicyTable, *, enabled: bool = True, local: MemoryStore | None = None
    ) -> None:
        self.table = table
        self._store = store
        self._enabled = enabled
        self._spend_now = store.spend_now if isinstance(store, MemoryStore) else None
        self._local = local or MemoryStore(_LOCAL_BYTES, SystemClock())
        self._bills: dict[tuple[tuple[str, ...], Caller, int], _Bill] = {}
        self._checks = self._refusals = self._shadow_refusals = 0

    def __repr__(self) -> str:
        return f"Limiter(mode={self._store.mode!r}, policies={len(self.table)}, refusals={self._refusals})"

    async def check(self, names: Sequence[str], caller: Caller, *, cost: int = 1, commit: bool = True) -> Decision:
        """Spend `cost` from every named policy or from none; with ``commit=False`` only look whether it would fit.

        Raises:
            ConfigurationError: a name is not in the table.
            ValueError: the cost is negative.
            StoreUnavailable: the store cannot count and has no local state behind it.
        """
        bill = self._bill(names, caller, cost)
        if not bill.charges:
            return _passed(caller, self._store.mode)
        spent = await self._store.spend(bill.charges, commit=commit)
        return self._decide(bill, spent, caller, self._store.mode)

    def check_now(self, names: Sequence[str], caller: Caller, *, cost: int = 1) -> Decision | None:
        """Do what `check` does where the store answers without an await (memory); None where it cannot.

        The request path asks this first: on one worker without Redis the decision costs no coroutine.

        Raises:
            ConfigurationError, ValueError: as `check`.
        """
        if self._spend_now is None:
            return None
        bill = self._bill(names, caller, cost)
        if not bill.charges:
            return _passed(caller, "memory")
        return self._decide(bill, self._spend_now(bill.charges), caller, "memory")

    def check_local(self, names: Sequence[str], caller: Caller, *, cost: int = 1) -> Decision:
        """Do what `check` does, in this process alone and without an await: for probes, which never wait."""
        bill = self._bill(names, caller, cost)
        if not bill.charges:
            return _passed(caller, "memory")
        return self._decide(bill, self._local.spend_now(bill.charges), caller, "memory")

    async def refund(self, names: Sequence[str], caller: Caller, *, cost: int = 1) -> None:
        """Give back what a `check` spent, for work that was not done after all.

        Raises:
            ConfigurationError, StoreUnavailable: as `check`.
        """
        bill = self._bill(names, caller, cost)
        if bill.charges:
            await self._store.refund(bill.charges)

    def snapshot(self) -> LimiterSnapshot:
        """Return numbers for health, metrics and tests; no I/O."""
        return LimiterSnapshot(
            mode=self._store.mode,
            policies=len(self.table),
            checks=self._checks,
            refusals=self._refusals,
            shadow_refusals=self._shadow_refusals,
            callers_kept=len(self._bills),
        )

    def _bill(self, names: Sequence[str], caller: Caller, cost: int) -> _Bill:
        key = (tuple(names), caller, cost)
        bill = self._bills.get(key)
        if bill is None:
            bill = self._make_bill(key[0], caller, cost)
            if len(self._bills) >= _BILLS:
                del self._bills[next(iter(self._bills))]  # the oldest; a caller who still calls is soon back
            self._bills[key] = bill
        return bill

    def _make_bill(self, names: tuple[str, ...], caller: Caller, cost: int) -> _Bill:
        if not self._enabled:
            return _Bill((), ())
        address = address_key(caller.address)
        charges: dict[str, tuple[Charge, Policy]] = {}
        for policy in map(self.table.require, names):
            key = charge_key(policy, address=address, actor=caller.actor, organization=caller.organization)
            is_anonymous = caller.actor is None and policy.scope != "address"
            quota = self.table.quota(policy, role=caller.role, tier=caller.tier, is_anonymous=is_anonymous)
            charge = Charge(key, quota, policy.window_s * 1000, cost, policy.shadow)
            # One counter is charged once, by the strictest policy that names it.
            if key not in charges or quota < charges[key][0].quota:
                charges[key] = charge, policy
        return _Bill(tuple(c for c, _ in charges.values()), tuple(p for _, p in charges.values()))

    def _decide(self, bill: _Bill, spent: Spent, caller: Caller, mode: str) -> Decision:
        self._checks += 1
        states = []
        violated: tuple[str, ...] = ()
        shadowed: tuple[str, ...] = ()
        nearest: PolicyState | None = None
        for policy, charge, balance in zip(bill.policies, bill.charges, spent.balances, strict=True):
            if policy.shadow:
                if not balance.allowed:
                    shadowed += (policy.name,)
                continue
            state = _state(policy, charge, balance)
            states.append(state)
            if not balance.allowed:
                if not violated or nearest is None or state.reset_s > nearest.reset_s:
                    nearest = state
                violated += (policy.name,)
            elif not violated and (nearest is None or state.remaining < nearest.remaining):
                nearest = state
        self._shadow_refusals += len(shadowed)
        retry_after_s = 0
        if violated and nearest is not None:
            self._refusals += 1
            retry_after_s = nearest.reset_s
        return Decision(
            not violated,
            violated,
            nearest,
            tuple(states),
            retry_after_s,
            caller.tier,
            mode,
            spent.now_ms // 1000,
            shadowed,
        )


def _state(policy: Policy, charge: Charge, balance: Balance) -> PolicyState:
    if not balance.allowed:
        # A cost above the quota never fits; a whole window is then the longest that waiting could be about.
        wait_ms = balance.retry_after_ms if balance.retry_after_ms >= 0 else charge.window_ms
        reset_s = max(1, -(-wait_ms // 1000))
    else:
        reset_s = -(-(balance.reset_ms if balance.remaining else balance.renew_ms) // 1000)
    return PolicyState(policy.name, charge.quota, balance.remaining, balance.used, reset_s, policy.window_s)


def _passed(caller: Caller, mode: str) -> Decision:
    return Decision(True, (), None, (), 0, caller.tier, mode, 0)
