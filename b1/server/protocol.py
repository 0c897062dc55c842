"""HTTP/1.1 on one connection: uvicorn's protocol with bounds on what arrives before there is a request.

uvicorn's own has none: a header of 200 MB is collected, headers may come as slowly as they like, trailers become
headers, bodies may drip and answers wait for ever, and 9000 small requests in one segment become 9000 objects.

The exact size of a head does not matter while it is small, so nothing is measured unless it arrives in more pieces than one
or in a very large one: a common request costs a few comparisons.
"""

from __future__ import annotations

import os
from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from b1.admission import ARRIVALS_STATE, Arrivals, Line
from b1.errors import BodyTooSlow, MalformedRequest, RequestError
from b1.server.arrivals import AgeOf, age_reader, arrived_s
from b1.server.exchanges import Exchanges
from b1.server.heads import HeadLimits, check_head, head_bytes
from b1.server.pace import PaceLimits
from b1.server.refusals import Refusals, answer_bytes
from b1.server.slow_client import SlowClient

# Requests of one connection that wait behind its first. One segment may hold 9000; each costs about 3 KiB.
PIPELINE_LIMIT = 64
# After a refusal the client's bytes are read and dropped for a moment, because closing with unread bytes resets the
# connection and the client would never see the answer.
DROP_LIMIT_BYTES = 2 * 1024 * 1024
DROP_LIMIT_S = 2.0

_USUAL_PACE = PaceLimits()


class B1Protocol(Exchanges):
    """One connection.

    Args:
        limits: shared by all connections.
        refusals: counts what is refused.
        pace: how slowly a body may come and an answer be read.
        arrivals: told what comes, and asked how long an idle connection stays open; by default one for all connections
            that share `app_state`.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
        *,
        limits: HeadLimits,
        refusals: Refusals,
        pace: PaceLimits | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        if arrivals is None:
            arrivals = app_state.get(ARRIVALS_STATE) or Arrivals(float(config.timeout_keep_alive))
        app_state[ARRIVALS_STATE] = self._arrivals = arrivals
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = False  # uvicorn looks at handlers, and builds a line for each request that nobody wants
        self._limits = limits
        self._refusals = refusals
        self._pace = pace or _USUAL_PACE
        self._slow: SlowClient | None = None
        self._awaited: Any = None  # the cycle whose body is being waited for
        self.body_bytes = 0  # of all requests of this connection
        self._timer: TimerHandle | None = None
        self._is_head_open = False
        self._has_advanced = False  # the present piece ended a head or held some body
        self._piece_bytes = 0
        self._pending_bytes = 0  # of earlier pieces, since the head began or anything advanced
        self._hosts = 0
        self._is_deaf = False  # what still comes on this connection is dropped
        self._dropped_bytes = 0
        self._give: Callable[[B1Protocol], None] | None = None
        self._line = Line()
        self._age_of: AgeOf | None = None

    def __repr__(self) -> str:
        what = "deaf" if self._is_deaf else "head" if self._is_head_open else "open"
        return f"<B1Protocol {what} client={self.client} pending={self._pending_bytes}>"

    @property  # type: ignore[override]  # uvicorn says int, and hands it to `call_later`
    def timeout_keep_alive(self) -> float:
        """How long this connection may be idle, in seconds; shorter for all at once when memory is short."""
        return self._arrivals.keep_alive_s

    @timeout_keep_alive.setter
    def timeout_keep_alive(self, seconds: float) -> None:
        """Ignore what uvicorn's constructor sets: the number is the same, until ours changes."""

    # From the transport

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arrivals.events += 1
        self._age_of = age_reader(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._slow is not None:
            self._slow.stop()
            self._slow = None  # it refers to us
        super().connection_lost(exc)
        self._line.lost()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            self._drop(len(data))
            return
        self._arrivals.events += 1
        self._unset_keepalive_if_required()
        is_whole = (
            self._express is not None
            and not self._is_head_open
            and not self._pending_bytes
            and data.endswith(b"\r\n\r\n")
        )
        if is_whole:
            if self.begin_again(data, arrived_s(self._arrivals, self._age_of)):
                if self._timer is not None:
                    self._stop_timer()
                return
            messages = self._messages
        self._has_advanced = False
        self._piece_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(_reason(error))
        except httptools.HttpParserUpgrade:
            self._upgrade()
        else:
            if not self._has_advanced or self._is_head_open or self.cycle.response_complete:
                self._bound_pending()  # otherwise a request is in work, as nearly always
            elif self.cycle.more_body and self.cycle is not self._awaited:
                self._awaited = self.cycle
                self._watch().body_begins(self.cycle)
            if is_whole and self._messages == messages + 1:
                self._learn(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch().sending_waits()

    # To a successor

    def give_through(self, give: Callable[[B1Protocol], None]) -> None:
        """Have `give(self)` called after each answer from now on: the next request would be read here otherwise."""
        self._give = give

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch().sending_waits()
        if self._give is not None:
            self._give(self)

    def descriptor_between(self) -> int | None:
        """Return a copy of the socket's descriptor, the caller's to close, if the connection is between two requests.

        None while a request or its answer is under way. Bytes that the kernel has not given us yet go along.
        """
        cycle, transport = self.cycle, self.transport
        is_between = cycle is None or (cycle.response_complete and not cycle.more_body)
        if not is_between or self._is_head_open or self._pending_bytes or self.pipeline or self._is_deaf:
            return None
        if transport.is_closing() or transport.get_write_buffer_size() or self.scheme == "https":
            return None
        return os.dup(transport.get_extra_info("socket").fileno())

    def forget(self) -> None:
        """Let go of a connection that is somebody else's now."""
        self.transport.abort()

    # From the parser

    def on_message_begin(self) -> None:
        self._is_head_open = True
        self._pending_bytes = 0
        self._hosts = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_head_open:
            return  # a trailer: the application has the headers by now, and they must not change behind its back
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._has_advanced = True
        if self._timer is not None:
            self._stop_timer()
        limits = self._limits
        if len(self.headers) > limits.limit_fields:
            raise limits.too_large()
        if self._pending_bytes + self._piece_bytes > limits.limit_bytes < head_bytes(self.url, self.headers):
            raise limits.too_large()
        if self._hosts != 1 or b"%" in self.url:
            check_head(self.url, self._hosts, self.parser.get_http_version())
        if len(self.pipeline) >= PIPELINE_LIMIT:
            raise MalformedRequest("too many requests wait on this connection")
        self.begin_request(arrived_s(self._arrivals, self._age_of))
        self._is_head_open = False
        self._pending_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._has_advanced = True
        self.body_bytes += len(body)
        super().on_body(body)

    # Bounds

    def _bound_pending(self) -> None:
        """Count what came without getting anywhere, and see to it that a timer runs while a head is awaited."""
        if self._has_advanced:
            self._pending_bytes = 0
        else:
            self._pending_bytes += self._piece_bytes
            has_many_fields = self._is_head_open and len(self.headers) > self._limits.limit_fields
            if has_many_fields or self._pending_bytes > self._limits.limit_bytes:
                self._refuse(self._limits.too_large())
                return
        is_idle = self._idle_since_s is not None  # answered at once: that is the keep-alive timer's
        if self._timer is None and (self._is_head_open or not (is_idle or self._has_open_cycle())):
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self._limits.timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self.flow.read_paused:
            self._wait_for_head()  # we are the ones who do not read: an earlier answer is not out yet
            return
        if self._is_head_open:
            self._note("HEADERS_TOO_SLOW", f"{self._pending_bytes} bytes in {self._limits.timeout_s:g} s")
        elif self.cycle is not None and self.cycle.more_body:
            self._note("BODY_TOO_SLOW", "the rest of a body that was answered before it had come")
        self._is_deaf = True
        if self._has_open_cycle():
            self.cycle.keep_alive = False
        elif not self.transport.is_closing():
            self.transport.close()

    def _watch(self) -> SlowClient:
        if self._slow is None:
            self._slow = SlowClient(self, self._pace)
        return self._slow

    def body_is_too_slow(self) -> None:
        """Give up a request whose body does not come."""
        pace = self._pace
        detail = (
            f"at least {pace.least_bytes_per_s:g} bytes a second are expected, within {pace.grace_s:g} s of silence"
        )
        self._refuse(BodyTooSlow(detail), reason="BODY_TOO_SLOW")

    def answer_is_not_read(self) -> None:
        """Give up a connection whose client does not read: what waits for it is memory of ours."""
        self._note("ANSWER_NOT_READ", f"{self.transport.get_write_buffer_size()} bytes wait")
        self._is_deaf = True
        self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Refusing

    def _refuse(self, error: RequestError, *, reason: str | None = None) -> None:
        """Answer `error` if the connection's order of answers allows it, and end the connection.

        Args:
            reason: under which it is counted; its code where none is given.
        """
        self._is_deaf = True
        self._stop_timer()
        self._note(reason or error.code, str(error))
        if self._is_head_open or self.cycle is None:
            if self._has_open_cycle():
                self.cycle.keep_alive = False  # an earlier request is being answered: that ends well, and then we close
            else:
                self._answer(error)
        elif self.cycle.response_complete or self.cycle.response_started or self.pipeline:
            self.transport.close()  # a broken body, and no place left for an answer to it
        else:
            self.cycle.disconnected = True  # the application learns that its client is gone
            self.cycle.message_event.set()
            self._answer(error)

    def _answer(self, error: RequestError) -> None:
        self.transport.write(answer_bytes(error, self.server_state.default_headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(DROP_LIMIT_S, self.transport.abort)

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > DROP_LIMIT_BYTES:
            self.transport.abort()

    def _upgrade(self) -> None:
        """Hand a WebSocket over; answer any other offer (``h2c``) as what it is, a request, and then close."""
        self._stop_timer()
        if self._should_upgrade():
            if self._slow is not None:
                self._slow.stop()
            self.handle_websocket_upgrade()
            return
        self._is_deaf = True  # what follows the request may not be HTTP/1.1 in the client's eyes
        if self._has_open_cycle():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _has_open_cycle(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _note(self, reason: str, detail: str) -> None:
        self._refusals.note(reason, detail, self.client[0] if self.client else None)


def _reason(error: httptools.HttpParserError) -> RequestError:
    """Return what to answer: our own refusal out of a callback, or the parser's."""
    cause = error.__context__
    if isinstance(cause, RequestError):
        return cause
    if isinstance(error, httptools.HttpParserCallbackError):
        return MalformedRequest("the request's target cannot be read")
    return MalformedRequest(f"this is not HTTP/1.1: {error}")
