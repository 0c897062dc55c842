"""Who of many tenants is next in one class: the one that holds the fewest connections, then the one that used the least.

Start-time fair queueing (Goyal, Vin, Cheng 1996) on connection time, with one rule in front of it: a tenant that holds no
connection goes before one that does. The length of a query is known only at its end, so the tag of a tenant grows then;
without the first rule a tenant of long queries could take every connection before its first one is charged.

Each tenant has a tag: the connection time it has used, in seconds, never behind the tag of whoever was served last, so that
nobody saves up by staying away. Callers without a tenant share one line, like a tenant of their own.

A full class makes room for a tenant that waits less: the newest caller of the longest line is turned away (longest queue
drop), so that no tenant has to wait outside while another one fills the queue.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from b1.errors import DatabaseBusy

if TYPE_CHECKING:
    from b1.db.session import Session

Class = Literal["errand", "critical", "web", "background"]
Rank = tuple[int, float, int, "Account"]


class Waiter:
    """One caller in the queue. `future` gets a session, or the error that ends the wait.

    `account` is set when the waiter is added to a class, and is charged once it is served.
    """

    __slots__ = ("account", "deadline_s", "future", "priority", "since_s", "tenant")

    def __init__(
        self,
        future: asyncio.Future[Session],
        priority: Class,
        since_s: float,
        deadline_s: float,
        tenant: str | None = None,
    ) -> None:
        self.future = future
        self.priority = priority
        self.since_s = since_s
        self.deadline_s = deadline_s
        self.tenant = tenant
        self.account: Account | None = None


class Account:
    """What one tenant waits for, holds and has used in one class. Written by its `FairLine` alone.

    Attributes:
        held: connections it has now.
        used_s: its tag, see the module.
        rank: its place among those that wait; None when it does not.
    """

    __slots__ = ("_line", "held", "rank", "used_s", "waiters")

    def __init__(self, line: FairLine) -> None:
        self._line = line
        self.held = 0
        self.used_s = 0.0
        self.rank: Rank | None = None
        self.waiters: deque[Waiter] = deque()

    def end(self, held_s: float) -> None:
        """Hear that it gave a connection back after `held_s` seconds."""
        self.held -= 1
        self.used_s += held_s
        if self.waiters:
            self._line._rank(self)


class FairLine:
    """The callers of one class.

    Args:
        limit: how many may wait; one tenant may have half of them while others wait too.
    """

    def __init__(self, limit: int) -> None:
        self.waiting = 0
        self._limit = limit
        self._accounts: dict[str | None, Account] = {}
        self._ranks: list[Rank] = []
        self._served_s = 0.0  # the tag of whoever was served last: the virtual time
        self._added = 0

    def __repr__(self) -> str:
        return f"<FairLine waiting={self.waiting} tenants={len(self._accounts)}>"

    def __iter__(self) -> Iterator[Waiter]:
        for account in self._accounts.values():
            yield from account.waiters

    @property
    def held(self) -> int:
        """Connections in use in this class."""
        return sum(account.held for account in self._accounts.values())

    def begin(self, tenant: str | None) -> Account:
        """Serve a caller of `tenant` that did not have to wait; `Account.end` when it is done."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._open(tenant)
        if account.used_s < self._served_s:
            account.used_s = self._served_s
        else:
            self._served_s = account.used_s
        account.held += 1
        return account

    def ahead_of(self, tenant: str | None) -> int:
        """Return how many callers of this class, at most, will be served before a new one of `tenant`."""
        account = self._accounts.get(tenant)
        own = 0 if account is None else len(account.waiters)
        others = 0
        for other in self._accounts.values():
            if other is not account:
                others += min(len(other.waiters), own + 1)
        return own + others

    def add(self, waiter: Waiter) -> Waiter | None:
        """Let `waiter` wait; return whoever has to go for it.

        Raises:
            DatabaseBusy: the class is full, or `waiter`'s tenant has its share of it.
        """
        account = self._accounts.get(waiter.tenant) or self._open(waiter.tenant)
        own = len(account.waiters)
        pushed_out: Waiter | None = None
        if self.waiting >= self._limit:
            pushed_out = self._make_room(own)
        elif self.waiting > own and own >= max(1, self._limit // 2):
            raise DatabaseBusy(f"{own} callers of one tenant wait for a database connection already")
        waiter.account = account
        account.waiters.append(waiter)
        self.waiting += 1
        if not own:
            account.used_s = max(account.used_s, self._served_s)
            self._rank(account)
        return pushed_out

    def remove(self, waiter: Waiter) -> bool:
        """Forget `waiter`; False when it does not wait any more."""
        account = waiter.account
        if account is None:
            return False
        try:
            account.waiters.remove(waiter)
        except ValueError:
            return False
        self.waiting -= 1
        if not account.waiters:
            account.rank = None
        return True

    def next(self) -> Waiter | None:
        """Take out whoever is next, and count its connection as held."""
        while self._ranks:
            rank = heapq.heappop(self._ranks)
            account = rank[3]
            if account.rank is not rank:
                continue  # an older rank of a tenant that has a newer one, or waits no more
            waiter = account.waiters.popleft()
            self.waiting -= 1
            self._served_s = max(self._served_s, account.used_s)
            account.held += 1
            account.rank = None
            if account.waiters:
                self._rank(account)
            return waiter
        return None

    def clear(self) -> None:
        """Forget everybody who waits."""
        for account in self._accounts.values():
            account.waiters.clear()
            account.rank = None
        self._ranks.clear()
        self.waiting = 0

    def _rank(self, account: Account) -> None:
        self._added += 1
        account.rank = (account.held, account.used_s, self._added, account)
        heapq.heappush(self._ranks, account.rank)
        if len(self._ranks) > 2 * self.waiting + 64:
            self._ranks = [one.rank for one in self._accounts.values() if one.rank is not None]
            heapq.heapify(self._ranks)

    def _make_room(self, own: int) -> Waiter:
        longest = max(self._accounts.values(), key=lambda account: len(account.waiters))
        if len(longest.waiters) < own + 2:
            raise DatabaseBusy(f"{self.waiting} callers wait for a database connection already")
        waiter = longest.waiters.pop()
        self.waiting -= 1
        return waiter

    def _open(self, tenant: str | None) -> Account:
        if len(self._accounts) >= 2 * self._limit + 16:
            self._forget_idle()
        account = self._accounts[tenant] = Account(self)
        return account

    def _forget_idle(self) -> None:
        """Drop tenants that neither wait nor hold: those that owe nothing, and if that is too few, all of them."""
        for only_even in (True, False):
            for tenant, account in list(self._accounts.items()):
                if not account.held and not account.waiters and (account.used_s <= self._served_s or not only_even):
                    del self._accounts[tenant]
            if len(self._accounts) < self._limit + 16:
                return
