"""``DELETE /internal/idempotency/{organization}``: forget every finished key of an organisation.

For the end of a contract, or a person's right to be forgotten. What was asked under one of these keys may then happen
again, so only an operator should come here; what is in flight meanwhile stays, and expires by itself.
One call works for `LIMIT_S` at most and says where to go on: a front end would end a longer one without a word.
"""

from __future__ import annotations

import logging
from urllib.parse import parse_qs

from b1.asgi.reply import send_json, send_problem
from b1.errors import Forbidden, MalformedRequest, RequestError
from b1.idempotency import Idempotency
from b1.types import Receive, Scope, Send

KEYS_PATH = "/internal/idempotency/"
METHODS = frozenset({"DELETE"})
LIMIT_S = 20.0

log = logging.getLogger("b1.idempotency")


class KeysDesk:
    """The endpoint as an ASGI application, for every path below `KEYS_PATH`; whoever serves it has checked the admin token.

    Args:
        limit_s: longest work of one call.
    """

    def __init__(self, service: Idempotency, *, limit_s: float = LIMIT_S) -> None:
        self._service = service
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            organization, after = _asked(scope)
            purged = await self._service.purge_organization(organization, after=after, limit_s=self._limit_s)
        except RequestError as error:
            await send_problem(send, error, scope)
            return
        log.warning(
            "idempotency keys purged",
            extra={
                "organization": organization,
                "rows": purged.rows,
                "storeKeys": purged.store_keys,
                "isComplete": purged.next is None,
            },
        )
        answer = {
            "organization": organization,
            "rows": purged.rows,
            "store_keys": purged.store_keys,
            "next": purged.next,
        }
        await send_json(send, 200, answer, headers=[(b"cache-control", b"no-store")])


def _asked(scope: Scope) -> tuple[str, str]:
    """Return the organisation, and where to go on; an id may have any characters, a slash included."""
    if any(name == b"origin" for name, _ in scope["headers"]):
        raise Forbidden("keys are purged from the command line, not from a page")
    organization = scope["path"].partition(KEYS_PATH)[2]
    if not organization:
        raise MalformedRequest(f"name the organisation: DELETE {KEYS_PATH}17")
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    unknown = sorted(query.keys() - {"after"})
    if unknown:
        raise MalformedRequest(f"unknown parameters {', '.join(unknown)}; there is `after`, the last answer's `next`")
    return organization, query.get("after", [""])[-1]
