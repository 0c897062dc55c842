"""Attacks over simulated minutes: what passes after the first penalty, and who else feels it."""

from __future__ import annotations

import random

from b1.clock import ManualClock
from b1.limiter import DEFAULT_POLICIES, Caller, Decision, Limiter, client_address
from b1.store.base import Charge
from b1.store.memory import MemoryStore
from b1.testing import StoreHarness

MINUTES = 10
POLITE = "2001:db8:0:2::1"
AGENT = {b"user-agent": b"abuser/1"}


class Street:
    """A limiter behind one trusted proxy, and requests as they arrive."""

    def __init__(self) -> None:
        self.clock: ManualClock = StoreHarness.clock_at_start()
        self.store = MemoryStore(4 * 2**20, self.clock)
        self.limiter = Limiter(self.store, DEFAULT_POLICIES)

    def ask(self, address: str, port: int, spoofed: str, fields: dict[bytes, bytes]) -> Decision:
        forwarded = f"{spoofed}, [{address}]:{port}".encode()
        client = client_address("10.0.0.1", [(b"x-forwarded-for", forwarded)], "1")
        decision = self.limiter.check_now(("public",), Caller(client), fields=fields)
        assert decision is not None
        return decision


async def test_after_the_first_penalty_999_of_1000_are_refused_and_a_polite_neighbour_loses_nothing() -> None:
    chance, street = random.Random(7), Street()
    abuse_per_s, after, passed_after, first_penalty = 5, 0, 0, False  # 20 times 15 a minute
    polite_refused = polite_asked = 0
    for second in range(MINUTES * 60):
        for _ in range(abuse_per_s):
            street.clock.advance(1 / abuse_per_s)
            address = f"2001:db8:0:1:{chance.getrandbits(16):x}:{chance.getrandbits(16):x}:0:1"
            spoofed = f"{chance.randrange(1, 223)}.{chance.randrange(256)}.1.1"
            decision = street.ask(address, chance.randrange(1024, 65536), spoofed, AGENT)
            if first_penalty:
                after += 1
                passed_after += decision.allowed
            first_penalty = first_penalty or decision.is_penalty
        if second % 5 == 0:  # 12 a minute, with the same headers
            polite_asked += 1
            polite_refused += not street.ask(POLITE, 50_000, "1.1.1.1", AGENT).allowed
    assert after > 2900
    assert passed_after <= after / 1000
    assert (polite_asked, polite_refused) == (120, 0)


async def test_whoever_owns_a_56_gets_four_times_the_quota_and_a_48_sixteen_times() -> None:
    street = Street()
    passed_56 = sum(street.ask(f"2001:db8:0:{number:x}::1", 1, "1.1.1.1", {}).allowed for number in range(256))
    assert passed_56 == 4 * 15
    passed_48 = sum(street.ask(f"2001:db8:0:{number << 8:x}::1", 1, "1.1.1.1", {}).allowed for number in range(1, 256))
    assert passed_56 + passed_48 == 16 * 15
    assert street.ask("2001:db8:1::1", 1, "1.1.1.1", {}).allowed


async def test_a_refusal_by_a_wider_network_says_so() -> None:
    street = Street()
    for number in range(61):
        decision = street.ask(f"2001:db8:0:{number:x}::1", 1, "1.1.1.1", {})
    assert (decision.allowed, decision.violated) == (False, ("public-56",))
    assert decision.nearest is not None
    assert (decision.nearest.limit, decision.nearest.remaining) == (60, 0)
    assert [state.name for state in decision.states] == ["public", "public-56"]


async def test_garbage_instead_of_an_address_shares_one_quota_and_is_never_let_past() -> None:
    street = Street()
    passed = 0
    for number in range(100):
        client = client_address("10.0.0.1", [(b"x-forwarded-for", b"_hidden%d" % number)], "1")
        decision = street.limiter.check_now(("public",), Caller(client))
        assert decision is not None
        passed += decision.allowed
    assert passed == 15


def test_sprayed_addresses_stay_within_the_bound_and_free_nobody() -> None:
    clock = StoreHarness.clock_at_start()
    store = MemoryStore(2 * 2**20, clock)
    limiter = Limiter(store, DEFAULT_POLICIES)
    spent, other = Caller("203.0.113.9"), Caller("203.0.113.10", "ann", "1")
    for _ in range(15):
        limiter.check_now(("public",), spent)
    for _ in range(3):
        limiter.check_now(("delete",), other)
    most_looks = spray(store, limiter, clock, 100_000)
    snapshot = store.snapshot()
    assert snapshot.held_bytes <= snapshot.limit_bytes
    assert most_looks <= 140  # the work of one request is bounded, so no request stalls the others
    still_spent, still_counted = limiter.check_now(("public",), spent), limiter.check_now(("delete",), other)
    assert still_spent is not None
    assert not still_spent.allowed
    assert still_counted is not None
    assert still_counted.nearest is not None
    assert still_counted.nearest.used == 4


def spray(store: MemoryStore, limiter: Limiter, clock: ManualClock, addresses: int) -> int:
    """Ask once from each of so many addresses, a twentieth of them through the limiter; return the most keys that one
    request looked at to make room."""
    looks = most_looks = 0
    take = store.windows.shelf.timetable.take

    def counted(now_ms: int) -> str | None:
        nonlocal looks
        looks += 1
        return take(now_ms)

    store.windows.shelf.timetable.take = counted  # type: ignore[method-assign]
    for number in range(addresses):
        before = looks
        if number % 20 == 0:
            limiter.check_now(("public",), Caller(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"))
        else:
            store.spend_now([Charge(f"limit:public:{number:032x}", 15, 60_000)])
        most_looks = max(most_looks, looks - before)
        if number % 1000 == 0:
            clock.advance(0.1)
    store.windows.shelf.timetable.take = take  # type: ignore[method-assign]
    return most_looks
