"""Makes stored answers without a client, and notes which ones are made because somebody wants them.

The tap lies below the cache: it sees misses and refreshes, never a hit, so a hit costs nothing. What it notes has no
credentials: a handler that reads the token itself, instead of the principal, cannot be warmed.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from b1.asgi.caching.load import Load
from b1.asgi.caching.refreshing import _nobody_there
from b1.asgi.context import CONTEXT, RequestContext
from b1.cache.warming import AnswerSubject, NotWarmed
from b1.cache.warming.users import actor_versions
from b1.logs import REQUEST_ID
from b1.store.base import CacheAnswer, CacheState
from b1.types import ASGIApp, Headers, Principal, Receive, Scope, Send

if TYPE_CHECKING:
    from b1.asgi.caching.lookup import Lookup
    from b1.asgi.caching.plan import RoutePlan
    from b1.asgi.caching.service import ResponseCache
    from b1.asgi.routes import RouteTable

Saw = Callable[[str, AnswerSubject], None]
Server = tuple[str, int | None]

_ENCODING = b"accept-encoding"
# Never written down: with it, whoever reads what was learnt could act as its owner.
_SECRET = frozenset({b"authorization"})
_USUAL_ENCODINGS = "gzip"


class AnswerWarmer:
    """Warms answers of one application.

    Args:
        saw: hears which answer is made for whom.
        scheme: of the requests, until the first one shows it; it is a part of what an answer is kept under.
        server: the address that is asked, until then; handlers see it where no host is configured.
    """

    def __init__(
        self,
        responses: ResponseCache,
        routes: RouteTable,
        *,
        saw: Saw = lambda *_: None,
        scheme: str = "http",
        server: Server | None = None,
    ) -> None:
        self._responses = responses
        self._routes = routes
        self._saw = saw
        self._scheme = scheme
        self._server = server
        self._encodings = _USUAL_ENCODINGS
        self._app: ASGIApp | None = None
        self._like: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<AnswerWarmer scheme={self._scheme} has_app={self._app is not None}>"

    def tap(self, app: ASGIApp) -> ASGIApp:
        """Return the application below the cache as the cache should call it: each run is noted."""
        self._app = app

        def tapped(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            context: RequestContext | None = scope.get("b1")
            if context is not None and context.route.options.cache is not None and scope["method"] == "GET":
                self._note(scope, context)
            return app(scope, receive, send)

        return tapped

    def like(self, scope: Mapping[str, Any]) -> None:
        """Take what requests have in common (``app``, ``root_path``, ``state``) from one: the lifespan's will do."""
        self._like = {name: scope[name] for name in ("app", "root_path") if name in scope}
        if "state" in scope:
            self._like["state"] = dict(scope["state"])  # what this request's own layers add to it is nobody else's

    def subject(self, path: str, principal: Principal | None) -> AnswerSubject:
        """Return the request for a path that was declared, as the last request looked like."""
        name, _, query = path.partition("?")
        met_s = self._responses.wall_s()
        return AnswerSubject(self._scheme, name, query, (), self._encodings, principal, met_s, self._server)

    async def warm(self, subject: AnswerSubject) -> str:
        """Make an answer as a request of that principal would, and keep it; return its name in L1.

        It is not charged to anybody's limits, and nobody waits for it: a request that comes meanwhile runs by itself.

        Raises:
            NotWarmed: it is fresh already, its route is not cached, the principal may not see it, or it cannot be kept.
            Exception: what the handler raises.
        """
        route, values = self._routes.find("GET", subject.path)
        if self._app is None or route.options.cache is None:
            raise NotWarmed("route")
        responses = self._responses
        plan = responses.plan_of(route)
        if not _may_see(plan, subject.principal):
            raise NotWarmed("forbidden")
        headers: Headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in subject.headers]
        fields = {**dict(headers), _ENCODING: subject.encodings.encode("latin-1")}
        context = RequestContext(os.urandom(16).hex(), responses.now_s(), route, values, fields)
        context.principal = subject.principal
        scope = self._scope(subject, headers, context)
        lookup = responses.look_up(plan, context, scope)
        if lookup is None:
            raise NotWarmed("unkept")
        if lookup.found is not None and not lookup.found.is_stale:
            raise NotWarmed("present")
        await self._bring(lookup, scope, context)
        return lookup.key

    async def _bring(self, lookup: Lookup, scope: Scope, context: RequestContext) -> None:
        responses = self._responses
        lookup.found = None  # nothing stale stands in for a failure: nobody waits
        told = await responses.ask(lookup)
        if told is not None and self._is_settled(lookup, told):
            return
        assert self._app is not None
        load = Load(responses, lookup, scope, context, None)
        before, request_id = CONTEXT.set(context), REQUEST_ID.set(context.request_id)
        try:
            await load.run(self._app, _nobody_there())
        finally:
            CONTEXT.reset(before)
            REQUEST_ID.reset(request_id)
        if not load.is_kept:
            raise NotWarmed("failed" if load.status >= 500 else "unkept")

    def _is_settled(self, lookup: Lookup, told: CacheAnswer) -> bool:
        """Say whether the shared store has the answer.

        Raises:
            NotWarmed: another process makes it.
        """
        responses = self._responses
        responses.note(lookup, told)
        # The lease would have others wait for us, and this run gives way to everybody.
        responses.give_up(lookup)
        if told.state is CacheState.HIT:
            return responses.unpack(lookup, told) is not None
        if told.state is CacheState.LOADING:
            raise NotWarmed("present")
        return False

    def _scope(self, subject: AnswerSubject, headers: Headers, context: RequestContext) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": subject.scheme,
            "path": subject.path,
            "raw_path": subject.path.encode("utf-8", "surrogatepass"),
            "query_string": subject.query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": headers,
            "client": None,
            "server": subject.server,
            **self._like,
            "state": dict(self._like.get("state", ())),
            "b1": context,
        }

    def _note(self, scope: Scope, context: RequestContext) -> None:
        responses, principal, fields = self._responses, context.principal, context.fields
        plan = responses.plan_of(context.route)
        if b"range" in fields or (principal is None and not plan.is_public):
            return
        if not self._like:
            self.like(scope)
        self._scheme, self._server = scope["scheme"], scope.get("server")
        if _ENCODING in fields:
            self._encodings = fields[_ENCODING].decode("latin-1")[:64]
        path, raw_path = scope["path"], scope.get("raw_path")
        if raw_path is not None and raw_path != path.encode("utf-8", "surrogatepass"):
            return  # "%2F" and "/" are two answers of one path; such paths are no dashboards
        if plan.is_public:
            principal = None
        versions = () if principal is None else actor_versions(responses.l1, principal)
        subject = AnswerSubject(
            scheme=self._scheme,
            path=path,
            query=scope["query_string"].decode("latin-1"),
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in scope["headers"]
                if name in plan.varies_by and name not in _SECRET and name != _ENCODING
            ),
            encodings=self._encodings,
            principal=principal,
            met_s=responses.wall_s(),
            server=self._server,
            versions=versions,
        )
        self._saw(plan.key(scope, context.principal, fields), subject)


def _may_see(plan: RoutePlan, principal: Principal | None) -> bool:
    if principal is None:
        return plan.is_public
    return plan.allow is None or plan.allow(principal)
