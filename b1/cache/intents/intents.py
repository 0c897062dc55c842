"""Invalidations tied to writes: the intent is a row in the write's own transaction, applied right after its commit.

A worker that dies between the two leaves the row, and whoever comes next applies it. Applying twice only loads something
twice, so nobody keeps others out while it is done: no connection to Postgres is held while Redis is spoken to.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

from b1.cache.intents import queries
from b1.cache.intents.options import IntentOptions, IntentsSnapshot
from b1.cache.intents.rules import Rules, Stale
from b1.cache.intents.templates import Value
from b1.cache.intents.writes import Database, Riding, Write, as_write, on_commit_of
from b1.clock import DEADLINE, Clock
from b1.errors import RequestError

log = logging.getLogger("b1.cache")

# Begins to make hard and soft tags stale, here at once; the awaitable ends when every process knows.
Apply = Callable[[Sequence[str], Sequence[str]], Awaitable[None]]


class Purging(Protocol):
    """A queue towards a CDN (`b1.purge`)."""

    def put(self, keys: Sequence[str], *, soft: bool = False) -> int:
        """Take surrogate keys to be purged; return a mark for `is_settled`."""
        ...

    def is_settled(self, mark: int) -> bool:
        """Say whether all that was put up to the mark was delivered, or given up."""
        ...


class Intent(NamedTuple):
    """One write's invalidation; `id` None: it has no row."""

    id: UUID | None
    stale: Stale
    purge: tuple[str, ...]


class _Applied(NamedTuple):
    id: UUID
    mark: int  # of the purge queue
    until_s: float  # the row is deleted then, purged or not


class Intents:
    """Writes intents down, applies them, and replays what others left.

    Args:
        rules: what an event makes stale.
        apply: called right after a commit.
        is_shared: whether what `apply` did has reached the store that all processes share; False keeps the rows.
        database: None: there are no rows, invalidation is as safe as the process.
        purge: told after `apply`.
        surrogates: the surrogate keys of tags.
    """

    def __init__(
        self,
        rules: Rules,
        apply: Apply,
        clock: Clock,
        *,
        database: Database | None = None,
        is_shared: Callable[[], bool] = lambda: True,
        purge: Purging | None = None,
        surrogates: Callable[[Sequence[str]], Sequence[str]] = lambda tags: (),
        options: IntentOptions | None = None,
    ) -> None:
        self.rules = rules
        self._apply = apply
        self._clock = clock
        self._database = database
        self._is_shared = is_shared
        self._purge = purge
        self._surrogates = surrogates
        self._options = options or IntentOptions()
        self._has_table: bool | None = None if database is not None else False
        self._look_again_s = 0.0
        # Guarded by the event loop: changed between awaits alone.
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfinished: set[UUID] = set()
        self._applied: deque[_Applied] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._first_replay = asyncio.Event()
        self._recorded = self._counted = self._replayed = self._failed = self._replays = self._errors = 0

    def __repr__(self) -> str:
        return (
            f"<Intents durable={self._has_table} applied={self._counted} replayed={self._replayed} "
            f"undeleted={len(self._applied)}>"
        )

    async def start(self) -> None:
        """Begin to delete and to replay; does not wait for Postgres."""
        if self._database is None:
            self._first_replay.set()
        elif self._runner is None:
            self._runner = asyncio.create_task(self._run(self._database), name="b1-cache-intents")

    async def caught_up(self, limit_s: float) -> bool:
        """Wait until what earlier workers left was applied; False when that takes longer."""
        try:
            async with asyncio.timeout(limit_s):
                await self._first_replay.wait()
        except TimeoutError:
            return False
        return True

    async def aclose(self) -> None:
        """Wait for what is under way, delete the rows of what was applied, and end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._options.flush_s)
        runner, self._runner = self._runner, None
        for task in (*self._tasks, *([runner] if runner is not None else [])):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._database is not None and self._applied:
            try:
                async with asyncio.timeout(self._options.flush_s):
                    while self._applied:
                        await self._delete(self._database, is_last=True)
            except Exception as left:  # noqa: BLE001 - whatever it was, a successor applies them once more
                log.info("cache intents left", extra={"count": len(self._applied), "cause": type(left).__name__})

    async def changed(self, write: Write | None, event: str, /, **parameters: Value | Sequence[Value]) -> None:
        """Say within a write's transaction what it changed; call it before or after the write's own statements.

        Args:
            write: the transaction; None: the change is committed already, or lies elsewhere.

        Raises:
            ValueError, TypeError: as `Rules.tags_for`; the write should not be committed then.
            ConfigurationError: `write` cannot say when it is committed.
            DatabaseUnavailable and its like: of the transaction.
        """
        intent = self._intend(self.rules.tags_for(event, parameters), is_written=write is not None)
        if write is None:
            await self._begin(intent)
            return
        register = on_commit_of(write)
        if await self._is_durable(write):
            await write.execute(queries.INSERT, *self._row(intent))
            self._recorded += 1
        else:
            intent = intent._replace(id=None)
        register(lambda: self._begin(intent))

    def changing(self, write: Write, event: str, /, **parameters: Value | Sequence[Value]) -> Riding:
        """Do what `changed` does in the round trip of the write's own statement.

        ``row = await intents.changing(tx, "entity.updated", id=7).fetchrow("UPDATE … RETURNING …", 7)``. With the
        database itself in place of a transaction the statement is a write of its own: one trip, committed by Postgres.

        Raises:
            ValueError, TypeError, ConfigurationError: as `changed`.
        """
        intent = self._intend(self.rules.tags_for(event, parameters), is_written=True)
        write = as_write(write)
        register = on_commit_of(write)

        async def prepare() -> tuple[Any, ...] | None:
            is_durable = await self._is_durable(write)
            found = intent if is_durable else intent._replace(id=None)
            self._recorded += is_durable
            register(lambda: self._begin(found))
            return self._row(intent) if is_durable else None

        return Riding(write, prepare)

    async def replay(self, *, older_than_s: float = 0.0) -> int:
        """Apply rows that nobody deletes, a batch at a time; return how many there were.

        Raises:
            RequestError: Postgres is busy or away.
        """
        if self._database is None or not self._is_shared():
            return 0
        if self._has_table is not True:
            self._has_table = bool(await self._database.fetchval(queries.HAS_TABLE, priority="background"))
        return await self._replay(self._database, older_than_s) if self._has_table else 0

    def snapshot(self) -> IntentsSnapshot:
        """Return numbers; no I/O."""
        return IntentsSnapshot(
            is_durable=self._has_table,
            recorded=self._recorded,
            applied=self._counted,
            replayed=self._replayed,
            failed=self._failed,
            unfinished=len(self._tasks),
            undeleted=len(self._applied),
            replays=self._replays,
            errors=self._errors,
        )

    def _intend(self, stale: Stale, *, is_written: bool) -> Intent:
        keys = () if self._purge is None else tuple(self._surrogates((*stale.hard, *stale.soft)))
        return Intent(uuid4() if is_written else None, stale, keys)

    def _row(self, intent: Intent) -> tuple[Any, ...]:
        return intent.id, list(intent.stale.hard), list(intent.stale.soft), list(intent.purge), self._options.instance

    async def _is_durable(self, write: Write) -> bool:
        """Say whether there is a table, without which the write must not fail: `b1 migrate` may not have run yet."""
        now_s = self._clock.monotonic()
        if self._has_table is None or (
            self._has_table is False and self._database is not None and now_s >= self._look_again_s
        ):
            self._has_table = bool(await write.fetchval(queries.HAS_TABLE))
            self._look_again_s = now_s + self._options.replay_every_s
            if not self._has_table:
                log.warning("no table of cache intents: run b1 migrate")
        return self._has_table

    async def _begin(self, intent: Intent) -> None:
        """Apply here and at once, and wait a moment for the other processes; the task goes on when that is too long."""
        applying = self._apply(*intent.stale)
        task = asyncio.create_task(self._finish(intent, applying), name="b1-cache-intent")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if intent.id is not None:
            self._unfinished.add(intent.id)
        await asyncio.wait({task}, timeout=self._options.wait_s)

    async def _finish(self, intent: Intent, applying: Awaitable[None]) -> None:
        DEADLINE.set(None)  # the request that wrote may be over; its invalidation is not
        try:
            if await self._arrives(applying):
                self._counted += 1
                self._note_applied(intent)
            else:
                self._failed += 1  # its row stays, and is applied again when the store is there
        finally:
            if intent.id is not None:
                self._unfinished.discard(intent.id)

    async def _arrives(self, applying: Awaitable[None]) -> bool:
        try:
            await applying
        except Exception as error:  # noqa: BLE001 - whatever it was, the row is kept; it was applied in this process
            log.warning("an invalidation did not reach the store", extra={"cause": type(error).__name__})
            return False
        return self._is_shared()

    def _note_applied(self, intent: Intent) -> None:
        mark = 0
        if self._purge is not None and intent.purge:
            mark = self._purge.put(intent.purge, soft=not intent.stale.hard)
        if intent.id is not None and len(self._applied) < self._options.waiting_limit:
            self._applied.append(_Applied(intent.id, mark, self._clock.monotonic() + self._options.purge_s))
            self._news.set()

    # The owner task

    async def _run(self, database: Database) -> None:
        replay_s = 0.0
        while True:
            try:
                if self._clock.monotonic() >= replay_s:
                    await self.replay(older_than_s=self._options.replay_after_s if self._replays else 0.0)
                    self._first_replay.set()
                    replay_s = self._clock.monotonic() + self._options.replay_every_s
                await self._wait(replay_s - self._clock.monotonic())
                await self._delete(database)
            except RequestError:
                self._errors += 1  # busy or away, which the database's own snapshot says
                await asyncio.sleep(self._options.retry_s)
            except Exception:  # the round must outlive what it meets
                self._errors += 1
                log.exception("the round of cache intents failed")
                await asyncio.sleep(self._options.retry_s)

    async def _wait(self, limit_s: float) -> None:
        if not self._applied:
            self._news.clear()
            try:
                async with asyncio.timeout(max(0.0, limit_s)):
                    await self._news.wait()
            except TimeoutError:
                return
        await asyncio.sleep(self._options.linger_s)

    async def _replay(self, database: Database, older_than_s: float) -> int:
        options, found = self._options, 0
        self._replays += 1
        while True:
            rows = await database.fetch(
                queries.TAKE, older_than_s, options.batch, options.instance, options.taken_s, priority="background"
            )
            found += len(rows)
            await self._apply_rows([row for row in rows if row["id"] not in self._unfinished])
            if len(rows) < options.batch or not self._is_shared():
                return found

    async def _apply_rows(self, rows: Sequence[Any]) -> None:
        known = {one.id for one in self._applied}
        left = [row for row in rows if row["id"] not in known]
        if not left:
            return
        hard = tuple(dict.fromkeys(tag for row in left for tag in row["tags"]))
        soft = tuple(dict.fromkeys(tag for row in left for tag in row["soft"] if tag not in hard))
        if not await self._arrives(self._apply(hard, soft)):
            self._failed += 1
            return
        self._replayed += len(left)
        for row in left:
            self._note_applied(Intent(row["id"], Stale(tuple(row["tags"]), tuple(row["soft"])), tuple(row["purge"])))

    async def _delete(self, database: Database, *, is_last: bool = False) -> None:
        """Delete the rows of what was applied and purged."""
        ready = [one for one in list(self._applied)[: self._options.batch] if is_last or self._is_over(one)]
        if not ready:
            return
        await database.execute(queries.DELETE, [one.id for one in ready], priority="background")
        gone = {one.id for one in ready}
        self._applied = deque(one for one in self._applied if one.id not in gone)

    def _is_over(self, one: _Applied) -> bool:
        return self._purge is None or self._purge.is_settled(one.mark) or self._clock.monotonic() >= one.until_s
