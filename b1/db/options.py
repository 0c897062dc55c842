"""What the database budget is told, and the names that follow from the primary's URL. Imports no asyncpg.

The slot folder is named after host, port and database of the *primary*, so that primary and replicas, whatever role they
are used in, share one set of slots on this host.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

Priority = Literal["critical", "web", "background"]

DEFAULT_PORT = 5432
_SHARED_MEMORY = Path("/dev/shm")
_LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseOptions:
    """Settings of one `Database`.

    Attributes:
        url: ``postgresql://…`` of one host; a secret, never shown by `repr`.
        connections: how many connections the *host* may hold, all processes and replicas together.
        slots_dir: see `slots_directory`; the same for everything that shares the budget.
        role: what this process is; ``application_name`` is ``b1:<role>:<pid>``.
        acquire_timeout_s: the longest wait for a lease; a request's own deadline may be nearer.
        queue_limit: callers that may wait per class; one more is refused at once.
        statement_timeout_s: the server ends a statement after this time.
        answer_grace_s: how much longer than `statement_timeout_s` we wait for a server that does not answer.
        idle_in_transaction_timeout_s: the server ends a session that forgot its transaction for this long.
        lock_timeout_s: the server gives up waiting for a lock after this time; 0 leaves it to `statement_timeout_s`.
        connection_check_ms: how often a busy backend looks whether its client still lives. A slot whose connection
            ended in an unknown way rests for twice this time when nobody can look.
        connect_timeout_s: for one attempt to connect.
        idle_lifetime_s: an unused connection is closed after this time.
        background_wait_s: the longest time that waiting web work keeps background work from its slot.
        background_quantum_s: for how long background work then goes first.
        yield_quantum_s: how long a process keeps its only connection while another process has none.
        statement_cache_size: prepared statements kept per connection.
        silence_s: when the server has owed an answer for so long, it is asked in another way; if it then says nothing
            for `SILENCE_CHECK_S`, it is away since its oldest question.
        tenant_of: tells for whom the current task works, such as an organisation's id; None for nobody. Tenants share
            the connections fairly. Called once per lease, must not wait.
        slow_query_s: a statement that takes as long is logged, without its values; 0 logs none.
        slow_queries_per_minute: lines of that log in any minute.
        statements_kept: texts of statements that are counted at once.
        statements_shown: of these in a snapshot, the dearest first.
    """

    url: str = field(repr=False)
    connections: int = 3
    slots_dir: Path
    role: str = "web"
    acquire_timeout_s: float = 5.0
    queue_limit: int = 200
    statement_timeout_s: float = 15.0
    answer_grace_s: float = 1.0
    idle_in_transaction_timeout_s: float = 10.0
    lock_timeout_s: float = 0.0
    connection_check_ms: int = 200
    connect_timeout_s: float = 5.0
    idle_lifetime_s: float = 240.0
    background_wait_s: float = 5.0
    background_quantum_s: float = 0.05
    yield_quantum_s: float = 0.25
    statement_cache_size: int = 128
    silence_s: float = 5.0
    tenant_of: Callable[[], str | None] | None = field(default=None, repr=False)
    slow_query_s: float = 0.5
    slow_queries_per_minute: int = 10
    statements_kept: int = 256
    statements_shown: int = 10

    def session_settings(self) -> dict[str, str]:
        """Return the Postgres settings each connection starts with, `client_connection_check_interval` excepted."""
        settings = {
            "application_name": f"b1:{self.role}:{os.getpid()}",
            "statement_timeout": _milliseconds(self.statement_timeout_s),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle_in_transaction_timeout_s),
            # Short statements on one core: compiling them costs more than it saves.
            "jit": "off",
        }
        if self.lock_timeout_s:
            settings["lock_timeout"] = _milliseconds(self.lock_timeout_s)
        return settings


class Address(NamedTuple):
    """Where a server listens; a host that starts with ``/`` is the folder of a Unix socket."""

    host: str
    port: int
    database: str


def dsn(url: str) -> str:
    """Return `url` as asyncpg wants it: without a driver's name, as in ``postgresql+asyncpg://``."""
    return re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", url)


def address(url: str) -> Address:
    """Return where `url` points to.

    Raises:
        ValueError: the URL names an impossible port.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = unquote(parts.hostname or query.get("host", ["localhost"])[0])
    port = parts.port or int(query.get("port", [str(DEFAULT_PORT)])[0])
    database = unquote(parts.path.lstrip("/")) or query.get("dbname", [unquote(parts.username or "")])[0]
    return Address(host, port, database)


def slots_directory(url: str) -> Path:
    """Return the folder of this host's slots for the primary at `url`.

    All spellings of this machine count as one host, so that ``localhost`` and ``127.0.0.1`` share a budget.
    """
    host, port, database = address(url)
    name = "localhost" if host.lower() in _LOOPBACK else host.lower().rstrip(".")
    digest = hashlib.sha256(f"{name}\n{port}\n{database}".encode()).hexdigest()[:16]
    base = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    return base / f"b1-{os.geteuid()}" / digest


def _milliseconds(seconds: float) -> str:
    return str(max(0, round(seconds * 1000)))
