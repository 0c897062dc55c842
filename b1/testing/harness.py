"""What a check of the contract is given, and the list in which all of them stand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from b1.clock import ManualClock
from b1.store.base import Charge, Store

MINUTE_MS = 60_000
_START_S = 1_750_032_000.0  # midnight UTC


@dataclass(frozen=True, slots=True)
class StoreHarness:
    """A store that starts empty, and the clock that it reads.

    Both of the clock's times must be equal, since a store may count on either: use `StoreHarness.clock_at_start`.
    """

    store: Store
    clock: ManualClock

    @staticmethod
    def clock_at_start() -> ManualClock:
        """Return a clock whose monotonic and wall times agree, at the start of a counter of every usual window."""
        return ManualClock(monotonic=_START_S, wall=_START_S)

    async def used(self, key: str, quota: int = 100, window_ms: int = MINUTE_MS) -> int:
        """Return what is counted under `key`, spending nothing."""
        spent = await self.store.spend([Charge(key, quota, window_ms)], commit=False)
        return spent.balances[0].used


StoreCheck = Callable[[StoreHarness], Awaitable[None]]
checks: list[StoreCheck] = []


def check(function: StoreCheck) -> StoreCheck:
    """Add a check to the contract."""
    checks.append(function)
    return function
