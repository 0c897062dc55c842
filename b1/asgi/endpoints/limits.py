"""``/internal/limits``: the policies, where one caller stands, and a fresh start for a caller who was refused by mistake.

What ``b1 limits show`` and ``b1 limits reset`` talk to. Looking costs one round trip and spends nothing. Nothing here lists
callers: the store knows them by digest alone, so whoever asks has to say whom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any
from urllib.parse import parse_qsl

from b1.asgi.callers import with_keys
from b1.asgi.reply import send_json, send_problem
from b1.errors import Forbidden, MalformedRequest, RequestError
from b1.limiter import Caller, Limiter, Policy, PolicyState
from b1.limiter.address import UNKNOWN, canonical
from b1.types import Receive, Scope, Send

LIMITS_PATH = "/internal/limits"
METHODS = frozenset({"GET", "HEAD", "DELETE"})
_FIELDS = frozenset({"actor", "organization", "address", "role", "tier", "key", "policy"})
_ALWAYS = frozenset({"name", "quota", "window_s", "scope"})
_NOBODY = "-"


class LimitsDesk:
    """The endpoint as an ASGI application; whoever serves it has checked the admin token."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = _asked(scope)
            answer = await (self._reset if scope["method"] == "DELETE" else self._show)(asked, scope)
        except RequestError as error:
            await send_problem(send, error, scope)
            return
        await send_json(send, 200, answer, headers=[(b"cache-control", b"no-store")])

    async def _show(self, asked: Mapping[str, str], _: Scope) -> dict[str, Any]:
        limiter = self._limiter
        answer: dict[str, Any] = {
            "limiter": asdict(limiter.snapshot()),
            "policies": [describe(policy) for policy in limiter.table.values()],
        }
        if asked:
            caller, names = self._whom(asked)
            decision = await limiter.check(names, caller, cost=0, commit=False)
            answer["caller"] = dict(asked)
            answer["states"] = [_state(state) for state in decision.states]
        return answer

    async def _reset(self, asked: Mapping[str, str], scope: Scope) -> dict[str, Any]:
        if any(name == b"origin" for name, _ in scope["headers"]):
            raise Forbidden("limits are reset from the command line, not from a page")
        if not asked:
            raise MalformedRequest("say whose limits: actor, organization, address, or key with policy")
        caller, names = self._whom(asked)
        before = (await self._limiter.check(names, caller, cost=0, commit=False)).states
        for state in before:
            if state.used:
                await self._limiter.refund((state.name,), caller, cost=state.used)
        await self._limiter.pardon(caller)
        after = (await self._limiter.check(names, caller, cost=0, commit=False)).states
        return {
            "caller": dict(asked),
            "given_back": {state.name: state.used for state in before if state.used},
            "states": [_state(state) for state in after],
        }

    def _whom(self, asked: Mapping[str, str]) -> tuple[Caller, tuple[str, ...]]:
        """Return the caller, and the policies that count what was asked for."""
        table, actor, organization = self._limiter.table, asked.get("actor"), asked.get("organization")
        address = canonical(asked["address"]) if "address" in asked else UNKNOWN
        if "address" in asked and address == UNKNOWN != asked["address"]:
            raise MalformedRequest(f"{asked['address']!r} is no address")
        caller = Caller(address, actor, organization, asked.get("role", "MEMBER"), asked.get("tier", "free"))
        if asked.get("policy", next(iter(table))) not in table:
            raise MalformedRequest(f"no policy is called {asked['policy']!r}; there are {', '.join(table)}")
        if "key" in asked:
            return with_keys(caller, ((asked["policy"], asked["key"]),)), (asked["policy"],)
        if actor is None and organization is not None:
            caller = caller._replace(actor=_NOBODY)  # a policy per organisation counts whoever acts in it
        names = [name for name, policy in table.items() if _counts(policy, asked)]
        return caller, tuple(names)


def describe(policy: Policy) -> dict[str, Any]:
    """Return a policy as JSON: its first four fields, and of the others what differs from the default."""
    described: dict[str, Any] = {}
    for one in fields(policy):
        value = getattr(policy, one.name)
        if one.name == "tiers":
            value = dict(value)
        if one.name in _ALWAYS or (value and value != one.default):
            described[one.name] = "by request" if callable(value) else value
    return described


def _asked(scope: Scope) -> dict[str, str]:
    asked = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))
    unknown = sorted(asked.keys() - _FIELDS)
    if unknown:
        raise MalformedRequest(f"unknown parameters {', '.join(unknown)}; there are {', '.join(sorted(_FIELDS))}")
    # What somebody's variable left empty is no name, and without it the rest would name more.
    if empty := sorted(name for name, value in asked.items() if not value):
        raise MalformedRequest(f"{', '.join(empty)}: given and empty")
    if asked and not asked.keys() & {"actor", "organization", "address", "key"}:
        raise MalformedRequest("say whose limits: actor, organization, address, or key with policy")
    if "key" in asked and "policy" not in asked:
        raise MalformedRequest("a key belongs to a policy: name it too")
    return asked


def _counts(policy: Policy, asked: Mapping[str, str]) -> bool:
    if asked.get("policy", policy.name) != policy.name:
        return False
    if "actor" in asked:
        return "actor" in policy.scope and ("+address" not in policy.scope or "address" in asked)
    if "organization" in asked:
        return policy.scope == "organization"
    return True  # a stranger: every policy counts the address


def _state(state: PolicyState) -> dict[str, Any]:
    return {
        "policy": state.name,
        "limit": state.limit,
        "used": state.used,
        "remaining": state.remaining,
        "reset_s": state.reset_s,
        "window_s": state.window_s,
    }
