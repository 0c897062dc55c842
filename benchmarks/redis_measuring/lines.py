"""The lines that are measured: plain, through a proxy that delays, and with TLS (where a Redis that can do it exists).

The proxy delays each chunk by the same time in each direction; libuv's timers have a grain of 1 ms.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from b1.embedded import process

START_LIMIT_S = 20.0


@contextmanager
def delayed(port: int, delay_ms: float, cores: frozenset[int]) -> Iterator[int]:
    """Run the proxy in front of `port` and give its own."""
    own = process.free_port()
    command = [sys.executable, "-m", "redis_measuring.lines", str(own), str(port), str(delay_ms)]
    with _running(command, own, cores):
        yield own


@contextmanager
def tls_redis(binary: Path, folder: Path, cores: frozenset[int]) -> Iterator[tuple[int, Path]]:
    """Run a Redis that speaks TLS only; give its port and the certificate to trust."""
    authority, certificate, key = make_certificate(folder)
    own = process.free_port()
    options = {
        "--port": "0",
        "--tls-port": str(own),
        "--tls-cert-file": str(certificate),
        "--tls-key-file": str(key),
        "--tls-ca-cert-file": str(authority),
        "--tls-auth-clients": "no",
        "--bind": "127.0.0.1",
        "--save": "",
        "--dir": str(folder),
    }
    command = [str(binary), *(word for pair in options.items() for word in pair)]
    with _running(command, own, cores):
        yield own, authority


def tls_binary(named: str | None) -> Path | None:
    """Return a Redis that can do TLS: the one named, or one on PATH; the Valkey wheel cannot."""
    for name in (named, "redis-server", "valkey-server"):
        found = shutil.which(name) if name else None
        if found and _accepts_tls(found):
            return Path(found)
    return None


def make_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Write an authority's certificate, one for this machine's loopback signed by it, and the latter's key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name_of(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def builder(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name_of(subject))
            .issuer_name(name_of("b1 benchmark"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=subject == "b1 benchmark", path_length=None), critical=True)
        )

    # Two, because rustls refuses an authority that is also the server.
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = builder("b1 benchmark", authority_key).sign(authority_key, hashes.SHA256())
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        builder("localhost", key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    contents = {
        "authority.pem": authority.public_bytes(pem),
        "certificate.pem": certificate.public_bytes(pem),
        "key.pem": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"


def _accepts_tls(binary: str) -> bool:
    # A build that can do it asks for the certificate and ends; others know no such option, or no such connection.
    command = [binary, "--port", "0", "--tls-port", str(process.free_port()), "--save", ""]
    said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return "tls-cert-file" in said.stdout + said.stderr


@contextmanager
def _running(command: list[str], port: int, cores: frozenset[int]) -> Iterator[None]:
    child = process.start(
        command, death_signal=signal.SIGKILL, cwd=Path(__file__).parents[1], output=subprocess.DEVNULL
    )
    try:
        os.sched_setaffinity(child.pid, cores)
        if not process.wait_until(lambda: process.can_connect("127.0.0.1", port), limit_s=START_LIMIT_S):
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield
    finally:
        process.stop(child, signal.SIGTERM, patience_s=5.0)


class _Side(asyncio.Protocol):
    def __init__(self, port: int, delay_s: float, other: _Side | None = None) -> None:
        self._port, self._delay_s, self._other = port, delay_s, other
        self._transport: asyncio.Transport | None = None
        self._dial: asyncio.Task[object] | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        loop = asyncio.get_running_loop()
        if self._other is None:
            connecting = loop.create_connection(lambda: _Side(self._port, self._delay_s, self), "127.0.0.1", self._port)
            self._dial = asyncio.ensure_future(connecting)
        else:
            self._other._other = self
            for data in self._other._early:
                self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self._delay_s, self._pass_on, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.close()

    def _pass_on(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        elif self._other._transport is not None and not self._other._transport.is_closing():
            self._other._transport.write(data)


async def _proxy(own: int, port: int, delay_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Side(port, delay_s), "127.0.0.1", own)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_proxy(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
