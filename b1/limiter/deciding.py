"""From what the store said to what a client is told. Pure, and run for every request."""

from __future__ import annotations

from b1.limiter.bills import Bill
from b1.limiter.decision import Caller, Decision, Passing, PolicyState, Told, passing_state
from b1.store.base import Balance, Spent

# A named tuple made by its own constructor costs twice as much, and several are made for every request.
_new = tuple.__new__
_LATER_S = 31_536_000


def decision_of(bill: Bill, spent: Spent, caller: Caller, mode: str) -> Decision:
    """Return the decision of one request."""
    told = bill.tariff.told
    if spent.allowed and told is not None and mode != "local":
        return _allowed(told, spent, caller, mode)
    states = []
    violated: tuple[str, ...] = ()
    shadowed: tuple[str, ...] = ()
    nearest: PolicyState | None = None
    for line, charge, balance in zip(bill.tariff.lines, bill.charges, spent.balances, strict=True):
        if line.policy.shadow:
            if not balance.allowed:
                shadowed += (line.name,)
            continue
        if not line.is_shown and balance.allowed:
            continue
        # While Redis is away a process has its part of the quota, and says so.
        limit = min(line.limit, balance.used + balance.remaining) if mode == "local" else line.limit
        state = PolicyState(
            line.name, limit, balance.remaining, balance.used, _reset_s(balance, charge.window_ms), line.window_s
        )
        states.append(state)
        if not balance.allowed:
            if not violated or nearest is None or state.reset_s > nearest.reset_s:
                nearest = state
            violated += (line.name,)
        elif not violated and (nearest is None or state.remaining < nearest.remaining):
            nearest = state
    penalty = spent.penalty
    if penalty is not None and penalty.blocked_ms:
        return _shut_out(nearest, -(-penalty.blocked_ms // 1000), caller, mode, spent.now_ms // 1000, shadowed)
    retry_after_s = nearest.reset_s if violated and nearest is not None else 0
    return Decision(
        not violated, violated, nearest, tuple(states), retry_after_s, caller.tier, mode, spent.now_ms // 1000, shadowed
    )


def passed(caller: Caller, mode: str) -> Decision:
    """Return the decision where no policy applies."""
    return Decision(True, (), None, (), 0, caller.tier, mode, 0)


def denied(caller: Caller, mode: str) -> Decision:
    """Return the refusal of a caller who is never let in."""
    return Decision(False, (), None, (), _LATER_S, caller.tier, mode, 0, is_denied=True)


def waiting(decision: Decision, wait_s: int) -> Decision:
    """Return the same refusal of one who is shut out, with what is left of the wait."""
    nearest, now_s = decision.nearest, decision.now_s + decision.retry_after_s - wait_s
    if nearest is None:
        return decision._replace(retry_after_s=wait_s, now_s=now_s)
    nearest = nearest._replace(reset_s=wait_s)
    return decision._replace(retry_after_s=wait_s, nearest=nearest, shown=(nearest,), now_s=now_s)


def _allowed(told: tuple[Told, ...], spent: Spent, caller: Caller, mode: str) -> Decision:
    _, now_ms, balances, _ = spent
    line, nearest = told[0], balances[0]
    for place in range(1, len(balances)):
        if balances[place][2] < nearest[2]:
            line, nearest = told[place], balances[place]
    shown = _new(Passing, (told, balances))
    state = passing_state(line, nearest)
    return _new(Decision, (True, (), state, shown, 0, caller.tier, mode, now_ms // 1000, (), False, False))


def _shut_out(
    nearest: PolicyState | None, wait_s: int, caller: Caller, mode: str, now_s: int, shadowed: tuple[str, ...]
) -> Decision:
    """Nothing remains of any policy to one who is shut out."""
    if nearest is not None:
        nearest = nearest._replace(remaining=0, reset_s=wait_s)
    states = () if nearest is None else (nearest,)
    return Decision(False, (), nearest, states, wait_s, caller.tier, mode, now_s, shadowed, is_penalty=True)


def _reset_s(balance: Balance, window_ms: int) -> int:
    if not balance.allowed:
        # A cost above the quota never fits; a whole window is then the longest that waiting could be about.
        wait_ms = balance.retry_after_ms if balance.retry_after_ms >= 0 else window_ms
        return max(1, -(-wait_ms // 1000))
    return -(-(balance.reset_ms if balance.remaining else balance.renew_ms) // 1000)
