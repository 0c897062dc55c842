"""How each kind of CDN wants to be told: one class each, which turns a batch of keys into one POST.

They only write messages; `queue.py` sends them. The addresses are arguments, so that a test, a proxy or a compatible
service can stand in for the real one.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import orjson

from b1.clock import Clock
from b1.outbound import Signer

# Where a token comes from: a text, or a function that gives the one of now (ARM's live for an hour).
Token = str | Callable[[], str | Awaitable[str]]


class Batch(NamedTuple):
    """What one call purges.

    Attributes:
        keys: none and `is_all`: everything.
        id: the same for each attempt, and for no other batch.
    """

    id: str
    keys: tuple[str, ...]
    soft: bool
    is_all: bool = False


class Message(NamedTuple):
    """A POST: where to beneath the adapter's URL, headers and body."""

    path: str
    headers: list[tuple[str, str]]
    body: bytes


class Adapter(Protocol):
    """One kind of receiver.

    Attributes:
        name: for logs and snapshots.
        url: the receiver's, without the path of a call. A secret where it has a token in it.
        limit: keys that one call may have.
        knows_soft: whether it can mark as stale instead of removing.
    """

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def limit(self) -> int: ...
    @property
    def knows_soft(self) -> bool: ...

    async def message(self, batch: Batch) -> Message | None:
        """Return the call that purges a batch; None: nothing there shows it. What it raises is a failed attempt."""
        ...


def new_batch(keys: Iterable[str], *, soft: bool, is_all: bool = False) -> Batch:
    """Return a batch with an id of its own."""
    return Batch(f"msg_{secrets.token_hex(12)}", tuple(keys), soft, is_all)


class Fastly:
    """Purges by surrogate key: ``POST /service/{id}/purge`` with a ``Surrogate-Key`` header of 256 keys at most.

    Args:
        token: with the scope ``purge_select``, and ``purge_all`` for purging everything.
    """

    name = "fastly"
    limit = 256
    knows_soft = True
    # A header line of ours; what services take is 16 KiB in all.
    _HEADER_LIMIT_BYTES = 8 * 1024

    def __init__(self, service: str, token: Token, *, url: str = "https://api.fastly.com") -> None:
        self.url = url
        self._service = quote(_required(service, "service"), safe="")
        self._token = token

    def __repr__(self) -> str:
        return f"<Fastly service={self._service}>"

    async def message(self, batch: Batch) -> Message:
        headers = [("Fastly-Key", await reveal(self._token)), ("Accept", "application/json")]
        if batch.is_all:  # there is no soft form of it
            return Message(f"/service/{self._service}/purge_all", headers, b"")
        if batch.soft:
            headers.append(("Fastly-Soft-Purge", "1"))
        line = " ".join(batch.keys)
        if len(line) <= self._HEADER_LIMIT_BYTES:
            return Message(f"/service/{self._service}/purge", [*headers, ("Surrogate-Key", line)], b"")
        return Message(f"/service/{self._service}/purge", headers, orjson.dumps({"surrogate_keys": batch.keys}))


class Cloudflare:
    """Purges by cache tag: ``POST /client/v4/zones/{zone}/purge_cache`` with 30 tags at most. There is no soft purge.

    Args:
        token: with the permission ``Cache Purge``.
        limit: tags of one call; newer plans take 100.
    """

    name = "cloudflare"
    knows_soft = False

    def __init__(self, zone: str, token: Token, *, url: str = "https://api.cloudflare.com", limit: int = 30) -> None:
        self.url = url
        self.limit = limit
        self._zone = quote(_required(zone, "zone"), safe="")
        self._token = token

    def __repr__(self) -> str:
        return f"<Cloudflare zone={self._zone}>"

    async def message(self, batch: Batch) -> Message:
        body: dict[str, Any] = {"purge_everything": True} if batch.is_all else {"tags": batch.keys}
        headers = [("Authorization", f"Bearer {await reveal(self._token)}")]
        return Message(f"/client/v4/zones/{self._zone}/purge_cache", headers, orjson.dumps(body))


class FrontDoor:
    """Purges Azure Front Door by path, because it knows no tags: ``POST …/purge`` of the resource manager.

    The answer 202 says that it was accepted; the purge itself takes minutes.

    Args:
        endpoint: ``/subscriptions/…/resourceGroups/…/providers/Microsoft.Cdn/profiles/…/afdEndpoints/…``.
        token: an ARM bearer token, or what gets one (it lives for an hour).
        paths: the paths that show what a key names, such as ``/v1/reports/*``; none: nothing there shows it.
        domains: of the endpoint; empty: all.
        limit: keys of one call.
    """

    name = "front_door"
    knows_soft = False
    _PATHS_LIMIT = 100

    def __init__(
        self,
        endpoint: str,
        token: Token,
        paths: Callable[[str], Iterable[str]],
        *,
        domains: Sequence[str] = (),
        url: str = "https://management.azure.com",
        api_version: str = "2024-02-01",
        limit: int = 50,
    ) -> None:
        self.url = url
        self.limit = limit
        self._path = (
            f"/{quote(_required(endpoint, 'endpoint').strip('/'), safe='/-._()')}/purge?api-version={api_version}"
        )
        self._token = token
        self._paths = paths
        self._domains = list(domains)

    def __repr__(self) -> str:
        return f"<FrontDoor domains={self._domains}>"

    async def message(self, batch: Batch) -> Message | None:
        paths = ["/*"] if batch.is_all else list(dict.fromkeys(path for key in batch.keys for path in self._paths(key)))
        if not paths:
            return None
        if len(paths) > self._PATHS_LIMIT:
            paths = ["/*"]
        body: dict[str, Any] = {"contentPaths": paths}
        if self._domains:
            body["domains"] = self._domains
        return Message(self._path, [("Authorization", f"Bearer {await reveal(self._token)}")], orjson.dumps(body))


class Webhook:
    """Tells a service of your own: JSON, signed as the alerts are (Standard Webhooks).

    Args:
        url: receives ``{"type": "cache.purge", "surrogateKeys": […], "soft": …, "everything": …}``.
        secret: ``whsec_…``; None sends unsigned.

    Raises:
        ValueError: the secret is none.
    """

    name = "webhook"
    limit = 500
    knows_soft = True

    def __init__(self, url: str, clock: Clock, *, secret: str | None = None) -> None:
        self.url = url
        self._clock = clock
        self._signer = None if secret is None else Signer(secret)

    def __repr__(self) -> str:
        return f"<Webhook signed={self._signer is not None}>"

    async def message(self, batch: Batch) -> Message:
        body = orjson.dumps(
            {"type": "cache.purge", "surrogateKeys": batch.keys, "soft": batch.soft, "everything": batch.is_all}
        )
        headers = [("webhook-id", batch.id)]
        if self._signer is not None:
            headers += self._signer.headers(batch.id, body, self._clock.wall())
        return Message("", headers, body)


async def reveal(token: Token) -> str:
    """Return the token's text."""
    if isinstance(token, str):
        return token
    given = token()
    return await given if inspect.isawaitable(given) else given


def _required(text: str, what: str) -> str:
    if not text:
        raise ValueError(f"the {what} is empty")
    return text
