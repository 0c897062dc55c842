"""The contract of penalties: `penalise`."""

from __future__ import annotations

from b1.store.base import Penalty, PenaltyRule
from b1.testing.harness import StoreHarness, check

_RULE = PenaltyRule(threshold=3, decay_ms=10_000, blocks_ms=(60_000, 300_000), forget_ms=600_000)
_KEY = "penalty:1:a"


async def _strike(h: StoreHarness, strikes: int = 1) -> Penalty:
    return await h.store.penalise(_KEY, _RULE, strikes=strikes)


@check
async def strikes_add_up_to_a_block(h: StoreHarness) -> None:
    assert await _strike(h, 0) == (0, 0, 0)
    assert [await _strike(h) for _ in range(3)] == [(0, 1, 0), (0, 2, 0), (60_000, 0, 1)]
    h.clock.advance(59)
    assert await _strike(h, 0) == (1000, 0, 1)
    h.clock.advance(1)
    assert await _strike(h, 0) == (0, 0, 1)


@check
async def strikes_leak_away(h: StoreHarness) -> None:
    await _strike(h, 2)
    h.clock.advance(10)
    assert await _strike(h, 0) == (0, 1, 0)
    assert await _strike(h) == (0, 2, 0)
    h.clock.advance(20)
    assert await _strike(h, 0) == (0, 0, 0)


@check
async def strikes_during_a_block_do_not_prolong_it(h: StoreHarness) -> None:
    await _strike(h, 3)
    h.clock.advance(10)
    assert await _strike(h, 100) == (50_000, 0, 1)


@check
async def blocks_grow_up_to_the_last(h: StoreHarness) -> None:
    lengths = []
    for _ in range(3):
        lengths.append((await _strike(h, 3)).blocked_ms)
        h.clock.advance(lengths[-1] / 1000)
    assert lengths == [60_000, 300_000, 300_000]


@check
async def a_step_is_forgotten_after_a_quiet_time(h: StoreHarness) -> None:
    for _ in range(2):
        h.clock.advance((await _strike(h, 3)).blocked_ms / 1000)
    h.clock.advance(600)
    assert await _strike(h, 0) == (0, 0, 1)
    assert await _strike(h, 3) == (300_000, 0, 2)
    h.clock.advance(300 + 1200)
    assert await _strike(h, 3) == (60_000, 0, 1)


@check
async def a_pardon_forgets_everything(h: StoreHarness) -> None:
    await _strike(h, 3)
    assert await h.store.penalise(_KEY, _RULE, strikes=0, pardon=True) == (0, 0, 0)
    assert await _strike(h) == (0, 1, 0)
