"""One decision of the memory store over windows, buckets, leases and an offender, for all or nothing.

The order is that of ``lua/enter.lua``: who is shut out, what fits, what is taken; a refusal is a strike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from b1.store.balance import share_of
from b1.store.base import Balance, Charge, Penalty
from b1.store.buckets import Buckets
from b1.store.leases import Leases
from b1.store.offences import Offences
from b1.store.terms import Terms
from b1.store.windows import Windows


@dataclass(frozen=True, slots=True)
class Tables:
    """What a decision touches."""

    windows: Windows
    buckets: Buckets
    leases: Leases
    offences: Offences


def decide(
    tables: Tables, charges: Sequence[Charge], terms: Terms, now_ms: int, *, commit: bool, is_stand_in: bool, share: int
) -> tuple[bool, tuple[Balance, ...], Penalty | None]:
    """Take from all charges or from none; say also where the offender stands."""
    commit = commit or terms.is_forced
    case = None if terms.is_forced else terms.offender
    if case is None:
        penalty = None
    else:
        penalty = tables.offences.find(case, now_ms, is_look=not commit)
        if penalty.blocked_ms:
            _, balances = _take(tables, charges, terms, now_ms, commit=False, is_stand_in=is_stand_in, share=share)
            return False, balances, penalty
    allowed, balances = _take(tables, charges, terms, now_ms, commit=commit, is_stand_in=is_stand_in, share=share)
    if case is not None and commit and not allowed:
        penalty = tables.offences.refused(case, now_ms)
    return allowed, balances, penalty


def refund(tables: Tables, charges: Sequence[Charge], now_ms: int, *, holder: str) -> None:
    """Give each charge's cost back."""
    for charge in charges:
        if charge.kind == "bucket":
            tables.buckets.refund(charge, now_ms * 1000)
        elif charge.kind == "lease":
            tables.leases.give_back(charge.key, holder)
    tables.windows.refund([charge for charge in charges if charge.kind == "window"], now_ms)


def follow(
    tables: Tables, charges: Sequence[Charge], balances: Sequence[Balance], terms: Terms, now_ms: int, *, takes: bool
) -> None:
    """Know what Redis decided, for the time when it is away."""
    for charge in charges:
        if charge.kind != "window":
            break
    else:
        tables.windows.follow(charges, balances, now_ms, takes=takes)
        return
    for charge, balance in zip(charges, balances, strict=True):
        if charge.kind == "window":
            tables.windows.follow((charge,), (balance,), now_ms, takes=takes)
        elif charge.kind == "bucket":
            tables.buckets.follow(charge, balance.reset_ms, now_ms * 1000)
        elif takes and balance.allowed and charge.cost:
            tables.leases.take(charge, terms.holder, now_ms)


def _take(
    tables: Tables, charges: Sequence[Charge], terms: Terms, now_ms: int, *, commit: bool, is_stand_in: bool, share: int
) -> tuple[bool, tuple[Balance, ...]]:
    windows = tables.windows
    for charge in charges:
        if charge.kind != "window":
            break
    else:
        return windows.spend(
            charges, now_ms, commit=commit, is_stand_in=is_stand_in, is_forced=terms.is_forced, share=share
        )
    plain = [charge for charge in charges if charge.kind == "window"]
    others = [share_of(charge, None, share) if share > 1 else charge for charge in charges if charge.kind != "window"]
    fits = [_fits(tables, charge, now_ms) for charge in others]
    allowed, balances = windows.spend(plain, now_ms, commit=False, share=share)
    allowed = terms.is_forced or (allowed and all(f or charge.shadow for charge, f in zip(others, fits, strict=True)))
    if allowed and commit:
        _, balances = windows.spend(
            plain, now_ms, commit=True, is_stand_in=is_stand_in, is_forced=terms.is_forced, share=share
        )
        for place, charge in enumerate(others):
            if charge.cost and (fits[place] or terms.is_forced):
                fits[place] = True
                if charge.kind == "bucket":
                    tables.buckets.take(charge, now_ms * 1000, is_stand_in=is_stand_in)
                else:
                    tables.leases.take(charge, terms.holder, now_ms)
    told = {charge.key: balance for charge, balance in zip(plain, balances, strict=True)}
    for charge, is_fitting in zip(others, fits, strict=True):
        if charge.kind == "bucket":
            told[charge.key] = tables.buckets.balance(charge, is_fitting, now_ms * 1000)
        else:
            told[charge.key] = tables.leases.balance(charge, is_fitting, now_ms)
    return allowed, tuple([told[charge.key] for charge in charges])


def _fits(tables: Tables, charge: Charge, now_ms: int) -> bool:
    if charge.kind == "bucket":
        return tables.buckets.fits(charge, now_ms * 1000)
    return tables.leases.fits(charge, now_ms)
