"""A real receiver on loopback that behaves as the test says, and a verifier written from the Standard Webhooks text."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import hmac
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from b1.alerts import AlertOptions

WAIT_S = 10.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
HANG = b""
CLOSE = b"close"


def answer(status: int, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", "Content-Length: 0", *fields, "", ""]).encode()


@dataclass
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def said(self) -> tuple[str, str]:
        """(alertname, status)."""
        return self.document["groupLabels"]["alertname"], self.document["status"]


@dataclass
class Receiver:
    """Answers with `answers` one after the other, then with 204."""

    answers: list[bytes] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    url: str = ""
    open_now: int = 0
    open_most: int = 0
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    _hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for(self, count: int) -> list[Received]:
        """Wait until so many requests have come."""
        async with asyncio.timeout(WAIT_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the sender gave up, as some tests want
        finally:
            self.open_now -= 1
            writer.close()

    def release(self) -> None:
        """Let hanging connections end."""
        self._hanging.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        reply = self.answers.pop(0) if self.answers else OK
        async with self._arrived:
            self.requests.append(Received(first.split()[1], headers, body))
            self._arrived.notify_all()
        if reply == HANG:
            await self._hanging.wait()
        elif reply != CLOSE:
            writer.write(reply)
            await writer.drain()


@contextlib.asynccontextmanager
async def receiving(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port of loopback."""
    receiver = Receiver(list(answers))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    receiver.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?key=secret"
    try:
        yield receiver
    finally:
        receiver.release()
        server.close()
        async with asyncio.timeout(WAIT_S):
            while receiver.open_now:
                await asyncio.sleep(0.01)


def fast_options(url: str | None, **others: Any) -> AlertOptions:
    """Options with pauses that a test can afford."""
    defaults: dict[str, Any] = {
        "url": url,
        "secret": SECRET,
        "instance": "box-1",
        "allow_private": True,
        "family": "one",
        "settle_s": 0.0,
        "backoff_first_s": 0.01,
        "backoff_max_s": 0.05,
        "attempt_timeout_s": 5.0,
    }
    return AlertOptions(**(defaults | others))


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something is so, with a bound."""
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.005)


def is_authentic(request: Received, secret: str) -> bool:
    """Verify a signature as the Standard Webhooks text says, without b1's code."""
    key = base64.b64decode(secret[len("whsec_") :])
    content = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    given = [part.split(",", 1) for part in request.headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(expected, text) for version, text in given)


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for a name and for 127.0.0.1; return the server's context and the file to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name), *([x509.IPAddress(ipaddress.ip_address(name))] if name[0].isdigit() else [])]
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{name}.pem"
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(text + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context, pem


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"
