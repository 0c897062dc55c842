"""The same link over TLS, over a unix socket, and on asyncio's own loop."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.link.conftest import MakeLink, until
from tests.servers import RedisServer

LARGE = bytes(300_000)


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both loops."""
    return "asyncio", {"use_uvloop": request.param}


async def _relay(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)

    async def one_way(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        target.close()

    await asyncio.gather(one_way(reader, server_writer), one_way(server_reader, writer))


@asynccontextmanager
async def _front(port: int, tls: ssl.SSLContext | None = None, path: Path | None = None) -> AsyncIterator[int]:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _relay(port, reader, writer)

    if path is not None:
        listener = await asyncio.start_unix_server(meet, path)
    else:
        listener = await asyncio.start_server(meet, "127.0.0.1", 0, ssl=tls)
    async with listener:
        yield 0 if path is not None else listener.sockets[0].getsockname()[1]


def _certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test of b1")])
    now = datetime.datetime.now(datetime.UTC)
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(private + certificate.public_bytes(pem))
    (folder / "ca.pem").write_bytes(certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context, folder / "ca.pem"


async def test_it_works_on_either_loop(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    assert await asyncio.gather(*(link.call("ECHO", number) for number in range(300))) == [
        b"%d" % number for number in range(300)
    ]
    assert await asyncio.gather(*(link.call("ECHO", LARGE) for _ in range(20))) == [LARGE] * 20
    async with link.reserve("emergency") as line:
        assert await line.call("PING") == b"PONG"
    assert link.snapshot().writes < 60


async def test_it_works_over_tls(make_link: MakeLink, redis_server: RedisServer, tmp_path: Path) -> None:
    context, ca = _certificate(tmp_path)
    async with _front(redis_server.port, context) as port:
        link = make_link(f"rediss://127.0.0.1:{port}?ssl_ca_certs={ca}", deadline_s=10, connect_timeout_s=5)
        await link.start()
        assert await asyncio.gather(*(link.call("ECHO", number) for number in range(300))) == [
            b"%d" % number for number in range(300)
        ]
        assert await asyncio.gather(*(link.call("ECHO", LARGE) for _ in range(20))) == [LARGE] * 20
        async with link.reserve("emergency") as line:
            assert await line.call("PING") == b"PONG"
        assert link.snapshot().connects == 1
        await link.aclose()


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    make_link: MakeLink, redis_server: RedisServer, tmp_path: Path
) -> None:
    context, _ = _certificate(tmp_path)
    async with _front(redis_server.port, context) as port:
        link = make_link(f"rediss://127.0.0.1:{port}", deadline_s=10, connect_timeout_s=5)
        await link.start()
        await until(lambda: "certificate" in (link.snapshot().last_error or "").lower())
        assert not link.is_up
        await link.aclose()


async def test_it_works_over_a_unix_socket(make_link: MakeLink, redis_server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    async with _front(redis_server.port, path=path):
        link = make_link(f"unix://{path}", deadline_s=10)
        await link.start()
        assert await asyncio.gather(*(link.call("ECHO", LARGE) for _ in range(20))) == [LARGE] * 20
        assert link.snapshot().address == str(path)
        await link.aclose()
