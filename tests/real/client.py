"""HTTP from outside: one connection per request, and bytes that no HTTP library would send."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.app.client import EXPENSE

__all__ = ["EXPENSE", "Answer", "Client"]

REFUSALS = ("OVERLOADED", "DB_BUSY")
MOST_RETRY_AFTER_S = 2.0
PATIENCE_S = 45.0  # longer than any deadline of the server: a client that waits in vain is the failure


@dataclass(frozen=True)
class Answer:
    """What came back. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The problem's code; None when the answer is no problem document."""
        return self.json["code"] if self.headers.get("content-type") == "application/problem+json" else None

    @classmethod
    def parse(cls, raw: bytes) -> Answer:
        """Read an answer of HTTP/1.1 with a length."""
        head, _, body = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        pairs = (field.partition(":") for field in fields)
        return cls(int(line.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body)


class Client:
    """Somebody who calls one server, with a token or without."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self.port = port
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def log_in(self, email: str = "user@example.com", password: str = "changeme") -> Client:
        """Return the client of an account of the demo."""
        answer = self.post("/auth/login", {"email": email, "password": password})
        assert answer.status == 200, answer
        return Client(self.port, answer.json["accessToken"])

    def at(self, port: int) -> Client:
        """Return the same person at another copy of the server."""
        other = Client(port)
        other.headers = dict(self.headers)
        return other

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, value: Any = None, **headers: str) -> Answer:
        """Send JSON. Underscores in the names of `headers` become dashes."""
        return self.call("POST", path, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def spend(self, key: str, expense: Mapping[str, Any] = EXPENSE) -> Answer:
        return self.post("/v1/finance/expenses", expense, Idempotency_Key=key)

    def spend_in_the_end(self, key: str) -> Answer:
        """Come back as often as a refusal asks for it: a busy machine lets admission refuse what a free one serves."""
        end_s = time.monotonic() + PATIENCE_S
        while (answer := self.spend(key)).status == 503 and time.monotonic() < end_s:
            assert answer.code in REFUSALS, answer
            time.sleep(min(int(answer.headers["retry-after"]), MOST_RETRY_AFTER_S))
        return answer

    def read(self) -> Answer:
        return self.post("/v1/entities", {"operation": "READ", "entity_data": {"entity_type": "CUSTOMER"}})

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Answer:
        """Send one request on a connection of its own; a body that is an iterator is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        try:
            try:
                connection.request(method, path, body, {**self.headers, **named}, **more)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before everything was sent; the answer may be there all the same
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def raw(self, data: bytes) -> Answer:
        """Send bytes as they are and read until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            try:
                connection.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before everything was sent; the answer may be there all the same
            received = b""
            while piece := connection.recv(65536):
                received += piece
        return Answer.parse(received)

    def is_up(self, path: str = "/ready") -> bool:
        """Tell whether `path` answers 200."""
        try:
            return self.get(path).status == 200
        except (OSError, http.client.HTTPException):
            return False
