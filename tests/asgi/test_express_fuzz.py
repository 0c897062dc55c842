"""The same random requests by the short way, by the layers, and under uvicorn's own protocol: one and the same answers.

A small, repeatable part of what ran for minutes: streams of requests in random pieces, with repeated fields, odd targets,
bodies, conditions and HTTP/1.0 among them. What our protocol refuses and uvicorn's does not has tests of its own.
"""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from b1.asgi.express import EXPRESS_STATE
from tests.asgi.test_express import PASSING, Line, Site, running
from tests.server.wire import FakeTransport

STREAMS = 150
USUAL = ("/text", "/open", "/long", "/things/7")
TARGETS = (
    "/text?b=2&a=1", "/text?a=1&b=2", "/text?", "/text?%61=1", "/text?a=1#x", "/text#x", "/text?a=1%23x", "//text",
    "/text/", "/text;x=1", "/%74ext", "/text%2F", "/things/07", "/things/7/", "/things/%37", "/things/a", "/things/7?x=%00",
    "/open?x=%zz", "/plain", "/managers", "http://site/text", "http://other/text", "https://site/open", "/TEXT", "/./text",
    "/nothing", "/text?x=" + "y" * 2000, "/" + "z" * 1500, "/text?a=1;b=2", "/text?a=+&a=%20",
)  # fmt: skip
FIELDS = {
    "x-organization-id": ("1", "2", ""),
    "accept-encoding": ("gzip", "gzip, zstd", "identity", "*;q=0", ""),
    "if-none-match": ('"x"', "*", 'W/"x"', "junk"),
    "if-match": ('"x"', "*"),
    "connection": ("close", "keep-alive", "Close, x"),
    "upgrade": ("h2c", "websocket"),
    "cache-control": ("no-cache", "only-if-cached", "max-age=0", "no-store"),
    "range": ("bytes=0-3",),
    "origin": ("https://a.example",),
    "cookie": ("a=b",),
    "X-Forwarded-Proto": ("https", "http", "ftp"),
    "x-forwarded-for": ("192.0.2.7", "::1, 192.0.2.8", "junk"),
    "expect": ("100-continue",),
    "x-request-id": ("a-callers-id", "bad id", ""),
}
SMUGGLED = b"GET /text HTTP/1.1\r\nhost: site\r\n\r\n"
Answer = tuple[int, dict[bytes, list[bytes]], bytes]


class Requests:
    """Makes requests."""

    def __init__(self, site: Site, seed: int) -> None:
        self.random = random.Random(seed)
        whose = (("ann", 1, "MEMBER"), ("eve", 2, "MEMBER"), ("mia", 1, "MANAGER"))
        tokens = [
            site.b1.tokens.issue(name, {"org": organization, "tier": "pro", "role": role}, ttl_s=600)
            for name, organization, role in whose
        ]
        self.callers = [f"Bearer {token}" for token in tokens] * 2 + ["Bearer nonsense", "", "Basic eA=="]

    def stream(self) -> tuple[list[str], list[bytes]]:
        """Return the methods of some requests, and their bytes in pieces."""
        made = [self.one() for _ in range(self.random.choice((1, 1, 2, 3, 6)))]
        data = b"".join(request for _, request in made)
        cuts = sorted(self.random.sample(range(1, len(data)), self.random.choice((0, 0, 1, 4))))
        return [method for method, _ in made], [
            data[a:b] for a, b in zip((0, *cuts), (*cuts, len(data)), strict=True)
        ]  # fmt: skip

    def one(self) -> tuple[str, bytes]:
        chance, pick = self.random.random, self.random.choice
        method = "GET" if chance() < 0.9 else pick(("HEAD", "POST", "OPTIONS", "DELETE"))
        version = "1.1" if chance() < 0.97 else "1.0"
        fields = [(name, pick(values)) for name, values in FIELDS.items() for _ in range(2) if chance() < 0.04]
        if chance() < 0.8:
            fields.append((pick(("Authorization", "authorization")), pick(self.callers)))
        if chance() < 0.06:
            fields.append(("authorization", pick(self.callers)))
        self.random.shuffle(fields)
        body = b""
        if method == "POST" or chance() < 0.04:
            body = pick((b"", b"hello", SMUGGLED))
            if chance() < 0.5:
                fields.append(("Content-Length", str(len(body))))
            else:
                fields.append(("Transfer-Encoding", "chunked"))
                body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        target = pick(USUAL) if chance() < 0.6 else pick(TARGETS)
        lines = [f"{method} {target} HTTP/{version}", "host: site", *[f"{name}: {value}" for name, value in fields]]
        return method, "\r\n".join([*lines, "", ""]).encode() + body


class Plain(Line):
    """A connection of uvicorn's to the same application."""

    def __init__(self, site: Site) -> None:
        self.app, self.tasks, self.transport = site.app, 0, FakeTransport()
        config = Config(self.app, log_config=None, lifespan="off", ws="none", proxy_headers=False)
        config.load()
        self.server_state = ServerState()
        state = {**site.state, EXPRESS_STATE: None}
        self.protocol: Any = HttpToolsProtocol(config, self.server_state, state)
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)


async def play(line: Line, methods: list[str], pieces: list[bytes]) -> tuple[list[Answer], bool]:
    """Return the answers, and whether the connection was closed behind them."""
    for piece in pieces:
        if not line.transport.ended:
            line.protocol.data_received(piece)
            await asyncio.sleep(0)
    async with asyncio.timeout(20):
        while not line.transport.is_closing() and len(read(line, methods)) < len(methods):
            await asyncio.sleep(0.0005)
        while line.server_state.tasks:
            await asyncio.sleep(0.0005)
    result = read(line, methods), line.transport.is_closing()
    if not line.transport.ended:
        line.transport.abort()
    await asyncio.sleep(0)
    return result


def read(line: Line, methods: list[str]) -> list[Answer]:
    found: list[Answer] = []
    rest = bytes(line.transport.written)
    while b"\r\n\r\n" in rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        status = int(first.split()[1])
        if status == 100:
            continue
        fields: dict[bytes, list[bytes]] = {}
        for one in lines:
            name, _, value = one.partition(b": ")
            fields.setdefault(name, []).append(value)
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        is_bare = method == "HEAD" or status in (204, 304)
        size = 0 if is_bare else int(fields[b"content-length"][0])
        if len(rest) < size:
            break
        found.append((status, lasting(fields), steady(rest[:size])))
        rest = rest[size:]
    return found


def lasting(fields: dict[bytes, list[bytes]]) -> dict[bytes, list[bytes]]:
    """What does not depend on the time, on who answered, or on how often a handler that is not cached has run."""
    assert all(len(values) == 1 for values in fields.values()), fields
    dropped = PASSING | {b"cache-status", b"content-length", b"retry-after"}
    kept = {name: values for name, values in fields.items() if name not in dropped}
    if b"cache-control" in kept:
        kept[b"cache-control"] = [re.sub(rb"max-age=\d+", b"", kept[b"cache-control"][0])]
    if fields.get(b"x-request-id") == [b"a-callers-id"]:
        kept[b"x-request-id"] = [b"a-callers-id"]
    return kept


def steady(body: bytes) -> bytes:
    return re.sub(rb'"run":\d+|"requestId":"[^"]*"', b"", body)


@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_the_short_way_the_layers_and_uvicorn_give_the_same_answers(store: str, redis_url: str) -> None:
    environment = {"REDIS_URL": redis_url} if store == "redis" else {}
    async with running(B1_LIMIT_SCALE="100000", **environment) as site:
        requests = Requests(site, seed=5)
        short = answers = 0
        for _ in range(STREAMS):
            methods, pieces = requests.stream()
            for _ in range(2):  # everything that can be kept is kept, in each encoding
                await play(site.line(is_short=False), methods, pieces)
            layers = await play(site.line(is_short=False), methods, pieces)
            line = site.line()
            express = await play(line, methods, pieces)
            uvicorn = await play(Plain(site), methods, pieces)
            assert layers == express, pieces
            assert layers == uvicorn, pieces
            answers += len(express[0])
            short += len(express[0]) - line.tasks
        assert answers > STREAMS
        assert short > STREAMS // 10  # else this compares the layers with themselves
