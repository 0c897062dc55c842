"""One answer on its way out of an idempotent route: held back until its outcome is certain, then sent.

Whatever is sent after the answer was complete (a deadline's 503, an error page) is dropped: the first complete answer is
the outcome, and it may be committed already.
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from b1.asgi.context import RequestContext
from b1.asgi.reply import send_problem
from b1.idempotency import Answer, Attempt, IdempotencyOutcomeNotStored, Proceed, Record, Refuse, Replay, Verdict

if TYPE_CHECKING:
    from b1.types import Headers, Message, Scope, Send

NOT_STORED = (b"idempotency-stored", b"false")
_NOT_COMPARED = (b"idempotency-payload-compared", b"false")
_REPLAYED, _REPLAYED_TOO = (b"idempotent-replayed", b"true"), (b"x-idempotency-replay", b"true")
_EPOCH = datetime(1970, 1, 1)  # without a zone: it is UTC, and quicker so
_BODYLESS = frozenset({204, 205, 304})


class _Phase(enum.Enum):
    HOLDING = "holding"  # collecting the handler's answer
    SETTLING = "settling"  # the answer is complete and its outcome is being made certain
    PASSING = "passing"  # not storable and settled: the rest goes straight through
    OVER = "over"  # answered, or nobody listens any more


class Exchange:
    """Stands between the application's `send` and the client's. Used by the task that runs the application.

    Args:
        cap_bytes: largest body, with the stored headers, that is held back.
    """

    def __init__(self, send: Send, scope: Scope, attempt: Attempt, cap_bytes: int) -> None:
        self._client = send
        self._scope = scope
        self._context: RequestContext = scope["b1"]
        self._attempt = attempt
        self._cap_bytes = cap_bytes
        self._phase = _Phase.HOLDING
        self._detached = False
        self._start: Message | None = None
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._is_whole = False

    def __repr__(self) -> str:
        return f"<Exchange {self._phase.value} held={self._held_bytes}{' detached' if self._detached else ''}>"

    def detach(self) -> None:
        """Say that nobody listens any more; the outcome is recorded all the same."""
        self._detached = True

    async def send(self, message: Message) -> None:
        """Take one message of the application."""
        if self._phase is _Phase.PASSING:
            await self._forward(message)
        elif self._phase is _Phase.SETTLING:
            await self._deliver(await self._attempt.settle(None))
        elif self._phase is _Phase.HOLDING:
            await self._hold(message)

    async def end(self) -> None:
        """Make sure, after the application returned or failed, that the outcome is decided and the client served."""
        if self._phase is _Phase.HOLDING:
            self._phase = _Phase.SETTLING
            verdict = await self._attempt.settle(None, storable=False)
            if isinstance(verdict, Proceed):  # no answer came: the server has its own word for that
                self._phase = _Phase.OVER
            else:
                await self._deliver(verdict)
        elif self._phase is _Phase.SETTLING:
            await self._deliver(await self._attempt.settle(None))

    async def _hold(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._start = message
            self._chunks.clear()
            self._held_bytes = sum(len(name) + len(value) for name, value in message.get("headers", ()))
            if _is_events(message):  # its first event may be minutes away, and a transaction would wait for it
                await self._pass_on(message)
        elif kind == "http.response.body" and self._start is not None:
            chunk, more = message.get("body", b""), message.get("more_body", False)
            self._chunks.append(chunk)
            self._held_bytes += len(chunk)
            if self._held_bytes > self._cap_bytes or (more and not _has_length(self._start)):
                await self._pass_on(self._start)
                await self._forward({"type": kind, "body": b"".join(self._chunks), "more_body": more})
                self._chunks.clear()
            elif not more:
                await self._complete(self._start)
        elif self._start is not None:  # a file sent by its path, say: nothing that could be stored
            await self._pass_on(self._start)
            await self._forward(message)
        else:
            await self._forward(message)  # such as an early hint, before the answer

    async def _complete(self, start: Message) -> None:
        self._phase = _Phase.SETTLING
        self._is_whole = True
        answer = Answer(start["status"], start.get("headers", []), b"".join(self._chunks))
        await self._deliver(await self._attempt.settle(answer, storable=self._context.storable))

    async def _pass_on(self, start: Message) -> None:
        """Settle an answer that cannot be stored, then let its start through."""
        self._phase = _Phase.SETTLING
        answer = Answer(start["status"], start.get("headers", []), None)
        verdict = await self._attempt.settle(answer, storable=self._context.storable)
        if not isinstance(verdict, Proceed):
            await self._deliver(verdict)
            return
        self._phase = _Phase.PASSING
        await self._forward(_marked(start, verdict))

    async def _deliver(self, verdict: Verdict) -> None:
        if self._phase is not _Phase.SETTLING:
            return
        self._phase = _Phase.OVER
        if self._detached:
            return
        if isinstance(verdict, Replay):
            await send_replay(self._client, verdict.record)
        elif isinstance(verdict, Refuse):
            await send_problem(self._client, verdict.error, self._scope)
        elif self._start is None or not self._is_whole:
            # Cancelled between the commit of an unstorable answer and its first byte: the effect is there, the rest not.
            await send_problem(self._client, IdempotencyOutcomeNotStored(), self._scope)
        else:
            await self._client(_marked(self._start, verdict))
            await self._client({"type": "http.response.body", "body": b"".join(self._chunks)})

    async def _forward(self, message: Message) -> None:
        if not self._detached and self._phase is not _Phase.OVER:
            await self._client(message)


async def send_replay(send: Send, record: Record) -> None:
    """Answer with a stored outcome."""
    headers: Headers = [*record.headers, _REPLAYED, _REPLAYED_TOO, (b"x-original-timestamp", _time(record.original_ms))]
    if b"cache-control" not in [name for name, _ in record.headers]:
        headers.append((b"cache-control", b"no-store"))
    if record.status not in _BODYLESS:
        headers.append((b"content-length", b"%d" % len(record.body)))
    if not record.is_compared:
        headers.append(_NOT_COMPARED)
    await send({"type": "http.response.start", "status": record.status, "headers": headers})
    await send({"type": "http.response.body", "body": record.body})


def _time(wall_ms: int) -> bytes:
    """Return the time as RFC 3339 has it, to the millisecond."""
    moment = _EPOCH + timedelta(milliseconds=wall_ms)
    return (moment.isoformat(timespec="milliseconds") + "Z").encode()


def _marked(start: Message, verdict: Proceed) -> Message:
    if verdict.stored:
        return start
    return {**start, "headers": [*start.get("headers", ()), NOT_STORED]}


def _has_length(start: Message) -> bool:
    """Say whether the whole body can be waited for; without a length it may go on for ever."""
    return any(name.lower() == b"content-length" for name, _ in start.get("headers", ()))


def _is_events(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in start.get("headers", ())
    )
