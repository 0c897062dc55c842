"""The clients, each behind the same five verbs. Imported in a client's own process; what a contender needs is imported
when it is made, so that the process can tell what that costs.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

VALUE = b"v" * 1024


class Contender(Protocol):
    """What is measured."""

    async def connect(self, url: str, ca: str | None, script: str) -> None: ...

    async def get(self) -> Any: ...

    async def set(self) -> Any: ...

    async def run_script(self) -> Any: ...

    async def close(self) -> None: ...


class Scripted:
    """Keeps what the limiter script is called with."""

    def __init__(self, keys: list[str], arguments: list[str]) -> None:
        self.keys = keys
        self.arguments = arguments
        self.digest = ""

    def note(self, script: str) -> None:
        self.digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class B1(Scripted):
    """This project's link."""

    def load(self) -> None:
        from b1.link import Link, LinkOptions

        self._kinds = Link, LinkOptions
        Link(LinkOptions("redis://localhost"))  # redis-py is imported with the first one

    async def connect(self, url: str, ca: str | None, script: str) -> None:
        link, options = self._kinds
        slots = Path(tempfile.mkdtemp(prefix="b1-bench-")) / "slots"
        self.client = link(options(url + (f"?ssl_ca_certs={ca}" if ca else ""), slots_dir=slots, deadline_s=30))
        self.client.register("bench", script)
        await self.client.start()
        assert self.client.is_up, self.client.snapshot()

    def get(self) -> Any:
        return self.client.call("GET", "bench:get")

    def set(self) -> Any:
        return self.client.call("SET", "bench:set", VALUE)

    def run_script(self) -> Any:
        return self.client.script("bench", self.keys, self.arguments)

    async def close(self) -> None:
        await self.client.aclose()


class RedisPy(Scripted):
    """redis-py, one connection, with hiredis."""

    connections = 1

    def load(self) -> None:
        import redis.asyncio

        self._redis = redis.asyncio

    async def connect(self, url: str, ca: str | None, script: str) -> None:
        tls = {"ssl_ca_certs": ca} if ca else {}
        if self.connections == 1:
            self.client = self._redis.Redis.from_url(url, single_connection_client=True, **tls)
        else:
            pool = self._redis.BlockingConnectionPool.from_url(url, max_connections=self.connections, **tls)
            self.client = self._redis.Redis(connection_pool=pool)
        await self.client.initialize()
        self.note(script)
        await self.client.script_load(script)

    def get(self) -> Any:
        return self.client.get("bench:get")

    def set(self) -> Any:
        return self.client.set("bench:set", VALUE)

    def run_script(self) -> Any:
        return self.client.evalsha(self.digest, len(self.keys), *self.keys, *self.arguments)

    async def close(self) -> None:
        await self.client.aclose()
        await self.client.connection_pool.disconnect()


class RedisPyPool(RedisPy):
    """redis-py, a pool of ten."""

    connections = 10


class Coredis(Scripted):
    """coredis, one connection."""

    def load(self) -> None:
        import coredis

        self._coredis = coredis

    async def connect(self, url: str, ca: str | None, script: str) -> None:
        parts = urlsplit(url)
        tls = {"ssl": True, "ssl_ca_certs": ca} if ca else {}
        self.client = self._coredis.Redis(parts.hostname, parts.port, max_connections=1, **tls)
        await self.client.__aenter__()
        self.note(script)
        await self.client.script_load(script)

    def get(self) -> Any:
        return self.client.get("bench:get")

    def set(self) -> Any:
        return self.client.set("bench:set", VALUE)

    def run_script(self) -> Any:
        return self.client.evalsha(self.digest, self.keys, self.arguments)

    async def close(self) -> None:
        await self.client.__aexit__(None, None, None)


class Glide(Scripted):
    """valkey-glide, one connection."""

    def load(self) -> None:
        import glide

        self._glide = glide

    async def connect(self, url: str, ca: str | None, script: str) -> None:
        glide, parts = self._glide, urlsplit(url)
        advanced = None
        if ca:
            pem = Path(ca).read_bytes()
            advanced = glide.AdvancedGlideClientConfiguration(tls_config=glide.TlsAdvancedConfiguration(None, pem))
        options = glide.GlideClientConfiguration(
            [glide.NodeAddress(parts.hostname, parts.port)],
            use_tls=ca is not None,
            request_timeout=30_000,
            advanced_config=advanced,
        )
        self.client = await glide.GlideClient.create(options)
        self.note(script)
        await self.client.custom_command(["SCRIPT", "LOAD", script])

    def get(self) -> Any:
        return self.client.get("bench:get")

    def set(self) -> Any:
        return self.client.set("bench:set", VALUE)

    def run_script(self) -> Any:
        return self.client.custom_command(["EVALSHA", self.digest, str(len(self.keys)), *self.keys, *self.arguments])

    async def close(self) -> None:
        await self.client.close()


CONTENDERS: dict[str, type[Any]] = {
    "b1": B1,
    "redis-py, 1 connection": RedisPy,
    "redis-py, pool of 10": RedisPyPool,
    "coredis, 1 connection": Coredis,
    "valkey-glide, 1 connection": Glide,
}
