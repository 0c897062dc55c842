"""From a URL to a wire that is ready for work. redis-py resolves, connects, does TLS and shakes hands; then its
connection is taken apart: the transport gets our protocol, and nothing of redis-py stays in the path of a call.

The socket gets a TCP user timeout: the kernel ends a connection whose peer is gone, while one to a server that merely
does not answer (suspended, swapping, in a long script) lives on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from b1.errors import ConfigurationError
from b1.link.credentials import Remembered
from b1.link.replies import Argument, ReplyError
from b1.link.server import OLDER_QUESTIONS, QUESTIONS, Server, older_server_of, server_of
from b1.link.wire import Wire

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

_PEER_GONE_MS = 3000


class Opener:
    """Makes connections to one server.

    Args:
        url: ``redis://``, ``rediss://`` (verified) or ``unix://``; may hold a password, so it is never shown.
        client_name: as `CLIENT LIST` shows it.
        connect_timeout_s: for name, TCP and TLS.
        credentials: instead of what the URL says.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(
        self, url: str, *, client_name: str, connect_timeout_s: float, credentials: Remembered | None = None
    ) -> None:
        self.client_name = client_name
        self.server: Server | None = None
        self._protocol = 3
        self._may_subscribe = True
        try:
            self._kind, self._options = _options_of(url)
            self._options |= {"client_name": client_name, "socket_connect_timeout": connect_timeout_s}
            if credentials is not None:
                self._options |= {"username": None, "password": None, "credential_provider": credentials}
            self._make()
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"REDIS_URL cannot be used ({error})",
                remedy="expected redis://[:password@]host:port/0, rediss://… or unix://…",
            ) from None

    def __repr__(self) -> str:
        return f"Opener({self.address})"

    @property
    def address(self) -> str:
        """Where it connects to, without user and password."""
        path = self._options.get("path")
        return str(path) if path else f"{self._options.get('host', 'localhost')}:{self._options.get('port', 6379)}"

    async def open(
        self,
        wire_of: Callable[[], Wire],
        *,
        limit_s: float,
        scripts: Iterable[str] = (),
        channels: Iterable[str] = (),
    ) -> Wire:
        """Connect, shake hands, load `scripts`, subscribe to `channels`; return the wire.

        Args:
            wire_of: makes the wire; its deadline applies to the preparations.
            limit_s: for everything after the TCP connection.

        Raises:
            OSError, redis.RedisError, StoreUnavailable: it did not work; nothing is left open.
        """
        from redis.exceptions import ResponseError

        connection = self._make()
        wire: Wire | None = None
        try:
            async with asyncio.timeout(limit_s):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated
                wire = wire_of()
                _take_apart(connection, wire)
                server = await _prepare(wire, self._protocol, scripts)
                has_pushes = await self._subscribe(wire, channels)
        except BaseException as error:
            if wire is None:
                await connection.disconnect(nowait=True)
            else:
                wire.end(ConnectionError("it could not be prepared"))
            if isinstance(error, ResponseError) and ("unknown command" in str(error) or "NOPROTO" in str(error)):
                self._protocol = 2  # for the next attempt
            raise
        self.server = replace(server, has_pushes=has_pushes)
        return wire

    def forget(self) -> None:
        """The next server at this address may be a newer one, or know other rights."""
        self._protocol = 3
        self._may_subscribe = True

    async def _subscribe(self, wire: Wire, channels: Iterable[str]) -> bool:
        if self._protocol < 3 or not self._may_subscribe:
            return False
        try:
            for channel in channels:
                await wire.subscribe(channel)
        except ReplyError:
            self._may_subscribe = False  # for the next attempt; the wire is over, see there
            raise
        return True

    def _make(self) -> AbstractConnection:
        return self._kind(protocol=self._protocol, **self._options)


def socket_fd(wire: Wire) -> int:
    """Return the descriptor of the wire's socket, -1 when there is none."""
    found = wire.transport.get_extra_info("socket") if wire.transport is not None else None
    return found.fileno() if found is not None else -1


def _take_apart(connection: AbstractConnection, wire: Wire) -> None:
    # redis-py has no public way to its transport. Its writer is kept beside the wire, because a collected writer closes
    # its transport; its parser and buffers go.
    writer = connection._writer
    if writer is None:
        raise ConnectionError("the server closed the connection during the handshake")
    connection._reader = connection._writer = None
    wire.take_over(writer.transport, keep_alive=writer)  # type: ignore[arg-type]


def _options_of(url: str) -> tuple[type[AbstractConnection], dict[str, Any]]:
    from redis.asyncio.connection import Connection, parse_url
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options: dict[str, Any] = dict(parse_url(url))
    kind = options.pop("connection_class", Connection)
    options |= {
        "retry": Retry(NoBackoff(), 0),  # redis-py's own retries would hide a fault from the breaker
        "socket_timeout": None,  # deadlines belong to the calls; a late reply must not cost the connection
        "health_check_interval": 0,
        "decode_responses": False,
        "driver_info": None,
    }
    if issubclass(kind, Connection):
        options["socket_keepalive_options"] = _keepalive()
    return kind, options


def _keepalive() -> dict[int, int]:
    wanted = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": _PEER_GONE_MS}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


async def _prepare(wire: Wire, protocol: int, scripts: Iterable[str]) -> Server:
    """Ask and tell everything in one flight, while nobody else uses the wire."""
    asked = [_tolerant(wire, ("CLIENT", "ID")), *(_tolerant(wire, question) for question in QUESTIONS)]
    loaded = [_tolerant(wire, ("SCRIPT", "LOAD", source)) for source in scripts]
    client_id, hello, fcall, *_ = await asyncio.gather(*asked, *loaded)
    wire.client_id = client_id if isinstance(client_id, int) else 0
    server = server_of(hello, fcall, protocol)
    if server is None:
        server = older_server_of(*await asyncio.gather(*(_tolerant(wire, question) for question in OLDER_QUESTIONS)))
    return server


async def _tolerant(wire: Wire, command: tuple[Argument, ...]) -> Any:
    # A server may forbid CLIENT, be loading, or know no functions: the answer is for the snapshot, the connection is
    # good without it, and a script that is missing is healed by the call that misses it.
    with contextlib.suppress(ReplyError):
        return await wire.ask(*command)
    return None
