"""Log lines: one JSON object a line in production, short plain lines at home.

The request id comes through `REQUEST_ID`, so that code which knows nothing of b1 logs it too.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

REQUEST_ID: ContextVar[str | None] = ContextVar("b1_request_id", default=None)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """One JSON object per record; extra fields of the record become members."""

    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, Any] = {
            "timestamp": _iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            members["requestId"] = request_id
        members.update(_extras(record))
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps(members, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """One readable line per record."""

    def format(self, record: logging.LogRecord) -> str:
        extras = " ".join(f"{name}={value}" for name, value in _extras(record).items())
        request_id = REQUEST_ID.get()
        parts = [
            _iso(record.created)[11:23],
            f"{record.levelname.lower():7}",
            record.getMessage(),
            extras,
            f"request={request_id}" if request_id else "",
        ]
        line = " ".join(part for part in parts if part)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def make_handler(log_format: str) -> logging.Handler:
    """Return a handler to standard error in ``json`` or ``console`` format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    return handler


def configure(log_format: str, level: str) -> None:
    """Send everything through one handler. Called once, by the server's worker; never on import."""
    root = logging.getLogger()
    root.handlers[:] = [make_handler(log_format)]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "gunicorn.error", "gunicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # observe logs what matters, once


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD and name[0] != "_"}


def _iso(wall_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_s)) + f".{int(wall_s % 1 * 1000):03d}Z"
