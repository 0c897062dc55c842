"""Who is calling and for which organisation, as the numbers that the queries want."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.errors import OrganizationRequired
from app.openapi import IN_TENANT
from app.profile import b1

MAY_DELETE_ANYTHING = frozenset({"MANAGER", "ORG_ADMIN", "ORG_OWNER"})


@dataclass(frozen=True, slots=True)
class Tenant:
    """The organisation that a request acts in, and who acts."""

    organization: int
    actor: int
    role: str


def tenant() -> Tenant:
    """Return the tenant of the current request.

    Raises:
        Unauthenticated: nobody is signed in.
        OrganizationRequired: the request names no organisation and the caller has not exactly one.
    """
    principal = b1.principal()
    if principal.organization is None:
        raise OrganizationRequired
    return Tenant(int(principal.organization), int(principal.actor), principal.role)


class TenantRoute(APIRoute):
    """A route that refuses strangers before it reads their body, so that they learn nothing about its fields."""

    def __init__(self, *args: Any, openapi_extra: dict[str, Any] | None = None, **options: Any) -> None:
        own = openapi_extra or {}
        parameters = [*IN_TENANT["parameters"], *own.get("parameters", ())]
        super().__init__(*args, openapi_extra={**IN_TENANT, **own, "parameters": parameters}, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_for_tenant(request: Request) -> Response:
            tenant()
            return await handle(request)

        return handle_for_tenant
