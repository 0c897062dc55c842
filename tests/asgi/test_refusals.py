"""A refusal as bytes: those of the problem document that is built member by member, whoever asks and however often."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from b1.asgi.context import RequestContext
from b1.asgi.refusals import LimitExceeded, Refusal
from b1.asgi.reply import encoded, problem_of
from b1.asgi.routes import NO_ROUTE
from b1.limiter import Decision, Dialect, PolicyState
from b1.limiter.deciding import denied
from b1.limiter.decision import Caller

NOW_S = 1_750_032_000
GENERAL = PolicyState("general", 100, 0, 100, 4, 60)
REPORTS = PolicyState("reports", 2, 0, 2, 1, 0)


def _decision(*states: PolicyState, **more: Any) -> Decision:
    violated = tuple(state.name for state in states if not state.remaining)
    return Decision(False, violated, states[0] if states else None, states, 4, "pro", "redis", NOW_S)._replace(**more)


DECISIONS = {
    "over": _decision(GENERAL, PolicyState("read", 1000, 999, 1, 60, 60)),
    "concurrency": _decision(REPORTS),
    "shut out": _decision(GENERAL, is_penalty=True, violated=()),
    "shut out, nothing counted": _decision(is_penalty=True),
    "never let in": denied(Caller("1.2.3.4"), "memory"),
    "strange tier": _decision(GENERAL, tier='ümlaut "quoted"\\ \u2028'),
}


def _context(request_id: str) -> RequestContext:
    return RequestContext(request_id, 0.0, NO_ROUTE, {}, {})


@pytest.mark.parametrize("name", DECISIONS)
@pytest.mark.parametrize("path", ["/v1/x", '/ü"\\\n', None])
def test_the_bytes_are_those_of_the_members(name: str, path: str | None) -> None:
    error = LimitExceeded(DECISIONS[name], upgrade_url='/plans?a=1&b="2"')
    for context in (_context("request-1"), None):
        assert orjson.dumps(problem_of(error, context, path)) == encoded(error, context, path)


def test_random_states_too() -> None:
    chance = random.Random(1)
    for _ in range(300):
        states = tuple(
            PolicyState(f"p-{number}", chance.randint(1, 2**31), chance.randint(0, 5), chance.randint(0, 10**6),
                        chance.randint(1, 10**5), chance.choice((0, 60, 86_400)))
            for number in range(chance.randint(1, 5))
        )  # fmt: skip
        error = LimitExceeded(_decision(*states, retry_after_s=chance.randint(1, 10**6)), upgrade_url="/plans")
        context = _context(str(chance.random()))
        assert orjson.dumps(problem_of(error, context, "/")) == encoded(error, context, "/")


@pytest.mark.parametrize("dialect", ["draft-11", "off"])
def test_a_refusal_that_is_sent_again_differs_in_path_and_id_alone(dialect: Dialect) -> None:
    refusal = Refusal(DECISIONS["over"], "/plans", dialect)
    for number in range(3):
        error, context = LimitExceeded.of(refusal), _context(f"request-{number}")
        fresh = LimitExceeded(DECISIONS["over"], upgrade_url="/plans", dialect=dialect)
        assert encoded(fresh, context, f"/{number}") == encoded(error, context, f"/{number}")
        assert (fresh.headers, fresh.retry_after, str(fresh)) == (error.headers, error.retry_after, str(error))


def test_half_a_surrogate_pair_is_escaped() -> None:
    error = LimitExceeded(_decision(GENERAL, tier="\ud800"), upgrade_url="/plans")
    assert b'"currentTier":"\\ud800"' in encoded(error, None, "/")
