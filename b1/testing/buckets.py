"""The contract of buckets (GCRA): the table of redis-cell, and what `spend` and `refund` do of them."""

from __future__ import annotations

from b1.store.base import Charge
from b1.store.terms import Terms
from b1.testing.harness import MINUTE_MS, StoreHarness, check

_KEY = "gcra:a:1"
# redis-cell, src/cell/mod.rs, it_rate_limits: five units, one a second.
# At (s), cost; then: limited, remaining, reset_after (s), retry_after (s; None: does not apply).
_REDIS_CELL: tuple[tuple[float, int, bool, int, float, float | None], ...] = (
    (0, 6, True, 5, 0, None),
    (0, 1, False, 4, 1, None),
    (0, 1, False, 3, 2, None),
    (0, 1, False, 2, 3, None),
    (0, 1, False, 1, 4, None),
    (0, 1, False, 0, 5, None),
    (0, 1, True, 0, 5, 1),
    (3.0, 1, False, 2, 3.0, None),
    (3.1, 1, False, 1, 3.9, None),
    (4.0, 1, False, 1, 4.0, None),
    (8.0, 1, False, 4, 1.0, None),
    (9.5, 1, False, 4, 1.0, None),
    (9.5, 0, False, 4, 1.0, None),
    (9.5, 2, False, 2, 3.0, None),
    (9.5, 5, True, 2, 3.0, 3.0),
)


def _bucket(cost: int = 1, *, quota: int = 60, burst: int = 5, key: str = _KEY, shadow: bool = False) -> Charge:
    return Charge(key, quota, MINUTE_MS, cost, shadow, "bucket", burst)


@check
async def a_bucket_agrees_with_redis_cell(h: StoreHarness) -> None:
    now_s = 0.0
    for at_s, cost, is_limited, remaining, reset_s, retry_s in _REDIS_CELL:
        h.clock.advance(at_s - now_s)
        now_s = at_s
        spent = await h.store.spend([_bucket(cost)])
        balance = spent.balances[0]
        retry_ms = (-1 if cost > 5 else 0) if retry_s is None else round(retry_s * 1000)
        told = (not spent.allowed, balance.remaining, balance.reset_ms, balance.retry_after_ms)
        assert told == (is_limited, remaining, round(reset_s * 1000), retry_ms), (at_s, cost, told)


@check
async def a_bucket_refuses_for_all_and_is_refused_with_all(h: StoreHarness) -> None:
    window = Charge("limit:a:1", 2, MINUTE_MS)
    answers = [(await h.store.spend([window, _bucket(burst=5)])).allowed for _ in range(4)]
    assert answers == [True, True, False, False]
    assert (await h.store.spend([_bucket(0)])).balances[0].used == 2
    assert [(await h.store.spend([_bucket()])).allowed for _ in range(4)] == [True] * 3 + [False]


@check
async def an_empty_bucket_says_when_the_first_unit_comes(h: StoreHarness) -> None:
    for _ in range(5):
        last = await h.store.spend([_bucket()])
    assert last.balances == ((True, 5, 0, 0, 1000, 5000),)
    h.clock.advance(0.999)
    assert (await h.store.spend([_bucket()])).balances == ((False, 5, 0, 1, 1, 4001),)
    h.clock.advance(0.001)
    assert (await h.store.spend([_bucket()])).allowed


@check
async def a_bucket_gets_back_what_is_given_back(h: StoreHarness) -> None:
    await h.store.spend([_bucket(5)])
    await h.store.refund([_bucket(2)])
    assert (await h.store.spend([_bucket(0)])).balances == ((True, 3, 2, 0, 0, 3000),)
    await h.store.refund([_bucket(100), _bucket(1, key="gcra:b:1")])
    assert (await h.store.spend([_bucket(0)])).balances == ((True, 0, 5, 0, 0, 0),)


@check
async def a_smaller_bucket_is_at_most_empty(h: StoreHarness) -> None:
    await h.store.spend([_bucket(100, quota=60, burst=100)])
    spent = await h.store.spend([_bucket(quota=60, burst=2)])
    assert spent.balances == ((False, 2, 0, 1000, 1000, 2000),)


@check
async def a_shadow_bucket_refuses_nobody(h: StoreHarness) -> None:
    answers = [await h.store.spend([_bucket(burst=1, shadow=True)]) for _ in range(2)]
    assert [(answer.allowed, answer.balances[0].allowed) for answer in answers] == [(True, True), (True, False)]


@check
async def a_settlement_is_taken_whether_it_fits_or_not(h: StoreHarness) -> None:
    window, bucket = Charge("limit:a:1", 5, MINUTE_MS, 9), _bucket(9)
    spent = await h.store.spend([window, bucket], terms=Terms(is_forced=True))
    assert spent.allowed
    assert [balance[:3] for balance in spent.balances] == [(True, 9, 0), (True, 5, 0)]
    assert not (await h.store.spend([Charge("limit:a:1", 5, MINUTE_MS)])).allowed
    assert not (await h.store.spend([_bucket()])).allowed
    h.clock.advance(61)
    assert (await h.store.spend([Charge("limit:a:1", 5, MINUTE_MS), _bucket()])).allowed
