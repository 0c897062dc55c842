"""The store in a Redis or Valkey server: one Lua script and one round trip per verb, on the server's clock.

It knows nothing of connections (the link does) and never answers from local state (`FallbackStore` does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from b1.errors import StoreUnavailable
from b1.link import Link
from b1.store.base import GRACE_MS, Balance, Charge, Claim, ClaimState, Spent, StoreSnapshot

# Read once, while importing, like the code they are.
_SCRIPTS = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "lua").glob("*.lua"))}
_CHARGE_REPLY = 6


class RedisStore:
    """All verbs over one link.

    Args:
        link: the transport; started and closed by whoever made it.
        namespace: separates applications that share a server. All keys share one hash tag, so that one script may
            touch any of them on a clustered server too.
        now_ms: replaces the server's clock, for tests.

    Raises:
        ValueError: the namespace is empty or has a brace, which would end the hash tag.
    """

    mode = "redis"

    def __init__(self, link: Link, namespace: str, *, now_ms: Callable[[], int] | None = None) -> None:
        if not namespace or "{" in namespace or "}" in namespace:
            raise ValueError(f"the namespace is {namespace!r}, expected some text without braces")
        self.prefix = f"b1:{{{namespace}}}:"
        self._link = link
        self._fixed_now_ms = now_ms
        for name, source in _SCRIPTS.items():
            link.register(name, source)

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self.prefix!r}, link={self._link!r})"

    async def spend(self, charges: Sequence[Charge], *, commit: bool = True) -> Spent:
        arguments: list[str | int] = [self._now(), 1 if commit else 0]
        for charge in charges:
            arguments += charge.quota, charge.window_ms, charge.cost, 1 if charge.shadow else 0
        keys = [self.prefix + charge.key for charge in charges]
        reply = await self._run("spend", keys, arguments, 2 + _CHARGE_REPLY * len(charges))
        balances = tuple(
            Balance(reply[at] == 1, *reply[at + 1 : at + _CHARGE_REPLY]) for at in range(2, len(reply), _CHARGE_REPLY)
        )
        return Spent(reply[0] == 1, reply[1], balances)

    async def refund(self, charges: Sequence[Charge]) -> None:
        arguments: list[str | int] = [self._now()]
        for charge in charges:
            arguments += charge.window_ms, charge.cost
        await self._link.script("refund", [self.prefix + charge.key for charge in charges], arguments)

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        reply = await self._run("claim", [self.prefix + key], [self._now(), fingerprint, lease_ms, GRACE_MS], 1)
        match reply:
            case [0, int(fence)]:
                return Claim(ClaimState.CLAIMED, fence=fence)
            case [1, int(retry_after_ms)]:
                return Claim(ClaimState.IN_FLIGHT, retry_after_ms=retry_after_ms)
            case [2, bytes(record)]:
                return Claim(ClaimState.FINISHED, record=record)
            case [3]:
                return Claim(ClaimState.MISMATCH)
        raise StoreUnavailable(f"the claim script answered {reply!r}, which this version does not know")

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        arguments = [self._now(), fence, lease_ms, GRACE_MS]
        return bool(await self._link.script("renew", [self.prefix + key], arguments) == 1)

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        arguments = [self._now(), fence, record, ttl_ms]
        return bool(await self._link.script("finish", [self.prefix + key], arguments) == 1)

    async def release(self, key: str, fence: int) -> bool:
        return bool(await self._link.script("release", [self.prefix + key], [fence, GRACE_MS]) == 1)

    def snapshot(self) -> StoreSnapshot:
        link = self._link.snapshot()
        return StoreSnapshot(
            mode="redis",
            connected=link.is_up,
            keys=0,
            held_bytes=0,
            limit_bytes=0,
            round_trips=link.calls,
            errors=link.failures,
            latency_ms=link.latency_ms,
        )

    async def _run(self, name: str, keys: list[str], arguments: list[Any], least: int) -> list[Any]:
        reply = await self._link.script(name, keys, arguments)
        if not isinstance(reply, list) or len(reply) < least:
            raise StoreUnavailable(f"the {name} script answered {reply!r}, expected {least} values or more")
        return reply

    def _now(self) -> int | str:
        return "" if self._fixed_now_ms is None else self._fixed_now_ms()
