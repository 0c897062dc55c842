"""The claims' verbs on a Redis server; see `Store`.

A claim names the process that made it, so that another one of the same host can say that its owner is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from b1.errors import StoreUnavailable
from b1.link import Link
from b1.store.base import GRACE_MS, Claim, ClaimState
from b1.store.claims import Kept
from b1.store.owner import is_gone, own_name


class RemoteClaims:
    """Claims under one prefix.

    Args:
        now: the first argument of each script: a time in ms for tests, else empty.
    """

    def __init__(self, link: Link, prefix: str, now: Callable[[], int | str]) -> None:
        self._link = link
        self._prefix = prefix
        self._now = now
        self._owner: bytes | None = None  # asked for with the first claim: constructors read no files

    def __repr__(self) -> str:
        return f"RemoteClaims({self._prefix!r}, owner={self._owner!r})"

    async def claim(self, key: str, fingerprint: bytes, *, lease_ms: int) -> Claim:
        if self._owner is None:
            self._owner = await asyncio.to_thread(own_name)
        arguments = [self._now(), fingerprint, lease_ms, GRACE_MS, self._owner]
        reply = await self._link.script("claim", [self._prefix + key], arguments)
        match reply:
            case [2, bytes(record)]:
                return Claim(ClaimState.FINISHED, record=record)
            case [0, int(fence)]:
                return Claim(ClaimState.CLAIMED, fence=fence)
            case [1, int(retry_after_ms), *more]:
                return await self._in_flight(retry_after_ms, more)
            case [3, *told]:
                return Claim(ClaimState.MISMATCH, fingerprint=told[0] if told else b"")
        raise StoreUnavailable(f"the claim script answered {reply!r}, which this version does not know")

    async def renew(self, key: str, fence: int, *, lease_ms: int) -> bool:
        arguments = [self._now(), fence, lease_ms, GRACE_MS]
        return bool(await self._link.script("renew", [self._prefix + key], arguments) == 1)

    async def finish(self, key: str, fence: int, record: bytes, *, ttl_ms: int) -> bool:
        arguments = [self._now(), fence, record, ttl_ms]
        return bool(await self._link.script("finish", [self._prefix + key], arguments) == 1)

    async def release(self, key: str, fence: int) -> bool:
        return bool(await self._link.script("release", [self._prefix + key], [fence, GRACE_MS]) == 1)

    async def adopt(self, kept: Kept) -> bool:
        """Keep a record that was made elsewhere, unless its key has another owner or record here."""
        arguments = [self._now(), kept.fingerprint, kept.fence, kept.record, kept.ttl_ms]
        return bool(await self._link.script("adopt", [self._prefix + kept.key], arguments) == 1)

    async def _in_flight(self, retry_after_ms: int, more: list[Any]) -> Claim:
        match more:
            case [int(fence), bytes(owner), *_] if owner != self._owner and await asyncio.to_thread(is_gone, owner):
                return Claim(ClaimState.IN_FLIGHT, None, fence, retry_after_ms, is_owner_gone=True)
        return Claim(ClaimState.IN_FLIGHT, retry_after_ms=retry_after_ms)
