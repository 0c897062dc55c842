"""One run of a handler whose answer may be stored: collects it, stores it, and sends it on.

An answer of known length is held back until it is whole, so that it leaves with its ETag and encoding; one that comes in
pieces of unknown number is sent as it comes, and stored when it ended within the bound. An event stream just passes.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from b1.asgi.caching.conditional import FAILED, NOT_MODIFIED, is_conditional, is_tag
from b1.asgi.caching.conditional import judge as judge_conditions
from b1.asgi.caching.directives import Fields, fields_of
from b1.asgi.caching.flights import Flight, Landing
from b1.asgi.caching.freshness import Freshness, Unstorable
from b1.asgi.caching.freshness import judge as judge_freshness
from b1.asgi.caching.making import vary_of
from b1.asgi.caching.sending import send_answer, send_condition_failed, with_status
from b1.asgi.caching.stored import StoredAnswer, encoded_etag, modified_of
from b1.types import ASGIApp, Headers, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from b1.asgi.caching.lookup import Lookup
    from b1.asgi.caching.service import ResponseCache
    from b1.asgi.context import RequestContext

_SERVER_ERROR = 500
_DIGITS_MOST = 19
# Of an answer that left before its ETag was known.
_UNKEPT = b"private, no-cache"
_NOT_MODIFIED_KEEPS = frozenset({b"cache-control", b"content-location", b"expires", b"etag", b"vary", b"date"})


class _Phase(enum.Enum):
    START = enum.auto()  # nothing has come
    HOLDING = enum.auto()  # the body is collected, nothing is sent
    STREAMING = enum.auto()  # it is sent and collected
    PASSING = enum.auto()  # it is sent
    PACKING = enum.auto()  # the body of an answer that is not stored is collected, to be compressed
    DROPPING = enum.auto()  # the client got another answer


class Load:
    """The run.

    Args:
        send: to the client; None in the background.
        flight: who waits for the answer; None: nobody.
        refusal: why the request does not allow that its answer is stored.
        status: the beginning of Cache-Status.
    """

    def __init__(
        self,
        responses: ResponseCache,
        lookup: Lookup,
        scope: Scope,
        context: RequestContext,
        send: Send | None,
        *,
        flight: Flight | None = None,
        refusal: str | None = None,
        status: bytes = b"b1; fwd=uri-miss",
    ) -> None:
        self._responses = responses
        self._lookup = lookup
        self._scope = scope
        self._context = context
        self._client = send
        self._flight = flight
        self._refusal = refusal
        self._cache_status = status
        self._phase = _Phase.START
        self._start: Message = {}
        self._headers: Headers = []
        self._fields: Fields = {}
        self._fresh: Freshness | None = None
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._encoding: bytes | None = None
        self.status = 0
        self.is_kept = False

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        """Run the handler on the request as it may see it."""
        scope = self._lookup.plan.scope_of_load(self._scope, self._context.principal)
        scope["extensions"] = {}  # whole bodies come as bytes, not as names of files
        try:
            await app(scope, receive, self._collect)
        except Exception:
            if self._phase in (_Phase.START, _Phase.HOLDING, _Phase.PACKING):
                await self._fall_back(_SERVER_ERROR)
            raise  # who watches over errors hears of it, whatever the client got
        finally:
            self._end()

    async def _collect(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body":
            await self._continue(message)
        elif self._phase in (_Phase.PASSING, _Phase.STREAMING):
            await self._forward(message)

    async def _begin(self, message: Message) -> None:
        self._start = message
        self.status = message["status"]
        self._headers = list(message.get("headers", ()))
        self._fields = fields_of(self._headers)
        if self.status >= _SERVER_ERROR and await self._fall_back(self.status):
            return
        verdict = self._judged()
        if isinstance(verdict, Freshness):
            self._fresh = verdict
            self._phase = _Phase.HOLDING
            return
        self._refuse(verdict.reason)
        await self._pass(verdict.reason)

    def _judged(self) -> Freshness | Unstorable:
        if self._refusal is not None:
            return Unstorable(self._refusal)
        if not self._context.storable:
            return Unstorable("error")
        length = self._length()
        if length is not None and length > self._responses.options.answer_limit_bytes:
            return Unstorable("size")
        return judge_freshness(
            self.status,
            self._fields,
            self._lookup.plan,
            has_principal=self._context.principal is not None,
            wall_s=self._responses.wall_s(),
        )

    async def _continue(self, message: Message) -> None:
        phase = self._phase
        if phase is _Phase.PASSING:
            await self._forward(message)
            return
        if phase is _Phase.DROPPING or phase is _Phase.START:
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        limit_bytes = self._responses.options.answer_limit_bytes
        self._held_bytes += len(body)
        if phase is not _Phase.STREAMING or self._held_bytes <= limit_bytes:
            self._chunks.append(body)
        if phase is _Phase.STREAMING:
            await self._forward(message)
            if not more:
                await self._keep_streamed()
        elif self._held_bytes > limit_bytes:
            self._refuse("size")
            await self._let_go(more=more)
        elif not more:
            await (self._send_packed() if phase is _Phase.PACKING else self._finish())
        elif self._length() is None:
            self._phase = _Phase.STREAMING
            headers = with_status(self._headers, self._cache_status)
            if b"cache-control" not in self._fields:
                headers.append((b"cache-control", _UNKEPT))
            await self._forward({**self._start, "headers": headers})
            await self._forward(message)

    async def _finish(self) -> None:
        """The whole answer is there: store it and send it."""
        length = self._length()
        if length is not None and length != self._held_bytes:
            self._refuse("length")
            await self._let_go(more=False)
            return
        answer, packed = await self._make(b"".join(self._chunks))
        self._chunks.clear()
        self._keep(answer, packed)
        self._phase = _Phase.DROPPING
        if self._client is None:
            return
        status = self._cache_status + (b"; stored" if self.is_kept else b"")
        variant = answer.choose(self._responses.preferences.of(self._context.fields.get(b"accept-encoding")))
        await send_answer(
            self._client, self._scope, self._context, answer, packed, variant, self._responses.now_s(), status,
            is_reused=False,
        )  # fmt: skip

    async def _keep_streamed(self) -> None:
        """The end of an answer that was sent as it came."""
        self._phase = _Phase.DROPPING
        if self._held_bytes > self._responses.options.answer_limit_bytes:
            self._refuse("size")
            return
        answer, packed = await self._make(b"".join(self._chunks))
        self._chunks.clear()
        self._keep(answer, packed)

    def _keep(self, answer: StoredAnswer, body: bytes) -> None:
        self.is_kept = self._responses.keep(self._lookup, answer, body)
        if self._flight is not None:
            self._flight.land((answer, body))

    def _refuse(self, reason: str) -> None:
        """Nobody else will get this answer."""
        self._responses.count_unstorable(reason)
        if self._flight is None:
            return
        if self.status >= _SERVER_ERROR:
            self._flight.land(Landing.AGAIN)
        else:
            self._responses.flights.note_alone(self._lookup.key, self._responses.now_s())
            self._flight.land(Landing.ALONE)

    async def _make(self, body: bytes) -> tuple[StoredAnswer, bytes]:
        assert self._fresh is not None
        responses, fields = self._responses, self._context.fields
        return await responses.maker.answer(
            self._lookup.plan,
            self.status,
            self._headers,
            self._fields,
            body,
            self._fresh,
            tags=self._lookup.versions.tags,
            preferences=responses.preferences.of(fields.get(b"accept-encoding")),
            now_s=responses.now_s(),
        )

    async def _pass(self, reason: str) -> None:
        """Send an answer on that is not stored: with its own ETag it may still be a 304, and compressed."""
        self._phase = _Phase.PASSING
        if self._client is None:
            return
        status = self._cache_status + b"; detail=" + reason.encode()
        outcome = self._outcome()
        if outcome == FAILED:
            self._phase = _Phase.DROPPING
            await send_condition_failed(self._client, self._scope, self._context, status)
        elif outcome == NOT_MODIFIED:
            self._phase = _Phase.DROPPING
            kept = [pair for pair in self._headers if pair[0].lower() in _NOT_MODIFIED_KEEPS]
            await self._forward({**self._start, "status": outcome, "headers": with_status(kept, status)})
            await self._forward({"type": "http.response.body", "body": b""})
        else:
            self._start = {**self._start, "headers": with_status(self._headers, status)}
            self._encoding = self._wanted_encoding()
            if self._encoding is not None:
                self._phase = _Phase.PACKING
            else:
                await self._forward(self._start)

    def _outcome(self) -> int:
        etag = self._fields.get(b"etag", ())
        if self.status != 200 or len(etag) != 1 or not is_tag(etag[0]) or not is_conditional(self._context.fields):
            return 200
        return judge_conditions(self._scope["headers"], etag[0], modified_of(self._fields))

    def _wanted_encoding(self) -> bytes | None:
        length = self._length()
        if length is None or length > self._responses.options.answer_limit_bytes or self._scope["method"] != "GET":
            return None
        if not self._responses.maker.may_compress(self._lookup.plan, self._fields, length):
            return None
        preferred = self._responses.preferences.of(self._context.fields.get(b"accept-encoding"))
        return preferred[0] if preferred else None

    async def _send_packed(self) -> None:
        body = b"".join(self._chunks)
        self._phase = _Phase.PASSING
        assert self._encoding is not None
        packed = await self._responses.maker.compressor.compress(body, self._encoding)
        if packed is not None:
            headers: Headers = [
                (name, encoded_etag(value, self._encoding))
                if name.lower() == b"etag" and is_tag(value)
                else (name, value)
                for name, value in self._start["headers"]
                if name.lower() not in (b"content-length", b"vary")
            ]
            vary = vary_of(self._lookup.plan, self._fields, is_compressible=True)
            headers += (
                (b"content-length", b"%d" % len(packed)), (b"content-encoding", self._encoding), (b"vary", vary),
            )  # fmt: skip
            self._start = {**self._start, "headers": headers}
        await self._forward(self._start)
        await self._forward({"type": "http.response.body", "body": body if packed is None else packed})

    async def _let_go(self, *, more: bool) -> None:
        """What was held back is not what it said it was: send it as it is."""
        self._phase = _Phase.PASSING
        await self._forward(self._start)
        await self._forward({"type": "http.response.body", "body": b"".join(self._chunks), "more_body": more})
        self._chunks.clear()

    async def _fall_back(self, status: int) -> bool:
        """Answer with what is stale instead of a failure, if there is such a thing."""
        found, now_s = self._lookup.found, self._responses.now_s()
        if self._client is None or found is None or found.meta.error_until_s <= now_s:
            return False
        self._phase = _Phase.DROPPING
        self._responses.counts.stale_errors += 1
        self._responses.refreshes.pause(self._lookup.key)
        if self._flight is not None:
            self._flight.land((found.meta, found.value))
        self._context.code = None
        variant = found.meta.choose(self._responses.preferences.of(self._context.fields.get(b"accept-encoding")))
        said = b"b1; fwd=stale; fwd-status=%d; detail=stale-if-error" % status
        await send_answer(self._client, self._scope, self._context, found.meta, found.value, variant, now_s, said)
        return True

    def _end(self) -> None:
        if self._flight is not None:
            self._flight.land(Landing.AGAIN)
        if not self.is_kept:
            self._responses.give_up(self._lookup)

    def _length(self) -> int | None:
        """Return the length that the handler announced."""
        lines = self._fields.get(b"content-length", ())
        return int(lines[0]) if len(lines) == 1 and lines[0].isdigit() and len(lines[0]) < _DIGITS_MOST else None

    async def _forward(self, message: Message) -> None:
        if self._client is not None:
            await self._client(message)
