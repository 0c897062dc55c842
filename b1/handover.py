"""What a worker takes over from its predecessor and leaves to its successor: the state in memory, as bytes.

The server carries them (`b1.server.succession`). They never leave the two processes' memory, so a secret may go along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from b1.cache import Warming
from b1.identity import Tokens
from b1.plan import Plan
from b1.settings import Secret
from b1.store.passing import PassingStore
from b1.types import Succession

log = logging.getLogger("b1.runtime")

# Under this name goes the secret that a process made for itself, because development has none: its tokens stay valid.
TOKEN_SECRET = "identity.secret"
# Under this one, what use has taught about what to warm.
WARMING = "cache.warming"

# A drain without a request in work is over in milliseconds; writing down a full store takes some tens of them.
LEAVING_LIMIT_S = 2.0

Own = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]


class HandOver:
    """The runtime's part in a replacement.

    Args:
        tokens: whose secret is passed on; None: the operator has set one.
        own: starts a task that the runtime ends.
        warming: passes on what use has taught.

    Attributes:
        succession: what the server says; None under another server.
    """

    def __init__(
        self, store: PassingStore, plan: Plan, tokens: Tokens | None, own: Own, warming: Warming | None = None
    ) -> None:
        self._store = store
        self._plan = plan
        self._tokens = tokens
        self._own = own
        self._warming = warming
        self._leaving: asyncio.Task[None] | None = None
        self.succession: Succession | None = None
        store.tell_through(lambda: self.has_heir, self._tell)

    def __repr__(self) -> str:
        return f"<HandOver {self.succession!r}>"

    @property
    def is_successor(self) -> bool:
        """Whether there was a predecessor, which may still be there."""
        return self.succession is not None and self.succession.is_successor

    @property
    def has_heir(self) -> bool:
        """Whether a successor is on its way: what it needs of memory and core is about to be free again."""
        return self.succession is not None and self.succession.has_heir

    def _tell(self, data: bytes) -> bool:
        return self.succession is not None and self.succession.tell(data)

    async def predecessor_gone(self) -> None:
        """Wait until the predecessor's process has ended. Bounded."""
        if self.succession is not None:
            await self.succession.predecessor_gone()

    async def take_over(self) -> None:
        """Have the predecessor end, if there is one, and go on from the state that it leaves."""
        succession = self.succession
        if succession is None:
            return
        succession.listen(self._store.hear)
        was_gone = succession.is_predecessor_gone
        await self._absorb(await succession.inherit())
        if not succession.is_successor:
            return
        if was_gone:
            await self._take_rest(succession)
        else:
            self._own(self._take_rest(succession), "b1-take-rest")

    def begin_to_leave(self) -> None:
        """Leave what is in memory now; what the drain still changes follows with `leave`."""
        self._leaving = self._own(self.leave(last=False), "b1-leave-state")

    async def has_begun(self) -> None:
        """Wait until the first part is left: the successor accepts nobody before it has that. Bounded."""
        if self._leaving is not None:
            await asyncio.wait({self._leaving}, timeout=LEAVING_LIMIT_S)

    async def leave(self, *, last: bool) -> None:
        """Leave the state in memory to the successor."""
        succession = self.succession
        if succession is None or not succession.has_heir:
            return
        drain_ms = 0 if last else self._plan.graceful_stop_s * 1000
        extras = {} if self._tokens is None else {TOKEN_SECRET: self._tokens.secret.reveal().encode()}
        if self._warming is not None and (learnt := self._warming.export()):
            extras[WARMING] = learnt
        exported = await self._store.export(
            self._plan.handover_limit_bytes, last=last, drain_ms=drain_ms, extras=extras
        )
        succession.leave(exported.data, last=last)
        log.info("state left", extra={"bytes": len(exported.data), **exported.passed, "leftOut": exported.left_out})

    async def _take_rest(self, succession: Succession) -> None:
        await self._absorb(await succession.inherit_rest())

    async def _absorb(self, data: bytes | None) -> None:
        if not data:
            return
        absorbed = await self._store.absorb(data)
        secret = absorbed.extras.get(TOKEN_SECRET)
        if secret and self._tokens is not None:
            self._tokens.use(Secret(secret.decode()))
        if self._warming is not None:
            self._warming.absorb(absorbed.extras.get(WARMING))
        log.info("state taken over", extra={"bytes": len(data), **absorbed.taken, "refused": absorbed.refused})
