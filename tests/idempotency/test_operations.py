"""What an operator sees and does: how full, how many, how much, and forgetting an organisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from b1.cli.capacity import as_json, as_table
from b1.clock import ManualClock
from b1.errors import InvalidSetting, StoreUnavailable
from b1.idempotency import Idempotency, Purged, ServiceOptions, capacity, warnings_of
from b1.idempotency.capacity import POSTGRES_RECORD_BYTES, REDIS_RECORD_BYTES, parse_organizations
from b1.idempotency.purging import Purge
from b1.idempotency.usage import Usage, usage_of
from b1.store.memory import MemoryStore
from b1.types import Principal
from b1.units import KIB, MIB
from tests.idempotency.harness import ANN, World, post
from tests.idempotency.modes import Mode, opened
from tests.servers import RedisServer


@dataclass(frozen=True)
class Seen:
    keys: int = 10
    used_bytes: int = 0
    limit_bytes: int | None = None
    clients: int | None = None
    clients_limit: int | None = None
    evicts: bool = False


class MeasuredStore(MemoryStore):
    """A store that says how full the server behind it is."""

    async def usage(self) -> Seen:
        return Seen(keys=len(self.claims), used_bytes=85, limit_bytes=100, clients=3, clients_limit=30)


async def test_the_snapshot_counts_what_became_of_requests() -> None:
    world = World()
    app = world.handle(lambda _, body: _echo(body))
    for body in ({"a": 1}, {"a": 1}, {"a": 1}, {"a": 2}):
        await post(app, body)
    seen = world.service.snapshot()
    assert (seen.requests, seen.replays, seen.hit_rate, seen.mismatches, seen.conflicts) == (4, 2, 0.5, 1, 1)
    assert (seen.records, seen.record_bytes > 30, seen.spooled_bytes) == (1, True, 0)


async def _echo(body: object) -> object:
    return body


def test_before_the_first_request_there_is_no_hit_rate(clock: ManualClock) -> None:
    assert Idempotency(MemoryStore(MIB, clock), clock=clock).snapshot().hit_rate is None


async def test_usage_comes_from_the_store_where_it_can_say(clock: ManualClock) -> None:
    used = await Idempotency(MeasuredStore(MIB, clock), clock=clock).usage()
    assert (used.keys, used.memory_ratio, used.clients_ratio) == (0, 0.85, 0.1)


async def test_usage_of_a_store_that_cannot_say_is_its_snapshot(clock: ManualClock) -> None:
    used = await Idempotency(MemoryStore(64 * KIB, clock), clock=clock).usage()
    assert (used.keys, used.used_bytes, used.clients, used.evicts) == (0, 0, None, False)


@pytest.mark.parametrize(
    ("seen", "names"),
    [
        (Seen(used_bytes=79, limit_bytes=100, clients=79, clients_limit=100), []),
        (Seen(used_bytes=80, limit_bytes=100), ["B1IdempotencyStoreMemory"]),
        (Seen(clients=24, clients_limit=30), ["B1IdempotencyStoreConnections"]),
        (Seen(used_bytes=10, limit_bytes=100, evicts=True), ["B1IdempotencyStoreEvicts"]),
        (Seen(used_bytes=10**9, limit_bytes=None), []),
        (Seen(used_bytes=10**9, limit_bytes=0), []),
    ],
)
def test_a_warning_comes_at_four_fifths(seen: Seen, names: list[str]) -> None:
    assert [one.name for one in warnings_of(usage_of(seen))] == names


def test_a_warning_says_what_was_seen_and_what_to_do() -> None:
    (warning,) = warnings_of(usage_of(Seen(used_bytes=90 * MIB, limit_bytes=100 * MIB)))
    assert "90 MiB of 100 MiB" in warning.text and "ttl_s" in warning.remedy and warning.ratio == 0.9


def test_without_bounds_nothing_is_warned_of() -> None:
    assert warnings_of(Usage(1, 1, None, None, None, None, None, False)) == ()


async def test_an_organisation_is_forgotten_and_no_other(mode: Mode) -> None:
    app = mode.serve(ServiceOptions(purge_batch=2))
    service = mode.worlds[0].service
    stranger, nobody = Principal(actor="ann", organization="10"), Principal(actor="ann", organization=None)
    for number in range(5):
        await post(app, {"a": 1}, f"k{number}")
    for other in (stranger, nobody):
        await post(app, {"a": 1}, principal=other)
    rows = 1 if mode.database is not None else 0
    assert await service.purge_organization("1") == Purged(rows=5 * rows, store_keys=5)
    assert mode.keys() == 2
    assert [(await post(app, {"a": 1}, principal=one)).replayed for one in (stranger, nobody)] == [True, True]
    assert not (await post(app, {"a": 1}, "k0", principal=ANN)).replayed
    assert await service.purge_organization(None) == Purged(rows=rows, store_keys=1)
    assert await mode.effects() == 8


async def test_what_is_in_flight_is_not_forgotten(mode: Mode) -> None:
    service = mode.world().service
    await mode.store.claim("idempotency:1:k", b"f", lease_ms=60_000)
    assert await service.purge_organization("1") == Purged(rows=0, store_keys=0)
    assert mode.keys() == 1


async def test_a_redis_says_how_full_it_is(redis_server: RedisServer, tmp_path: Path) -> None:
    redis_server.command("CONFIG", "SET", "maxmemory", "64mb")
    try:
        async with opened("redis", None, redis_server, tmp_path) as mode:
            await post(mode.serve(), {"a": 1})
            used = await mode.worlds[0].service.usage()
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
    assert (used.keys, used.limit_bytes, used.evicts) == (1, 64 * MIB, False)
    assert used.memory_ratio is not None and 0 < used.memory_ratio < 1
    assert used.clients is not None and used.clients >= 1 and used.clients_ratio is not None


async def test_a_store_that_cannot_sweep_says_so(clock: ManualClock) -> None:
    with pytest.raises(StoreUnavailable, match="expire by themselves"):
        await Purge(object(), None, "1", 10, 1.0).run(clock)


def test_the_capacity_table_of_a_hundred_thousand_organisations() -> None:
    table = capacity(parse_organizations("100000orgs"), body_bytes=0, rates_per_day=(1, 10))
    assert [row.records for row in table.rows] == [100_000, 1_000_000]
    assert table.rows[0].redis_bytes == 100_000 * REDIS_RECORD_BYTES
    assert table.rows[1].postgres_bytes == 1_000_000 * POSTGRES_RECORD_BYTES
    assert table.connections == 2


def test_a_shorter_life_makes_fewer_records_and_no_fewer_commands() -> None:
    day, half = capacity(1000, ttl_s=86_400).rows[-1], capacity(1000, ttl_s=43_200).rows[-1]
    assert (day.records, day.commands_per_s) == (2 * half.records, half.commands_per_s)


def test_the_rate_that_fits_is_the_table_turned_round() -> None:
    table = capacity(1000, rates_per_day=(7,))
    assert table.rate_that_fits(table.rows[0].redis_bytes) == pytest.approx(7)


def test_the_table_is_printed_and_told_as_json() -> None:
    table = capacity(100_000)
    lines = list(as_table(table))
    assert "100,000 organisations" in lines[0] and len({len(line) for line in lines[2:7]}) == 1
    assert as_json(table)["organizations"] == 100_000


@pytest.mark.parametrize(
    ("text", "count"), [("100000orgs", 100_000), ("100k", 100_000), ("2M", 2_000_000), ("1org", 1)]
)
def test_organisations_are_read(text: str, count: int) -> None:
    assert parse_organizations(text) == count


@pytest.mark.parametrize("text", ["", "orgs", "0", "-5", "1e5", "10 000"])
def test_what_is_no_number_of_organisations_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected such as"):
        parse_organizations(text)


@pytest.mark.parametrize(("organizations", "body_bytes", "ttl_s"), [(0, 1, 1), (1, -1, 1), (1, 1, 0), (1, 65_537, 1)])
def test_an_impossible_table_is_refused(organizations: int, body_bytes: int, ttl_s: float) -> None:
    with pytest.raises(InvalidSetting):
        capacity(organizations, body_bytes=body_bytes, ttl_s=ttl_s)
