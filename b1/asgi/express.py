"""Stored answers in one call: a GET that is in the response cache, decided as the layers would decide it.

The same services are asked in the same order (gate, identity, limiter, response cache), without the layers' coroutines.
Whatever is not plain is left to the layers before anything was counted: an unusual field, a caller who is not known yet, a
miss, a stale answer. Only our own server knows of this; under any other one the layers answer, with the same fields.

An answer from here costs less than a refusal would, so it needs no permit, and waits behind nobody.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from time import monotonic
from typing import NamedTuple, Protocol

from b1.admission import RANKS, Gate
from b1.asgi.caching.conditional import judge
from b1.asgi.caching.plan import RoutePlan
from b1.asgi.caching.service import ResponseCache
from b1.asgi.caching.stored import StoredAnswer, Variant
from b1.asgi.known_heads import Head, KnownHeads
from b1.asgi.limits import LimitExceeded, Limits
from b1.asgi.options import NOTHING_DECLARED, RouteOptions
from b1.asgi.reply import PROBLEM_TYPE, error_headers
from b1.asgi.request_ids import RequestIds
from b1.asgi.routes import RouteTable
from b1.cache.l1.table import Found
from b1.identity import Identity
from b1.limiter import Decision, client_address
from b1.metrics import Metrics
from b1.types import Headers

log = logging.getLogger("b1.http")

# Where the runtime puts it in the lifespan's state, for our server.
EXPRESS_STATE = "b1.express"

# Requests with one of these are the layers': they have a body, change what is answered, or are rare.
_UNUSUAL = frozenset(
    {
        b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"range", b"if-range", b"cache-control", b"pragma",
        b"if-match", b"if-unmodified-since", b"if-modified-since",
    }
)  # fmt: skip
_PLAIN_PATH = re.compile(rb"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_PATHS = 4096  # kept with their route; the paths of an attack displace each other
# Longer targets are the layers': 4096 paths of 64 KiB would be 256 MiB, and a long query costs more to read than a refusal.
_TARGET_BYTES = 1024
_SCHEMES: Mapping[bytes | None, str] = {b"http": "http", b"https": "https"}
STATUS_LINES = {int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


class Answer(NamedTuple):
    """A whole answer, ready to be written.

    Attributes:
        head: status line and fields, without the empty line: the server has fields of its own to add.
    """

    head: bytes
    body: bytes


class Undone(NamedTuple):
    """A request that was decided about, and whose answer could not be made: the layers answer it, under this decision."""

    decision: Decision


class Waiter(Protocol):
    """Who is told an answer that had to wait for the store."""

    def take(self, answer: Answer | None, decision: Decision | None) -> None:
        """Send the answer; None: have the layers answer, under the decision if there is one."""
        ...


class Way(NamedTuple):
    """What is known of a path; without a plan it is the layers'."""

    plan: RoutePlan | None
    options: RouteOptions
    template: str
    rank: int


_NOT_OURS = Way(None, NOTHING_DECLARED, "", 0)


class Express:
    """The short way through the stack.

    Args:
        proxy: how client addresses are found (`B1_PROXY`).
        is_running: services are up.
        unusual: further fields that make a request the layers'; with ``origin`` CORS is theirs, and all answers vary by it.
    """

    def __init__(
        self,
        *,
        routes: RouteTable,
        gate: Gate,
        identity: Identity,
        limits: Limits | None,
        responses: ResponseCache,
        metrics: Metrics,
        proxy: str,
        is_running: Callable[[], bool],
        unusual: Iterable[bytes] = (),
    ) -> None:
        self._routes = routes
        self._gate = gate
        self._identity = identity
        self._limits = limits
        self._responses = responses
        self._metrics = metrics
        self._proxy = proxy
        self._is_running = is_running
        self._unusual = _UNUSUAL.union(unusual)
        self._varies = b"vary: Origin\r\n" if b"origin" in self._unusual else b""
        self._ways: dict[bytes, Way] = {}
        self._ids = RequestIds()
        self._heads = KnownHeads()
        self._latest: Head | None = None

    def __repr__(self) -> str:
        return f"<Express paths={len(self._ways)} heads={len(self._heads)}>"

    def answer(
        self, target: bytes, headers: Headers, client: tuple[str, int] | None, scheme: str, wait: Callable[[], Waiter]
    ) -> Answer | Undone | Waiter | None:
        """Return the answer to a GET without a body; None: it is for the layers, and nothing was counted.

        What is raised was raised before anything was counted: call `failed`, and have the layers answer.

        Args:
            target: as in the request line.
            headers: names in lower case.
            scheme: of the socket; a trusted proxy's word counts more, as in the layers.
            wait: makes who is told where the store has to be asked first; that is what is returned then.
        """
        self._latest = None
        path, _, query = target.partition(b"?")
        if len(target) > _TARGET_BYTES or b"#" in query:  # a fragment is none of the query's
            return None
        way = self._ways.get(path) or self._meet(path)
        plan = way.plan
        if plan is None:
            return None
        fields = dict(headers)
        now_s = monotonic()
        if not self._unusual.isdisjoint(fields) or not self._serves(way, now_s):
            return None
        said = scheme if self._proxy == "none" else _SCHEMES.get(fields.get(b"x-forwarded-proto"), scheme)
        principal, identity_key = None, ""
        authorization = fields.get(b"authorization")
        if authorization is not None:
            identity_key = self._identity.key_of(authorization, fields.get(b"x-organization-id"))
            principal = self._identity.known_as(identity_key)
            if principal is None:
                return None
        elif not plan.is_public:
            return None
        name = path.decode("latin-1")
        key = plan.key({"path": name, "query_string": query, "headers": headers, "scheme": said}, principal, fields)
        self._latest = head = Head(way, name, key, headers, fields, principal, identity_key)
        head.scheme = scheme
        head.peer = client[0] if client else ""
        head.address = client_address(head.peer, headers, self._proxy)
        return self._answer(head, now_s, wait)

    def again(
        self, data: bytes, client: tuple[str, int] | None, scheme: str, wait: Callable[[], Waiter]
    ) -> Answer | Undone | Waiter | None:
        """Return what `answer` would for the request that is exactly these bytes, if it is known; else None, as there."""
        head = self._heads.find(data)
        if head is None or head.scheme != scheme or head.peer != (client[0] if client else ""):
            return None
        if head.identity_key and self._identity.known_as(head.identity_key) is not head.principal:
            self._heads.forget(data)
            return None
        now_s = monotonic()
        return self._answer(head, now_s, wait) if self._serves(head.way, now_s) else None

    def keep(self, data: bytes) -> None:
        """Remember the request that was answered last: it was these bytes and no others."""
        if self._latest is not None:
            self._heads.keep(data, self._latest)

    def _serves(self, way: Way, now_s: float) -> bool:
        return self._is_running() and self._gate.serves(way.rank, now_s)

    def _answer(self, head: Head, now_s: float, wait: Callable[[], Waiter]) -> Answer | Undone | Waiter | None:
        plan, principal = head.way.plan, head.principal
        if plan is None or (plan.allow is not None and (principal is None or not plan.allow(principal))):
            return None
        asked = Asked(self, head, now_s)
        found = asked.find()
        if found is None:
            return None
        if self._limits is None:
            return self._stored(asked, found, None)
        question = self._limits.question_of(head.way.options, principal, head.address)
        if question is None:
            return None
        decision = self._limits.decide_soon(*question, head.fields, asked.tell)
        if decision is True:
            asked.waiter = wait()
            return asked.waiter
        if decision is False:
            return None
        try:
            return self.decided(asked, found, decision)
        except Exception:  # noqa: BLE001 - whatever it was, the layers answer
            self.failed()
            return Undone(decision)

    def failed(self) -> None:
        """Count and log what is being handled: code of the application's, as a rule. The layers say if it is still so."""
        self._metrics.short_way_failed()
        log.warning("the short way failed", exc_info=True)

    def decided(self, asked: Asked, found: Found | None, decision: Decision) -> Answer:
        """Return the answer to a request that was charged, or refused."""
        assert self._limits is not None
        if decision.allowed and found is not None:
            return self._stored(asked, found, decision)
        error = self._limits.refusal(decision)
        self._count(asked, error.status)
        head, body = _refusal(error, asked.head.path, self._ids.of(asked.head.fields.get(b"x-request-id")))
        return Answer(head + self._varies, body)

    @property
    def changes(self) -> int:
        """Of all versions; see `L1.changes`."""
        return self._responses.l1.changes

    def find(self, key: str, fields: Mapping[bytes, bytes]) -> Found | None:
        """Return the stored answer if it can be sent as it is."""
        responses = self._responses
        found = responses.l1.find(key)
        if found is None or found.is_stale or responses.must_validate:
            return None
        return None if self._variant(found.meta, fields) is None else found

    def _meet(self, path: bytes) -> Way:
        """Find the route of a path that is new."""
        way = _NOT_OURS
        if _PLAIN_PATH.fullmatch(path):
            route, _ = self._routes.find("GET", path.decode("ascii"))
            if route.options.cache is not None:
                rank = RANKS[route.options.admission or "normal"]
                way = Way(self._responses.plan_of(route), route.options, route.template, rank)
        if len(self._ways) >= _PATHS:
            self._ways.clear()
        self._ways[path] = way
        return way

    def _variant(self, answer: StoredAnswer, fields: Mapping[bytes, bytes]) -> Variant | None:
        """Return what the client gets; None: an encoding that it prefers has to be made first."""
        if not answer.is_compressible and len(answer.variants) == 1:
            return answer.identity
        preferences = self._responses.preferences.of(fields.get(b"accept-encoding"))
        if not preferences:
            return answer.identity
        variant = answer.choose(preferences)
        if variant is answer.identity and answer.is_compressible and not answer.is_packing:
            return None
        return variant

    def _stored(self, asked: Asked, found: Found, decision: Decision | None) -> Answer:
        answer: StoredAnswer = found.meta
        fields, body = asked.head.fields, found.value
        variant = self._variant(answer, fields) or answer.identity
        status, lines = answer.status, variant.lines
        if variant.end - variant.start != len(body):
            body = body[variant.start : variant.end]
        if status == 200 and b"if-none-match" in fields:
            status = judge(asked.head.headers, variant.etag, answer.modified_s)
            if status != 200:
                lines, body = b"".join([b"%b: %b\r\n" % pair for pair in variant.not_modified]), b""
        now_s = self._responses.now_s()
        age_s = max(0, int(now_s - answer.made_s))
        parts = [STATUS_LINES[status], lines, self._varies]
        if answer.told is not None:
            parts.append(b"cache-control: %b\r\n" % (answer.told % (age_s + answer.client_ttl_s)))
        parts.append(b"age: %d\r\ncache-status: b1; hit; ttl=%d; detail=l1\r\n" % (age_s, answer.fresh_until_s - now_s))
        if decision is not None and self._limits is not None:
            parts.append(self._limits.lines(decision))
        parts += b"x-request-id: ", self._ids.of(fields.get(b"x-request-id")).encode(), b"\r\n"
        self._responses.counts.hits += 1
        self._identity.hits += asked.head.principal is not None
        self._count(asked, status)
        return Answer(b"".join(parts), body)

    def _count(self, asked: Asked, status: int) -> None:
        way = asked.head.way
        self._gate.served(way.rank)
        self._metrics.request_answered("GET", way.template, status, monotonic() - asked.began_s)


class Asked:
    """A request under way, until it is decided."""

    __slots__ = ("_changes", "_express", "_found", "began_s", "head", "waiter")

    def __init__(self, express: Express, head: Head, began_s: float) -> None:
        self._express = express
        self.head = head
        self.began_s = began_s
        self.waiter: Waiter | None = None
        self._changes = -1
        self._found: Found | None = None

    def find(self) -> Found | None:
        """Return the stored answer, as it is now; looked for again only if anything at all has changed."""
        changes = self._express.changes
        if changes != self._changes:
            self._changes = changes
            self._found = self._express.find(self.head.key, self.head.fields)
        return self._found

    def tell(self, decision: Decision | None) -> None:
        """Send what was decided. What was invalidated before the store decided is known here by now, and looked for again.

        Called by the connection to Redis, which an error here must not reach.
        """
        waiter = self.waiter
        if waiter is None:
            return
        answer: Answer | None = None
        try:
            found = self.find() if decision is not None and decision.allowed else None
            if decision is not None and (found is not None or not decision.allowed):
                answer = self._express.decided(self, found, decision)
        except Exception:  # noqa: BLE001 - whatever it was, the layers answer
            self._express.failed()
        waiter.take(answer, decision)


def _refusal(error: LimitExceeded, path: str, request_id: str) -> Answer:
    body = error.encoded(path, request_id)
    lines = [b"content-type: %b\r\ncontent-length: %d\r\ncache-control: no-store\r\n" % (PROBLEM_TYPE, len(body))]
    lines += [b"%b: %b\r\n" % pair for pair in error_headers(error)]
    return Answer(STATUS_LINES[error.status] + b"".join(lines) + b"x-request-id: %b\r\n" % request_id.encode(), body)
