"""What the server can do, asked once per connection and shown in the snapshot.

`HELLO` without arguments tells everything on servers that know RESP3; older ones and proxies are asked with `INFO`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Server:
    """What answered.

    Attributes:
        name: ``redis``, ``valkey``, or what it calls itself.
        version: as it says, empty when it does not.
        protocol: 3, or 2 in the poorer mode: no pushes, so nothing is heard of other processes' invalidations.
        mode: ``standalone``, ``cluster`` or ``sentinel``.
        is_read_only: a replica; writes will fail.
        has_functions: `FCALL` is known.
        has_pushes: it tells without being asked; needs RESP3, and the right to subscribe where channels were named.
    """

    name: str = "unknown"
    version: str = ""
    protocol: int = 2
    mode: str = "standalone"
    is_read_only: bool = False
    has_functions: bool = False
    has_pushes: bool = False


QUESTIONS: tuple[tuple[str, ...], ...] = (("HELLO",), ("COMMAND", "INFO", "FCALL"))
OLDER_QUESTIONS: tuple[tuple[str, ...], ...] = (("INFO", "server"), ("INFO", "replication"))


def server_of(hello: Any, fcall: Any, protocol: int) -> Server | None:
    """Understand the answers to `QUESTIONS`; None when the server has to be asked with `OLDER_QUESTIONS`."""
    facts = _map(hello)
    if facts is None:
        return None
    return Server(
        name=facts.get("server", "unknown"),
        version=facts.get("version", ""),
        protocol=protocol,
        mode=facts.get("mode", "standalone"),
        is_read_only=facts.get("role") == "replica",
        has_functions=_knows(fcall),
    )


def older_server_of(server: Any, replication: Any) -> Server:
    """Understand the answers to `OLDER_QUESTIONS`; whatever is missing stays unknown."""
    facts = _lines(server) | _lines(replication)
    name = "valkey" if "valkey_version" in facts else "redis" if "redis_version" in facts else "unknown"
    return Server(
        name=name,
        version=facts.get(f"{name}_version", ""),
        mode=facts.get("redis_mode", "standalone"),
        is_read_only=facts.get("role") == "slave" and facts.get("slave_read_only", "1") == "1",
    )


def role_of(reply: Any, server: Server) -> Server:
    """Return what is known after an answer to `ROLE`."""
    is_replica = isinstance(reply, list) and bool(reply) and reply[0] == b"slave"
    return replace(server, is_read_only=is_replica)


def _map(hello: Any) -> dict[str, str] | None:
    if isinstance(hello, dict):
        pairs: Iterable[tuple[Any, Any]] = hello.items()
    elif isinstance(hello, list) and len(hello) % 2 == 0 and hello:
        pairs = zip(hello[::2], hello[1::2], strict=True)
    else:
        return None
    return {_text(name): _text(value) for name, value in pairs}


def _lines(info: Any) -> dict[str, str]:
    lines = (line.partition(":") for line in _text(info).splitlines()) if isinstance(info, bytes) else ()
    return {name: value for name, found, value in lines if found}


def _knows(command_info: Any) -> bool:
    return isinstance(command_info, list) and bool(command_info) and bool(command_info[0])


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
