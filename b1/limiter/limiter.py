"""One decision per request over all its policies, for all or nothing, in one round trip.

The limiter knows policies and callers; counting is the store's. Who is shut out is refused from a small table here, without
asking anybody.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from b1.clock import Clock, SystemClock
from b1.limiter.bills import EMPTY, Bill, Bills, costs_of, has_own_costs
from b1.limiter.deciding import decision_of, passed
from b1.limiter.decision import Blame, Caller, Decision
from b1.limiter.gate import NO_FIELDS, Fields, Gate, LimiterOptions
from b1.limiter.policy import PolicyTable
from b1.limiter.snapshot import LimiterSnapshot as LimiterSnapshot
from b1.store.base import CacheAnswer, CacheRead, Charge, Penalty, Spent, Store
from b1.store.memory import MemoryStore
from b1.store.terms import Terms
from b1.units import MIB

_LOCAL_BYTES = 2 * MIB
SpendAhead = Callable[[Sequence[Charge], Terms], Spent | None]
SpendSoon = Callable[[Sequence[Charge], Terms, Callable[[Spent | None], None]], bool]


class Limiter:
    """Decides which requests pass.

    Args:
        store: counts.
        table: the policies.
        enabled: off, everything passes and no header shows.
        local: counts for `check_local`; default: a small store of its own.
        clock: for those who are shut out; default: a memory store's own, else the system's.
    """

    def __init__(
        self,
        store: Store,
        table: PolicyTable,
        *,
        enabled: bool = True,
        local: MemoryStore | None = None,
        options: LimiterOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._enabled = enabled
        options = options or LimiterOptions()
        self._rule = options.penalties
        memory = store if isinstance(store, MemoryStore) else None
        self._spend_now = memory.spend_now if memory is not None else None
        self._spend_soon: SpendSoon | None = getattr(store, "spend_soon", None)
        self._spend_ahead: SpendAhead | None = getattr(store, "spend_ahead", None) if options.is_ahead else None
        monotonic = (clock or SystemClock()).monotonic
        now_ms = memory.now_ms if memory is not None else lambda: int(monotonic() * 1000)
        self._gate = Gate(store, options, now_ms)
        # Mostly both are empty; looking here instead of asking the gate is a tenth of a decision in memory.
        self._denied, self._likenesses = self._gate.denied.entries, self._gate.likenesses
        self._local = local or MemoryStore(_LOCAL_BYTES, SystemClock())
        self._process = secrets.token_hex(8)
        self._holders = count()
        self._checks = self._refusals = 0
        self._refused_by: Counter[str] = Counter()
        self._shadowed_by: Counter[str] = Counter()
        self.replace(table)

    def __repr__(self) -> str:
        return f"Limiter(mode={self._store.mode!r}, policies={len(self.table)}, refusals={self._refusals})"

    @property
    def table(self) -> PolicyTable:
        """The policies in force."""
        return self._bills.table

    def replace(self, table: PolicyTable) -> None:
        """Put another table in force, from the next request on.

        Counters belong to a policy's name (or `counter`) and window: where both stay, callers go on with what they used.
        """
        self._bills = Bills(table, self._rule)
        self._has_own_costs = has_own_costs(table)
        self._leases = frozenset(name for name, policy in table.items() if policy.kind == "lease")

    def refusal(self, caller: Caller) -> Decision | None:
        """Return the refusal of a caller who is on the list, or shut out as far as this process knows; else None.

        For requests that no policy counts; `check` asks the same first.
        """
        return self._refused(caller, "caller")

    async def check(
        self,
        names: Sequence[str],
        caller: Caller,
        *,
        cost: int = 1,
        commit: bool = True,
        blame: Blame = "caller",
        request: object = None,
        fields: Fields = NO_FIELDS,
        holder: str = "",
    ) -> Decision:
        """Spend `cost` from every named policy or from none; with ``commit=False`` only look whether it would fit.

        Args:
            blame: against whom a refusal counts.
            request: what policies with a function for their cost are given.
            fields: headers by lower-case name, as further evidence against an address.
            holder: from `new_holder`, where a policy limits concurrency; give it to `release` at the end.

        Raises:
            ConfigurationError: a name is not in the table.
            ValueError: a cost is negative.
            StoreUnavailable: the store cannot count and has no local state behind it.
        """
        begun = self._begin(names, caller, cost, blame, request, fields, holder)
        if isinstance(begun, Decision):
            return begun
        bill, terms = begun
        spent = await self._store.spend(bill.charges, commit=commit, terms=terms)
        return self._decide(bill, spent, caller, self._store.mode, blame, fields)

    async def enter(
        self,
        names: Sequence[str],
        caller: Caller,
        read: CacheRead,
        *,
        blame: Blame = "caller",
        request: object = None,
        fields: Fields = NO_FIELDS,
        holder: str = "",
    ) -> tuple[Decision, CacheAnswer | None]:
        """Do what `check` does, and read one cache entry in the same round trip; it is None when a policy refuses.

        Raises:
            ConfigurationError, ValueError, StoreUnavailable: as `check`.
        """
        begun = self._begin(names, caller, 1, blame, request, fields, holder)
        if isinstance(begun, Decision):
            return begun, (await self._store.enter((), read=read)).cache if begun.allowed else None
        bill, terms = begun
        spent, cached = await self._store.enter(bill.charges, read=read, terms=terms)
        return self._decide(bill, spent, caller, self._store.mode, blame, fields), cached

    def check_now(
        self,
        names: Sequence[str],
        caller: Caller,
        *,
        cost: int = 1,
        blame: Blame = "caller",
        request: object = None,
        fields: Fields = NO_FIELDS,
        holder: str = "",
    ) -> Decision | None:
        """Do what `check` does where no await is needed (memory, or the caller is shut out); None where it is.

        The request path asks this first: on one worker without Redis the decision costs no coroutine.

        Raises:
            ConfigurationError, ValueError: as `check`.
        """
        if self._spend_now is None and self._spend_ahead is None:
            return self._refused(caller, blame) if self._denied or self._gate.has_lists else None
        begun = self._begin(names, caller, cost, blame, request, fields, holder)
        if isinstance(begun, Decision):
            return begun
        bill, terms = begun
        if self._spend_now is not None:
            return self._decide(bill, self._spend_now(bill.charges, terms=terms), caller, "memory", blame, fields)
        ahead = self._spend_ahead(bill.charges, terms) if self._spend_ahead is not None else None
        return None if ahead is None else self._decide(bill, ahead, caller, "redis", blame, fields)

    def check_soon(
        self, names: Sequence[str], caller: Caller, fields: Fields, tell: Callable[[Decision | None], None]
    ) -> Decision | bool:
        """Do what `check` does without a coroutine: for requests that cost less than one.

        Returns:
            The decision where it is known at once. True: `tell` will hear of it, in the call that reads the store's
            answer, or hear None when the store did not answer. False: only `check` can decide, and nothing was asked.

        Raises:
            ConfigurationError, ValueError: as `check`.
        """
        begun = self._begin(names, caller, 1, "caller", None, fields, "")
        if isinstance(begun, Decision):
            return begun
        bill, terms = begun
        if self._spend_now is not None:
            return self._decide(bill, self._spend_now(bill.charges, terms=terms), caller, "memory", "caller", fields)
        if self._spend_ahead is not None and (ahead := self._spend_ahead(bill.charges, terms)) is not None:
            return self._decide(bill, ahead, caller, "redis", "caller", fields)
        if self._spend_soon is None:
            return False

        def told(spent: Spent | None) -> None:
            tell(None if spent is None else self._decide(bill, spent, caller, self._store.mode, "caller", fields))

        return self._spend_soon(bill.charges, terms, told)

    def check_local(self, names: Sequence[str], caller: Caller, *, cost: int = 1) -> Decision:
        """Do what `check` does, in this process alone and without an await: for probes, which never wait."""
        bill = self._bills.of(names, caller, cost, "nobody") if self._enabled else EMPTY
        if not bill.charges:
            return passed(caller, "memory")
        return self._decide(bill, self._local.spend_now(bill.charges), caller, "memory", "nobody", NO_FIELDS)

    async def refund(
        self, names: Sequence[str], caller: Caller, *, cost: int = 1, request: object = None, holder: str = ""
    ) -> None:
        """Give back what a `check` spent, for work that was not done after all; of concurrency, what `holder` has.

        Raises:
            ConfigurationError, StoreUnavailable: as `check`.
        """
        bill = self._bill(names, caller, cost, "nobody", request)
        if bill.charges:
            await self._store.refund(bill.charges, holder=holder)

    async def reset(self, names: Sequence[str], caller: Caller) -> Mapping[str, int]:
        """Give back all that a caller has used under these policies, and forget its offences; return what was used.

        Raises:
            ConfigurationError, StoreUnavailable: as `check`.
        """
        await self.pardon(caller)
        looked = await self.check(names, caller, cost=0, commit=False, blame="nobody")
        used = {state.name: state.used for state in looked.states if state.used and state.name in self.table}
        for name, units in used.items():
            bill = self._bills.of((name,), caller, units, "nobody")
            await self._store.refund(bill.charges)
        return used

    async def settle(self, names: Sequence[str], caller: Caller, *, taken: int, actual: int) -> None:
        """Correct the units of work that is done: give the rest back, or take what is missing whether it fits or not.

        Raises:
            ConfigurationError, StoreUnavailable: as `check`.
        """
        names = [name for name in names if name not in self._leases]
        if not self._enabled or not names or actual == taken or self._gate.is_free(caller):
            return
        bill = self._bills.of(names, caller, abs(actual - taken), "nobody")
        if actual < taken:
            await self._store.refund(bill.charges)
        else:
            await self._store.spend(bill.charges, terms=Terms(is_forced=True))

    async def release(self, names: Sequence[str], caller: Caller, holder: str) -> None:
        """Give back what was held at a time; call it at every ending of the work.

        Raises:
            StoreUnavailable: then it comes back by itself, after the policy's `window_s`.
        """
        leases = [name for name in names if name in self._leases]
        if leases:
            await self.refund(leases, caller, holder=holder)

    def holds(self, names: Sequence[str]) -> bool:
        """Say whether one of the policies limits concurrency, so that `check` needs a holder."""
        return bool(self._leases) and not self._leases.isdisjoint(names)

    def asks_request(self, names: Sequence[str]) -> bool:
        """Say whether the cost of one of the policies is read from the request, so that `check` needs it."""
        return self._has_own_costs and any(callable(self.table.require(name).cost) for name in names)

    def new_holder(self) -> str:
        """Return a name for one piece of work, unique among all processes."""
        return f"{self._process}:{next(self._holders)}"

    async def pardon(self, caller: Caller) -> Penalty:
        """Forget the offences of an actor, or of the address of a caller without one.

        Raises:
            StoreUnavailable: as `check`.
        """
        return await self._gate.penalise(caller, strikes=0, pardon=True)

    async def penalise(self, caller: Caller, *, strikes: int = 1) -> Penalty:
        """Count offences that the limiter did not see; ``strikes=0`` only looks.

        Raises:
            StoreUnavailable: as `check`.
        """
        return await self._gate.penalise(caller, strikes=strikes, pardon=False)

    def snapshot(self) -> LimiterSnapshot:
        """Return numbers for health, metrics and tests; no I/O."""
        return LimiterSnapshot(
            mode=self._store.mode,
            policies=len(self.table),
            checks=self._checks,
            refusals=self._refusals,
            shadow_refusals=self._shadowed_by.total(),
            callers_kept=len(self._bills),
            penalties=self._gate.begun,
            denied=self._gate.denied.hits,
            denied_callers=len(self._gate.denied),
            refused_by=dict(self._refused_by),
            shadowed_by=dict(self._shadowed_by),
        )

    def _begin(
        self,
        names: Sequence[str],
        caller: Caller,
        cost: int,
        blame: Blame,
        request: object,
        fields: Fields,
        holder: str,
    ) -> Decision | tuple[Bill, Terms]:
        """Return what the store has to be asked, or the decision where it need not be."""
        if (self._denied or self._gate.has_lists) and (refusal := self._refused(caller, blame)) is not None:
            return refusal
        bill = self._bill(names, caller, cost, blame, request)
        if not bill.charges:
            return passed(caller, self._store.mode)
        if holder or self._denied or self._likenesses:
            return bill, self._gate.terms(bill, caller, blame, fields, holder)
        return bill, bill.terms

    def _refused(self, caller: Caller, blame: Blame) -> Decision | None:
        refusal = self._gate.refusal(caller, blame) if self._enabled else None
        if refusal is not None:
            self._refusals += 1
        return refusal

    def _bill(self, names: Sequence[str], caller: Caller, cost: int, blame: Blame, request: object) -> Bill:
        if not self._enabled or (self._gate.has_lists and self._gate.is_free(caller)):
            return EMPTY
        if self._has_own_costs:
            return self._bills.of(names, caller, costs_of(self.table, names, cost, request), blame)
        return self._bills.of(names, caller, cost, blame)

    def _decide(self, bill: Bill, spent: Spent, caller: Caller, mode: str, blame: Blame, fields: Fields) -> Decision:
        self._checks += 1
        decision = decision_of(bill, spent, caller, mode)
        if decision.shadowed:
            self._shadowed_by.update(decision.shadowed)
        if not decision.allowed:
            self._refusals += 1
            self._refused_by.update(decision.violated)
        if spent.penalty is not None and (spent.penalty.blocked_ms or self._gate.denied.entries):
            self._gate.note(decision, spent, caller, blame, fields)
        return decision
