"""Turns what a handler answered into a stored answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from b1.asgi.caching.compression import IDENTITY, Compressor, is_text
from b1.asgi.caching.directives import Directives, Fields, elements
from b1.asgi.caching.freshness import PROBLEM, Freshness, told
from b1.asgi.caching.stored import NEVER_STORED, SharedPairs, StoredAnswer, encoded_etag, etag_of, modified_of
from b1.asgi.caching.surrogate import header_value, surrogate_keys
from b1.types import Headers

if TYPE_CHECKING:
    from b1.asgi.caching.options import ResponseCacheOptions
    from b1.asgi.caching.plan import RoutePlan


class Maker:
    """Makes answers; owns what they share.

    Attributes:
        tags_left_out: tags that did not fit into a surrogate header.
    """

    def __init__(self, options: ResponseCacheOptions) -> None:
        self._options = options
        self.pairs = SharedPairs()
        self.compressor = Compressor()
        self.tags_left_out = 0
        surrogate, tags = options.surrogate_header, options.tag_header
        self._tag_headers = [
            (name.lower().encode("latin-1"), separator)
            for name, separator in ((surrogate, " "), (tags, ","))
            if name is not None
        ]

    def __repr__(self) -> str:
        return f"<Maker {self.pairs!r} {self.compressor!r}>"

    def may_compress(self, plan: RoutePlan, fields: Fields, length: int) -> bool:
        """Say whether a body may be sent in another encoding than the handler's."""
        return (
            plan.options.compress
            and length >= self._options.compress_from_bytes
            and b"content-encoding" not in fields
            and is_text(fields.get(b"content-type", [b""])[0])
            and b"no-transform" not in Directives(fields.get(b"cache-control", ()))
        )

    async def answer(
        self,
        plan: RoutePlan,
        status: int,
        headers: Headers,
        fields: Fields,
        body: bytes,
        fresh: Freshness,
        *,
        tags: tuple[str, ...],
        preferences: tuple[bytes, ...],
        now_s: float,
    ) -> tuple[StoredAnswer, bytes]:
        """Return the answer and the bytes of its variants: the identity, and what the first client prefers."""
        if status != 200 and fields.get(b"content-type") == [PROBLEM]:
            body = _without_request(body)
        is_compressible = self.may_compress(plan, fields, len(body))
        common = self._common(plan, status, headers, fields, tags, is_compressible=is_compressible)
        answer = StoredAnswer(status, self.pairs.common(common), is_compressible=is_compressible)
        if b"cache-control" not in (name for name, _ in common):
            answer.told, answer.client_ttl_s = told(plan), int(plan.options.client_ttl_s)
        answer.made_s = now_s - fresh.age_s
        answer.fresh_until_s = now_s + fresh.fresh_s
        answer.stale_until_s = answer.fresh_until_s + fresh.stale_s
        answer.error_until_s = answer.fresh_until_s + fresh.error_s
        answer.modified_s = modified_of(fields)
        answer.add(IDENTITY, etag_of(fields, body), len(body))
        if is_compressible and preferences:
            body = await self.pack(answer, body, preferences[0])
        return answer, body

    async def pack(self, answer: StoredAnswer, body: bytes, encoding: bytes) -> bytes:
        """Add a variant when it pays; return the bytes of all of them."""
        packed = await self.compressor.compress(body[answer.identity.start : answer.identity.end], encoding)
        if packed is None:
            answer.is_compressible = False
            return body
        answer.add(encoding, encoded_etag(answer.identity.etag, encoding), len(packed))
        return body + packed

    def _common(
        self,
        plan: RoutePlan,
        status: int,
        headers: Headers,
        fields: Fields,
        tags: tuple[str, ...],
        *,
        is_compressible: bool,
    ) -> Headers:
        of = self.pairs.of
        dropped = NEVER_STORED | {name.lower() for name in elements(fields.get(b"connection", ()))}
        if status != 200 and fields.get(b"content-type") == [PROBLEM]:
            dropped |= {b"cache-control"}  # the one of our own that nobody asked for
        common = [of(name.lower(), value) for name, value in headers if name.lower() not in dropped]
        if not any(name == b"cache-control" for name, _ in common) and not plan.options.client_ttl_s:
            common.append(of(b"cache-control", told(plan)))
        vary = vary_of(plan, fields, is_compressible=is_compressible)
        if vary:
            common.append(of(b"vary", vary))
        for name, separator in self._tag_headers:
            value, left_out = header_value(surrogate_keys(tags), separator, self._options.tag_header_bytes)
            self.tags_left_out += left_out
            if value:
                common.append(of(name, value))
        return common


def vary_of(plan: RoutePlan, fields: Fields, *, is_compressible: bool) -> bytes:
    """Return what the answer depends on, for the caches behind us: the handler's own names, the route's, and ours."""
    names = {name.lower(): None for name in elements(fields.get(b"vary", ()))}
    names.update(dict.fromkeys(name.lower().encode("latin-1") for name in plan.options.vary_headers))
    if is_compressible:
        names[b"accept-encoding"] = None
    if not plan.is_public:  # a browser in which somebody else signs in asks again
        names.update({b"authorization": None, b"x-organization-id": None})
    return b", ".join(names)


def _without_request(body: bytes) -> bytes:
    """Take the id of the one request out of a problem document that others will get."""
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(members, dict) or members.pop("requestId", None) is None:
        return body
    return orjson.dumps(members)
