"""From a URL to a connection that is ready for work: redis-py's connection layer, without its pool and its retries.

The socket gets a TCP user timeout: the kernel ends a connection whose peer is gone, while one to a server that merely
does not answer (suspended, swapping, in a long script) lives on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from b1.errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

_PEER_GONE_MS = 3000


class Opener:
    """Makes connections to one server.

    Args:
        url: ``redis://``, ``rediss://`` (verified) or ``unix://``; may hold a password, so it is never shown.
        client_name: as `CLIENT LIST` shows it.
        connect_timeout_s: for name, TCP and TLS.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(self, url: str, *, client_name: str, connect_timeout_s: float) -> None:
        self._protocol = 3
        try:
            self._kind, self._options = _options_of(url)
            self._options |= {"client_name": client_name, "socket_connect_timeout": connect_timeout_s}
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

    async def open(self, *, handshake_limit_s: float, scripts: Iterable[str]) -> tuple[AbstractConnection, int]:
        """Connect, shake hands, load `scripts`; return the connection and the server's id for it.

        Raises:
            OSError, redis.RedisError: it did not work; nothing is left open.
        """
        from redis.exceptions import ResponseError

        connection = self._make()
        try:
            async with asyncio.timeout(handshake_limit_s):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated
                client_id = await _prepare(connection, scripts)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, ResponseError) and ("unknown command" in str(error) or "NOPROTO" in str(error)):
                self._protocol = 2  # for the next attempt
            raise
        return connection, client_id

    def _make(self) -> AbstractConnection:
        return self._kind(protocol=self._protocol, **self._options)


def socket_fd(connection: AbstractConnection) -> int:
    """Return the descriptor of the connection's socket, -1 when there is none."""
    # redis-py offers no public way to its transport, and forked children must not keep this descriptor.
    writer = connection._writer
    found = writer.get_extra_info("socket") if writer is not None else None
    return found.fileno() if found is not None else -1


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


async def _prepare(connection: AbstractConnection, scripts: Iterable[str]) -> int:
    from redis.exceptions import ResponseError

    sources = list(scripts)
    commands = [("SCRIPT", "LOAD", source) for source in sources]
    packed = connection.pack_commands([("CLIENT", "ID"), *commands])
    await connection.send_packed_command(packed, check_health=False)
    client_id = 0
    with contextlib.suppress(ResponseError):  # a server may forbid CLIENT; the id is for the slot's record only
        client_id = int(await connection.read_response())
    for _ in sources:
        with contextlib.suppress(ResponseError):  # loading, or forbidden: each call heals a missing script by itself
            await connection.read_response()
    return client_id
