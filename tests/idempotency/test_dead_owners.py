"""The worker was killed in mid-request: on its own host that is known at once, and nobody waits for a lease of the dead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from b1.idempotency import ServiceOptions
from b1.store import remote_claims
from b1.store.base import ClaimState
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.units import MIB
from tests.idempotency.harness import database_at, effects, empty, post
from tests.idempotency.modes import AheadClock, Mode, opened
from tests.servers import RedisServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say who is gone")

LEASE_MS = 30_000


@pytest.fixture(scope="module")
def dead() -> bytes:
    """The name of a process that has ended."""
    script = "from b1.store.owner import own_name; print(own_name().hex())"
    return bytes.fromhex(
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.decode()
    )


async def left_behind(mode: Mode, owner: bytes, key: str, fingerprint: bytes) -> None:
    """Leave a claim of `owner` in Redis."""
    store = mode.store
    assert isinstance(store, RedisStore)
    before, store._claims._owner = store._claims._owner, owner
    assert (await store.claim(key, fingerprint, lease_ms=LEASE_MS)).state is ClaimState.CLAIMED
    store._claims._owner = before


async def asked_for(mode: Mode) -> tuple[str, bytes]:
    """Return under which key and fingerprint ``{"a": 1}`` is claimed."""
    seen: list[tuple[str, bytes]] = []

    class Spy(MemoryStore):
        async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Any:
            seen.append((key, fingerprint))
            return await super().claim(key, fingerprint, lease_ms=lease_ms)

    spied = Mode(mode.name, Spy(MIB, AheadClock()), AheadClock())
    await post(spied.serve(), {"a": 1})
    return seen[0]


async def test_a_claim_tells_whose_it_is_and_that_he_is_gone(
    redis_server: RedisServer, tmp_path: Path, dead: bytes
) -> None:
    async with opened("redis", None, redis_server, tmp_path) as mode:
        await left_behind(mode, dead, "k", b"f")
        found = await mode.store.claim("k", b"f", lease_ms=LEASE_MS)
        assert (found.state, found.is_owner_gone) == (ClaimState.IN_FLIGHT, True)
        assert await mode.store.renew("k", found.fence, lease_ms=LEASE_MS)
        assert (await mode.store.claim("k", b"f", lease_ms=LEASE_MS)).is_owner_gone  # renewing keeps the name
        assert await mode.store.release("k", found.fence)
        mine = await mode.store.claim("k", b"f", lease_ms=LEASE_MS)
        assert (mine.state, mine.fence > found.fence) == (ClaimState.CLAIMED, True)
        other = RedisStore(mode.store._link, "test")  # type: ignore[attr-defined]
        assert not (await other.claim("k", b"f", lease_ms=LEASE_MS)).is_owner_gone
        assert await mode.store.finish("k", mine.fence, b"record", ttl_ms=LEASE_MS)
        assert (await other.claim("k", b"f", lease_ms=LEASE_MS)).record == b"record"  # without the name in it


@pytest.mark.parametrize("with_local_state", [False, True])
async def test_where_postgres_decides_the_retry_runs_at_once_and_replays_come_from_the_store(
    redis_server: RedisServer, tmp_path: Path, dead: bytes, shared_postgres_url: str, with_local_state: bool
) -> None:
    async with (
        database_at(shared_postgres_url, tmp_path / "slots") as database,
        opened("redis", database, redis_server, tmp_path / "redis") as mode,
    ):
        await empty(database)
        await left_behind(mode, dead, *await asked_for(mode))
        if with_local_state:
            mode.store = FallbackStore(mode.store, MemoryStore(MIB, mode.clock), mode.clock)  # type: ignore[arg-type]
        app = mode.serve(ServiceOptions(poll_s=600.0), wait_s=60.0)  # whoever waits for the lease comes too late
        assert (await post(app, {"a": 1})).status == 201
        assert (await post(app, {"a": 1})).replayed
        assert (mode.worlds[0].service.snapshot().takeovers, await effects(database)) == (1, 1)
        if with_local_state:
            await mode.store.aclose()  # type: ignore[attr-defined]


async def test_where_the_store_decides_its_lease_is_respected_and_the_client_is_told_how_long(
    redis_server: RedisServer, tmp_path: Path, dead: bytes
) -> None:
    """Nobody can say whether the effect was made, or is still being made by somebody whom the dead had asked."""
    async with opened("redis", None, redis_server, tmp_path) as mode:
        await left_behind(mode, dead, *await asked_for(mode))
        app = mode.serve(ServiceOptions(poll_s=600.0), wait_s=15.0)
        reply = await post(app, {"a": 1})
        assert (reply.status, reply.code) == (409, "IDEMPOTENCY_IN_FLIGHT")
        assert 25 <= int(reply.headers["retry-after"]) <= 30
        await mode.age(31)
        assert (await post(app, {"a": 1})).status == 201


async def test_a_system_that_does_not_say_leaves_the_lease_to_decide(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_claims, "own_name", lambda: b"")
    async with opened("redis", None, redis_server, tmp_path) as mode:
        assert (await mode.store.claim("k", b"f", lease_ms=LEASE_MS)).state is ClaimState.CLAIMED
        found = await mode.store.claim("k", b"f", lease_ms=LEASE_MS)
        assert (found.state, found.is_owner_gone) == (ClaimState.IN_FLIGHT, False)
