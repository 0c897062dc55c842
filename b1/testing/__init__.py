"""What tests of b1 and of its users share: a clock that stands still, and the contract that every store keeps.

`store_contract` needs no test framework: each check is an async function of a `StoreHarness` and fails by
`AssertionError`. With pytest: ``@pytest.mark.parametrize("check", store_contract, ids=lambda check: check.__name__)``.
"""

from b1.clock import ManualClock
from b1.testing import buckets, caches, claims, leases, limits, offenders, penalties, streams
from b1.testing.harness import StoreCheck, StoreHarness, checks

# Each module adds its checks when it is imported.
_PARTS = (limits, buckets, leases, claims, caches, penalties, offenders, streams)

store_contract: tuple[StoreCheck, ...] = tuple(
    check for part in _PARTS for check in checks if check.__module__ == part.__name__
)
"""Every check of the contract, in a fixed order."""

__all__ = ["ManualClock", "StoreCheck", "StoreHarness", "store_contract"]
