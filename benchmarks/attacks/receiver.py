"""The receiver of b1's alerts, which verifies what it gets from the text of Standard Webhooks, without b1's code."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

SECRET = "whsec_" + base64.b64encode(b"a secret of the benchmark alone!").decode()
_THANKS = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(slots=True)
class Message:
    """One change as it was told; `times` counts deliveries with the same id."""

    id: str
    name: str
    status: str
    at_s: float
    times: int = 1


@dataclass(slots=True)
class Receiver:
    """What was told, by webhook-id."""

    port: int = 0
    messages: dict[str, Message] = field(default_factory=dict)
    forged: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/alerts"

    def count(self, name: str, status: str) -> int:
        """Count distinct messages."""
        return sum((one.name, one.status) == (name, status) for one in self.messages.values())

    def open(self) -> list[str]:
        """Return what was said to fire and not said to be over."""
        names = sorted({one.name for one in self.messages.values()})
        return [name for name in names if self.count(name, "firing") > self.count(name, "resolved")]

    def broken_promises(self, reached: set[str], *, is_over: bool) -> list[str]:
        """Compare with what was promised: each alert once when its level is reached, once when it is over, signed.

        Args:
            reached: the levels that the workers logged.
            is_over: the pressure is gone, so that nothing may still fire.
        """
        found = [f"{self.forged} messages do not verify"] if self.forged else []
        due = {
            "B1MemoryHigh": bool(reached & {"high", "severe", "critical", "emergency"}),
            "B1MemoryCritical": bool(reached & {"critical", "emergency"}),
        }
        for name, is_due in due.items():
            firing, resolved = self.count(name, "firing"), self.count(name, "resolved")
            if firing != is_due:
                found.append(f"{name} fired {firing} times, expected {int(is_due)}")
            if is_over and resolved != firing:
                found.append(f"{name} was resolved {resolved} times, expected {firing}")
        found += [f"{one.name} was not expected" for one in self.messages.values() if one.name not in due]
        return found

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one request, or several."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = (line.partition(": ") for line in head.strip().split("\r\n")[1:])
                headers = {name.lower(): value for name, _, value in lines}
                body = await reader.readexactly(int(headers["content-length"]))
                self._take(headers, body)
                writer.write(_THANKS)
                await writer.drain()

    def _take(self, headers: dict[str, str], body: bytes) -> None:
        if not _is_authentic(headers, body):
            self.forged += 1
            return
        document = json.loads(body)
        known = self.messages.get(headers["webhook-id"])
        if known is not None:
            known.times += 1
            return
        name, status = document["groupLabels"]["alertname"], document["status"]
        self.messages[headers["webhook-id"]] = Message(headers["webhook-id"], name, status, time.time())


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Listen on a free port of loopback."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


def _is_authentic(headers: dict[str, str], body: bytes) -> bool:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    given = [part.partition(",") for part in headers["webhook-signature"].split()]
    return any(version == "v1" and hmac.compare_digest(expected, text) for version, _, text in given)
