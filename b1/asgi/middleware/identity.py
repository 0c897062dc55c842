"""Who is calling: a bearer token becomes `context.principal`; no token leaves it None; a bad one is refused here.

A refusal costs the caller's *address*, never the account that the token names: otherwise anybody could use up a victim's
quota with forged tokens.
"""

from __future__ import annotations

from collections.abc import Awaitable

from b1.asgi.context import RequestContext
from b1.asgi.limits import Limits
from b1.asgi.reply import send_problem
from b1.errors import Forbidden, RequestError, Unauthenticated
from b1.identity import Identity
from b1.types import ASGIApp, Receive, Scope, Send


class IdentityLayer:
    """Establishes the principal."""

    def __init__(self, app: ASGIApp, *, identity: Identity, limits: Limits | None) -> None:
        self._app = app
        self._identity = identity
        self._limits = limits

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            context: RequestContext = scope["b1"]
            authorization = context.fields.get(b"authorization")
            if authorization is not None:
                known = self._identity.known(authorization, context.fields.get(b"x-organization-id"))
                if known is None:
                    return self._authenticated(authorization, scope, receive, send)
                self._identity.hits += 1
                context.principal = known
        return self._app(scope, receive, send)

    async def _authenticated(self, authorization: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Look up who is not known yet."""
        context: RequestContext = scope["b1"]
        try:
            context.principal = await self._identity.authenticate(
                authorization, context.fields.get(b"x-organization-id")
            )
        except RequestError as error:
            await self._refuse(error, scope, send)
            return
        await self._app(scope, receive, send)

    async def _refuse(self, error: RequestError, scope: Scope, send: Send) -> None:
        if self._limits is not None and isinstance(error, Unauthenticated | Forbidden):
            refusal = await self._limits.charge_address(scope["b1"])
            if refusal is not None:
                error = refusal
        await send_problem(send, error, scope)
