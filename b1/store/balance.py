"""Where one policy stands, from what its window counts. Pure.

The formulas here and in ``lua/shared/balance.lua`` are the same.
"""

from __future__ import annotations

from dataclasses import replace

from b1.store.base import Balance, Charge
from b1.store.window import COUNTERS, TOTAL, WINDOW_MS, Window

# A named tuple made by its own constructor costs twice as much, and several are made for every request.
_new = tuple.__new__


def balance_of(charge: Charge, window: Window | None, fits: bool, now_ms: int) -> Balance:
    """Return the balance of an advanced window, the charge included if it was taken; None: nothing is counted."""
    quota = charge.quota
    if window is None or window[TOTAL] == 0:
        return Balance(fits, 0, quota, 0 if fits else -1, 0, 0)
    used = window[TOTAL]
    remaining = quota - used
    # When the newest counter leaves the window: its index is the last but one number.
    reset_ms = -((window[-2] + COUNTERS) * window[WINDOW_MS] // -60) - now_ms
    if fits and remaining > 0:
        return _new(Balance, (True, used, remaining, 0, 0, reset_ms))
    retry_ms = 0
    if not fits:
        retry_ms = -1 if charge.cost > quota else window.freed_at_ms(used + charge.cost - quota) - now_ms
    if remaining > 0:
        return Balance(fits, used, remaining, retry_ms, 0, reset_ms)
    # More than the quota is counted after a quota was lowered: the first unit comes back when the excess has gone.
    renew_ms = window.freed_at_ms(1 - remaining) - now_ms if quota else 0
    return Balance(fits, used, 0, retry_ms, renew_ms, reset_ms)


def share_of(charge: Charge, window: Window | None, share: int) -> Charge:
    """Return the charge with the part of the quota that one of `share` processes has while each counts alone.

    What all of them had used together when they were last told stays used; the rest is divided, and rounded down. While
    any is left each has one unit, so up to `share` units pass of a smaller quota.
    """
    if charge.kind != "window":
        quota = max(1, charge.quota // share)
        return replace(charge, quota=quota, burst=max(1, charge.depth // share) if charge.kind == "bucket" else 0)
    known = 0 if window is None else min(window.known, charge.quota)
    left = charge.quota - known
    return replace(charge, quota=min(charge.quota, known + max(1, left // share)))
