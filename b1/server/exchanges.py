"""Requests and answers of one connection: uvicorn's protocol, with less work for each of them.

What is stored may be answered at once: without a task, a scope or a cycle, in the same call in which the parser saw the
end of the head. Every other request gets the scope that uvicorn would give it.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from contextvars import copy_context
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from b1.admission import ARRIVED_KEY, LINE_KEY, Line
from b1.asgi.express import EXPRESS_STATE, Answer, Express, Undone
from b1.asgi.middleware.limiter import DECIDED
from b1.server.cycle import ANSWERED, B1Cycle, Waiting
from b1.server.heads import parsed_head

# A timer fires up to a tick of the loop's clock early.
_SOON_S = 0.01


class Exchanges(HttpToolsProtocol):
    """The part of the protocol that begins requests and ends answers."""

    _line: Line

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._express: Express | None = app_state.get(EXPRESS_STATE)
        self._came_s = 0.0
        self._decided: Any = None  # about a request whose head was known; the parser sees it next
        # A request begins in this one and not in that of the request before it, or of whoever else gets it going: with a
        # context go a deadline, an open transaction, and whose request it is.
        self._context = copy_context()
        self._idle_since_s: float | None = None
        self._looks_idle_at_s = 0.0
        self._messages = 0
        self._is_between_messages = False  # when the present piece came
        self._is_short = False  # the message that the parser saw last went the short way
        self.url = b""  # until the parser has seen a request, which may be never
        self.headers: list[tuple[bytes, bytes]] = []

    # From the parser

    def on_message_begin(self) -> None:
        """Forget the request before; a scope is made when somebody wants one."""
        self._messages += 1
        self._is_short = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def begin_request(self, arrived_s: float) -> None:
        """Answer the request whose head is complete, or have the application do it.

        Args:
            arrived_s: when its bytes came, on the monotonic clock.
        """
        if self.cycle is ANSWERED and self.transport.is_closing():
            return  # the answer before said that it is the last: what follows has no effect, and the client may repeat it
        parser = self.parser
        is_upgrade = parser.should_upgrade() and self._should_upgrade()
        express, decision = self._express, self._decided
        self._decided = None
        if (
            express is not None
            and decision is None
            and not is_upgrade
            and parser.get_method() == b"GET"
            and self._is_between()
        ):
            self._came_s = arrived_s
            try:
                answer = express.answer(self.url, self.headers, self.client, self.scheme or "http", self._wait)
            except Exception:  # noqa: BLE001 - counted and logged there
                express.failed()
                answer = None
            if type(answer) is Answer:
                self._is_short = True
                self._send_at_once(answer)
                self.cycle = ANSWERED
                self.on_response_complete()
                return
            if type(answer) is Undone:
                decision = answer.decision  # it is charged once, whoever answers
            elif answer is not None:
                self._is_short = True
                return
        version = parser.get_http_version()
        self.scope = self._make_scope(self.url, self.headers, arrived_s, parser.get_method().decode("ascii"), version)
        if decision is not None:
            cast("Any", self.scope)[DECIDED] = decision
        if not is_upgrade:
            before = self.cycle
            # HTTP/1.0 keeps a connection only where the answer says so, and ours never does.
            self.cycle = cycle = self._make_cycle(self.scope, version != "1.0" and parser.should_keep_alive())
            if before is None or before.response_complete:
                self._start_asgi_task(cycle, cast("Any", self.app))
            else:
                self.flow.pause_reading()
                self.pipeline.appendleft((cycle, cast("Any", self.app)))

    def _is_between(self) -> bool:
        """Say whether this request may be answered right now: none is before it, and the connection stays open."""
        cycle, parser = self.cycle, self.parser
        if (cycle is not None and not cycle.response_complete) or self.pipeline or self.flow.write_paused:
            return False
        return parser.get_http_version() == "1.1" and parser.should_keep_alive()

    def begin_again(self, data: bytes, arrived_s: float) -> bool:
        """Answer a request whose head came before, byte for byte, without parsing it; say whether that was possible.

        Args:
            data: the whole request, between two others.
        """
        express, cycle = self._express, self.cycle
        self._is_between_messages = cycle is None or not cycle.more_body
        if express is None or self.transport.is_closing() or self.pipeline or self.flow.write_paused:
            return False
        if not self._is_between_messages or (cycle is not None and not cycle.response_complete):
            return False
        self._came_s = arrived_s
        try:
            answer = express.again(data, self.client, self.scheme or "http", self._wait)
        except Exception:  # noqa: BLE001 - counted and logged there
            express.failed()
            return False
        if type(answer) is Undone:
            self._decided = answer.decision  # it is charged once, whoever answers
            return False
        if type(answer) is Answer:
            self._send_at_once(answer)
            self.cycle = ANSWERED
            self.on_response_complete()
            return True
        if answer is None:
            return False
        waiting = cast("Waiting", answer)
        waiting.head, waiting.more_body = data, False
        return True

    def _learn(self, data: bytes) -> None:
        """Keep what was found out about a request that was these bytes, if it went the short way.

        Nothing of them was the rest of a body that was answered before it had come, and nobody else's request was the
        last that was answered.
        """
        if self._express is not None and self._is_short and self._is_between_messages:
            self._express.keep(data)

    def _wait(self) -> Waiting:
        waiting = Waiting(self, self.url, self.headers, self._came_s)
        self.cycle = cast("Any", waiting)
        return waiting

    def go_on(self, waiting: Waiting, answer: Answer | None, decision: Any) -> None:
        """Send the answer that had to wait, or have the application make it."""
        if self.transport.is_closing():
            return
        if answer is not None:
            self._send_at_once(answer, is_last=not waiting.keep_alive)
            self.on_response_complete()
            return
        url, headers = (waiting.url, waiting.headers) if waiting.head is None else parsed_head(waiting.head)
        scope = self._make_scope(url, headers, waiting.arrived_s, "GET", "1.1")
        if decision is not None:
            scope[DECIDED] = decision
        cycle = self._make_cycle(scope, waiting.keep_alive)
        cycle.waiting_for_100_continue = False  # what the parser saw last is another request
        cycle.more_body = False
        cycle.message_event.set()
        if cast("Any", self.cycle) is waiting:  # else it is that of a request which came meanwhile, and waits
            self.cycle = cycle
        self._context.run(self._start_asgi_task, cycle, cast("Any", self.app))

    def _make_scope(
        self, target: bytes, headers: list[tuple[bytes, bytes]], arrived_s: float, method: str, version: str
    ) -> Any:
        url = httptools.parse_url(target)
        raw_path = url.path
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        root_path = self.root_path
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": root_path,
            "headers": headers,
            "state": self.app_state.copy(),
            "method": method,
            "path": root_path + path,
            "raw_path": root_path.encode("ascii") + raw_path,
            "query_string": url.query or b"",
            LINE_KEY: self._line,
            ARRIVED_KEY: arrived_s,
        }

    def _make_cycle(self, scope: Any, keep_alive: bool) -> B1Cycle:
        return B1Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def _send_at_once(self, answer: Answer, *, is_last: bool = False) -> None:
        """Write an answer; end the connection where that is wished here, or said in every answer since a stop began."""
        parts, is_said = [answer.head], False
        for name, value in self.server_state.default_headers:
            parts += name, b": ", value, b"\r\n"
            is_said |= name == b"connection"
        parts += b"connection: close\r\n\r\n" if is_last and not is_said else b"\r\n", answer.body
        self.transport.write(b"".join(parts))
        if is_last or is_said:
            self.transport.close()

    # Idle connections

    def on_response_complete(self) -> None:
        """Start the next request, or the time that the connection may be idle."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._context.run(self._start_asgi_task, *self.pipeline.pop())
            return
        now_s = self._idle_since_s = self.loop.time()
        until_s = now_s + self.timeout_keep_alive
        if self.timeout_keep_alive_task is not None:
            if self._looks_idle_at_s <= until_s:
                return  # it fires in time, and looks again
            self.timeout_keep_alive_task.cancel()  # idle connections are closed sooner than when it was set
        self._look_idle_in(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """Something came. The timer stays: setting one for each answer costs more than looking again when it fires."""
        self._idle_since_s = None

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for so long, else look again."""
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None or self.transport.is_closing():
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= _SOON_S:
            self.transport.close()
        else:
            self._look_idle_in(left_s)

    def _look_idle_in(self, delay_s: float) -> None:
        self._looks_idle_at_s = self.loop.time() + delay_s
        self.timeout_keep_alive_task = self.loop.call_later(delay_s, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
