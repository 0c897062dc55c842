"""The 503 of a full service, prepared: it is the most frequent answer of an overloaded server.

Only request id and path are filled in. When to come back is drawn, so that the refused do not come together.
"""

from __future__ import annotations

from random import Random

import orjson

from b1.asgi.reply import PROBLEM_TYPE, problem
from b1.errors import Overloaded
from b1.types import Scope, Send


class RetryLater:
    """Answers with the problem document and a Retry-After.

    Args:
        least_s, most_s: bounds of the Retry-After, whole seconds.
        random: draws it.
    """

    def __init__(self, least_s: int, most_s: int, random: Random) -> None:
        self._answers = [_Prepared(seconds) for seconds in range(least_s, most_s + 1)]
        self._random = random

    def __repr__(self) -> str:
        return f"<RetryLater answers={len(self._answers)}>"

    async def send(self, send: Send, scope: Scope, request_id: str, *, closes: bool = False) -> None:
        """Answer. `request_id` needs no escaping, see `observe`."""
        await self._random.choice(self._answers).send(send, scope, request_id, closes=closes)


class _Prepared:
    """A problem document with two blanks."""

    def __init__(self, retry_after_s: int) -> None:
        blank = problem(
            status=Overloaded.status,
            code=Overloaded.code,
            title=Overloaded.title,
            detail="The service is at its limit: repeat the request after the given time.",
            retry_after=retry_after_s,
        )
        self._before = orjson.dumps(blank)[:-1] + b',"instance":'
        self._headers = [
            (b"content-type", PROBLEM_TYPE),
            (b"cache-control", b"no-store"),
            (b"retry-after", str(retry_after_s).encode()),
        ]

    async def send(self, send: Send, scope: Scope, request_id: str, *, closes: bool) -> None:
        body = b'%b%b,"requestId":"%b"}' % (self._before, orjson.dumps(scope["path"]), request_id.encode())
        headers = [*self._headers, (b"content-length", b"%d" % len(body))]
        if closes:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": Overloaded.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
