"""Checks passwords with argon2id: 19 MiB, two passes, one lane, one at a time.

A hash is meant to be expensive, which makes log-ins the cheapest way to exhaust a small box: at the library's defaults
eight of them at once take 507 MiB. One thread of its own bounds the memory to a single hash and leaves the event loop
free; a bounded queue in front of it bounds the wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from b1 import Overloaded

# A hash of a password that nobody has: checked for unknown accounts, so that they cost what known ones cost.
NOBODYS_HASH = "$argon2id$v=19$m=19456,t=2,p=1$8W3Dzg0R72xe4YawEmyz2A$nt0qkAalniT6cFlajbtOyUDRgXosOqegR5RcrIficLo"


@dataclass(frozen=True, slots=True)
class PasswordsSnapshot:
    """`waiting` counts everybody in the queue, the one whose turn it is included."""

    waiting: int
    queue_limit: int
    checked: int
    refused: int


class Passwords:
    """Gives out turns, one at a time.

    Args:
        queue_limit: how many may wait for their turn; the next one is refused at once.
        wait_s: how long one waits for its turn.
    """

    def __init__(self, *, queue_limit: int = 32, wait_s: float = 5.0) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._queue_limit = queue_limit
        self._wait_s = wait_s
        # A lock belongs to one event loop, so both come with `start`.
        self._lock = asyncio.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._checked = 0
        self._refused = 0

    def __repr__(self) -> str:
        return f"<Passwords waiting={self._waiting} checked={self._checked} refused={self._refused}>"

    def start(self) -> None:
        """Get ready; the thread itself begins with the first password."""
        self._lock = asyncio.Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pantry-passwords")

    async def aclose(self) -> None:
        """Forget queued work and wait for the hash in progress, off the event loop."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown, wait=True, cancel_futures=True)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn; whoever has it is the only one who may `match`.

        Raises:
            Overloaded: too many wait already, or the wait took too long.
        """
        if self._waiting >= self._queue_limit:
            self._refuse("too many log-ins are waiting")
        self._waiting += 1
        try:
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._lock.acquire()
            except TimeoutError:
                self._refuse("the log-in waited too long for its turn")
            try:
                yield
            finally:
                self._lock.release()
        finally:
            self._waiting -= 1

    async def match(self, password_hash: str, password: str) -> bool:
        """Say whether the password belongs to the hash."""
        if self._executor is None:
            raise RuntimeError("Passwords is not started: the application's lifespan starts it")
        loop = asyncio.get_running_loop()
        self._checked += 1
        return await loop.run_in_executor(self._executor, self._verify, password_hash, password)

    def snapshot(self) -> PasswordsSnapshot:
        """Return numbers; no I/O."""
        return PasswordsSnapshot(self._waiting, self._queue_limit, self._checked, self._refused)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    def _refuse(self, why: str) -> None:
        self._refused += 1
        raise Overloaded(why, retry_after=2.0)
