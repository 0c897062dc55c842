"""A refusal of the limiter as it is sent: its headers, and its problem document as bytes.

An attack is answered with the same refusal again and again, so what its requests have in common is encoded once: all but
the path and the request's id. The bytes are those that `b1.asgi.reply.problem_of` would give.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from b1.errors import RateLimited
from b1.limiter import (
    Decision,
    Dialect,
    PolicyState,
    decision_headers,
    error_of,
    refusal_detail,
    refusal_members,
    type_of,
)
from b1.types import Headers


class LimitExceeded(RateLimited):
    """A refusal of the limiter, ready to be sent: over a quota, shut out (``PENALTY_ACTIVE``) or never let in (403)."""

    def __init__(self, decision: Decision, *, upgrade_url: str, dialect: Dialect = "draft-11") -> None:
        self._fill(Refusal(decision, upgrade_url, dialect))

    @classmethod
    def of(cls, refusal: Refusal) -> LimitExceeded:
        """Return the error of a refusal that may have been sent before."""
        error = cls.__new__(cls)
        error._fill(refusal)
        return error

    @property
    def members(self) -> Mapping[str, Any]:
        """What the document has beside and instead of the common members."""
        return refusal_members(self.decision, upgrade_url=self.refusal.upgrade_url)

    def _fill(self, refusal: Refusal) -> None:
        decision, kind = refusal.decision, error_of(refusal.decision)
        super().__init__(refusal.detail, retry_after=None if decision.is_denied else decision.retry_after_s)
        self.code, self.status, self.title = kind.code, kind.status, kind.title
        if decision.is_denied:
            self.retry_after = None
        self.decision = decision
        self.refusal = refusal
        self.headers: Headers = refusal.headers

    def encoded(self, instance: str | None, request_id: str | None) -> bytes:
        """Return the problem document."""
        return self.refusal.encoded(instance, request_id)


class Refusal:
    """What all answers to one decision have in common.

    Attributes:
        headers: of every answer; nobody changes them.
    """

    __slots__ = ("_head", "_tail", "decision", "detail", "headers", "upgrade_url")

    def __init__(self, decision: Decision, upgrade_url: str, dialect: Dialect) -> None:
        self.decision = decision
        self.upgrade_url = upgrade_url
        self.detail = refusal_detail(decision)
        self.headers = decision_headers(decision, dialect)
        kind = error_of(decision)
        self._head = _head(type_of(decision), kind.title, kind.status, self.detail, kind.code)
        self._tail: bytes | None = None

    def encoded(self, instance: str | None, request_id: str | None) -> bytes:
        """Return the problem document for one request."""
        if self._tail is None:
            self._tail = b"}" if self.decision.is_denied else _tail(self.decision, self.upgrade_url)
        parts = [self._head]
        if instance is not None:
            parts += b',"instance":', _text(instance)
        if request_id is not None:
            parts += b',"requestId":', _text(request_id)
        parts.append(self._tail)
        return b"".join(parts)


@lru_cache(maxsize=256)
def _head(type_uri: str, title: str, status: int, detail: str, code: str) -> bytes:
    members = {"type": type_uri, "title": title, "status": status, "detail": detail, "code": code}
    return orjson.dumps(members)[:-1]


def _tail(decision: Decision, upgrade_url: str) -> bytes:
    limits = b",".join([_limit(state, decision.now_s) for state in decision.states])
    return b',"retryAfter":%d,"currentTier":%b,"upgradeUrl":%b,"limits":[%b],"violated-policies":%b}' % (
        decision.retry_after_s,
        _kept_text(decision.tier),
        _kept_text(upgrade_url),
        limits,
        orjson.dumps(decision.violated),
    )


def _limit(state: PolicyState, now_s: int) -> bytes:
    name, limit, remaining, used, reset_s, window_s = state
    return _limit_pattern(name, limit, window_s) % (remaining, used, _moment(now_s + reset_s))


@lru_cache(maxsize=1024)
def _limit_pattern(name: str, limit: int, window_s: int) -> bytes:
    # Names of policies have no character that is special in JSON or in a format.
    return b'{"policy":"%b","limit":%d,"remaining":%%d,"used":%%d,"window":%d,"reset":"%%b"}' % (
        name.encode(), limit, window_s,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _moment(second: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second)).encode()


@lru_cache(maxsize=64)
def _kept_text(text: str) -> bytes:
    return _text(text)


def _text(text: str) -> bytes:
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:  # half a surrogate pair
        return json.dumps(text).encode()
