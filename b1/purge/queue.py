"""The queue towards one CDN: one task, one call at a time, in no request's way; pauses belong to the receiver.

A key is forgotten only when the receiver took it, refused it by itself, or a day has passed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from b1.clock import Clock
from b1.outbound import Answer, Resolve, Wire, backoff_s, parse_target, retry_after_s
from b1.purge.adapters import Adapter, Batch, Message
from b1.purge.options import PurgeOptions
from b1.purge.waiting import Waiting

log = logging.getLogger("b1.purge")

# What a receiver says about the message itself, whoever sends it again: a key that it does not like, or too many.
_DISLIKED = frozenset({400, 413, 414, 422, 431})
_ASKING_FOR_TIME = frozenset({429, 503})

# Failures in a row and the cause; 0 and "": it works again.
OnTrouble = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class PurgeSnapshot:
    """What the queue says about itself.

    Attributes:
        waiting: keys not delivered, those of the running call left out.
        delivered: keys that the receiver took.
        calls: attempts, whatever came of them.
        failures: attempts that failed.
        refused: keys that the receiver does not like, given up.
        expired: keys that were too old, given up.
        collapsed: how often everything was purged because too many keys waited.
        oldest_s: age of what waits longest.
        failures_in_row: 0 while it works.
        last_failure: its cause; None before the first.
    """

    adapter: str
    waiting: int
    delivered: int
    calls: int
    failures: int
    refused: int
    expired: int
    collapsed: int
    oldest_s: float
    failures_in_row: int
    last_failure: str | None


class PurgeQueue:
    """Purges what is put, in the background.

    Args:
        adapter: the kind of receiver.
        on_trouble: called after so many failures in a row, and when it works again; what it raises is logged.
        allow_private: loopback and private receivers are allowed.
        resolve: name and port to addresses; replaced in tests.
        chance: 0 to 1, for the backoff.

    Raises:
        ValueError: the adapter's URL is none; it is not shown.
    """

    def __init__(
        self,
        adapter: Adapter,
        clock: Clock,
        options: PurgeOptions | None = None,
        *,
        on_trouble: OnTrouble | None = None,
        allow_private: bool = False,
        resolve: Resolve | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._adapter = adapter
        self._clock = clock
        self._options = options or PurgeOptions()
        self._on_trouble = on_trouble
        self._chance = chance
        target = parse_target(adapter.url)
        self._base = target.path.rstrip("/") if target.path != "/" else ""
        self._own_path = target.path
        self._wire = Wire(target, allow_private=allow_private, agent="b1-purge", resolve=resolve)
        self._waiting = Waiting(limit=self._options.queue_limit, batch=adapter.limit, knows_soft=adapter.knows_soft)
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._not_before_s = 0.0
        self._in_row = self._delivered = self._calls = self._failures = self._refused = self._expired = 0
        self._last_failure: str | None = None

    def __repr__(self) -> str:
        return (
            f"<PurgeQueue {self._adapter.name} {self._waiting!r} delivered={self._delivered} failures={self._failures}>"
        )

    async def start(self) -> None:
        """Begin to deliver."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="b1-purge")

    async def aclose(self) -> None:
        """Try what waits once more, for a moment, and end."""
        self._is_stopping = True
        self._not_before_s = 0.0
        self._news.set()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait({task}, timeout=self._options.flush_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if not self._waiting.is_empty:
            log.warning("purges were not delivered", extra={"adapter": self._adapter.name, "count": len(self._waiting)})

    def put(self, keys: Sequence[str], *, soft: bool = False) -> int:
        """Take surrogate keys to be purged, each once; return a mark for `is_settled`. Never waits, never fails.

        Args:
            soft: mark as stale instead of removing, where the receiver can.
        """
        mark = self._waiting.put((key for key in keys if _is_key(key)), self._clock.monotonic(), soft=soft)
        self._news.set()
        return mark

    def put_everything(self) -> int:
        """Have everything purged; return a mark."""
        mark = self._waiting.put_everything(self._clock.monotonic())
        self._news.set()
        return mark

    def is_settled(self, mark: int) -> bool:
        """Say whether all that was put up to the mark was delivered, refused or given up."""
        return mark <= self._waiting.settled

    def snapshot(self) -> PurgeSnapshot:
        """Return numbers; no I/O."""
        return PurgeSnapshot(
            adapter=self._adapter.name,
            waiting=len(self._waiting),
            delivered=self._delivered,
            calls=self._calls,
            failures=self._failures,
            refused=self._refused,
            expired=self._expired,
            collapsed=self._waiting.collapsed,
            oldest_s=self._waiting.oldest_s(self._clock.monotonic()),
            failures_in_row=self._in_row,
            last_failure=self._last_failure,
        )

    async def _run(self) -> None:
        while True:
            if self._waiting.is_empty:
                if self._is_stopping:
                    return
                await self._wait(None)
                await self._wait_for(self._options.linger_s)
            pause_s = self._not_before_s - self._clock.monotonic()
            if pause_s > 0:
                await self._wait_for(pause_s)
                continue
            self._expired += self._waiting.expire(self._clock.monotonic() - self._options.keep_s)
            batch = self._waiting.begin()
            if batch is not None and not await self._attempt(batch) and self._is_stopping:
                return

    async def _attempt(self, batch: Batch) -> bool:
        """Make one call; say whether it went well."""
        self._calls += 1
        try:
            message = await self._message(batch)
            if message is None:
                return self._note_taken()
            answer = await self._wire.post(
                message.body,
                message.headers,
                limit_s=self._options.attempt_timeout_s,
                path=self._base + message.path if message.path else self._own_path,
            )
        except TimeoutError:
            return self._note_failed(f"no answer within {self._options.attempt_timeout_s:g} s")
        except OSError as error:
            return self._note_failed(str(error) or type(error).__name__)
        except Exception as error:  # noqa: BLE001 - a token's function may raise what it likes; it is counted and told
            return self._note_failed(type(error).__name__)
        return self._note_answer(answer)

    async def _message(self, batch: Batch) -> Message | None:
        async with asyncio.timeout(self._options.attempt_timeout_s):
            return await self._adapter.message(batch)

    def _note_answer(self, answer: Answer) -> bool:
        cause = f"status {answer.status}"
        if 200 <= answer.status < 300:
            return self._note_taken()
        if answer.status in _DISLIKED:
            if not self._waiting.halve():
                self._refused += self._waiting.settle()
                log.error("a purge was refused, given up", extra={"adapter": self._adapter.name, "cause": cause})
            self._failures += 1
            self._last_failure = cause
            return True  # go on at once: the receiver works, and what it dislikes is being found
        asked_s = None
        if answer.status in _ASKING_FOR_TIME:
            asked_s = retry_after_s(answer.headers.get("retry-after"), self._clock.wall())
        return self._note_failed(cause, asked_s)

    def _note_taken(self) -> bool:
        self._delivered += self._waiting.settle()
        self._not_before_s = self._clock.monotonic() + self._options.pause_s
        in_row, self._in_row = self._in_row, 0
        if in_row >= self._options.trouble_after:
            self._tell(0, "")
        return True

    def _note_failed(self, cause: str, asked_s: float | None = None) -> bool:
        options = self._options
        self._failures += 1
        self._in_row += 1
        self._last_failure = cause
        pause_s = backoff_s(
            self._in_row, first_s=options.backoff_first_s, max_s=options.backoff_max_s, chance=self._chance()
        )
        pause_s = max(pause_s, min(asked_s or 0.0, options.retry_after_max_s))
        self._not_before_s = self._clock.monotonic() + pause_s
        log.warning(
            "purge not delivered, will be repeated",
            extra={"adapter": self._adapter.name, "cause": cause, "againInS": round(pause_s, 3)},
        )
        if self._in_row == options.trouble_after:
            self._tell(self._in_row, cause)
        return False

    def _tell(self, failures: int, cause: str) -> None:
        if self._on_trouble is None:
            return
        try:
            self._on_trouble(failures, cause)
        except Exception:  # purging goes on whatever is thought of it
            log.exception("the purge queue's trouble handler failed")

    async def _wait_for(self, limit_s: float) -> None:
        """Wait, but no longer than until a stop begins."""
        end_s = self._clock.monotonic() + limit_s
        while not self._is_stopping and (left_s := end_s - self._clock.monotonic()) > 0:
            await self._wait(left_s)

    async def _wait(self, limit_s: float | None) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(limit_s):
                await self._news.wait()
        except TimeoutError:
            return


def _is_key(key: str) -> bool:
    """Say whether a text may stand in a ``Surrogate-Key`` header: visible ASCII, no space, no more than 1 KiB."""
    return 0 < len(key) <= 1024 and key.isascii() and key.isprintable() and " " not in key
