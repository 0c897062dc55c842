"""What a client reads: header fields and the problem document."""

from __future__ import annotations

import re

import pytest

from b1.limiter import (
    Decision,
    Dialect,
    PolicyState,
    decision_headers,
    decision_lines,
    refusal_body,
    refusal_members,
)

NOW_S = 1_795_251_600  # 2026-11-21T09:00:00Z
GENERAL = PolicyState("general", 100, 13, 87, 4, 60)
DAILY = PolicyState("daily", 1000, 412, 588, 86, 86_400)
SPENT = PolicyState("general", 100, 0, 100, 4, 60)
PASSED = Decision(True, (), GENERAL, (GENERAL, DAILY), 0, "pro", "redis", NOW_S)
REFUSED = Decision(False, ("general",), SPENT, (SPENT, DAILY), 4, "pro", "redis", NOW_S)


def _headers(decision: Decision, dialect: Dialect = "draft-11") -> dict[str, str]:
    pairs = decision_headers(decision, dialect)
    assert len({name for name, _ in pairs}) == len(pairs)
    return {name.decode(): value.decode() for name, value in pairs}


def test_an_answer_that_passes_shows_the_policy_nearest_to_exhaustion() -> None:
    assert _headers(PASSED) == {
        "x-ratelimit-limit": "100",
        "x-ratelimit-remaining": "13",
        "x-ratelimit-used": "87",
        "x-ratelimit-reset": "2026-11-21T09:00:04Z",
        "x-ratelimit-window": "60",
        "x-ratelimit-tier": "pro",
        "ratelimit-policy": '"general";q=100;w=60',
        "ratelimit": '"general";r=13;t=4',
    }


def test_a_refusal_shows_all_policies_and_when_to_come_back() -> None:
    headers = _headers(REFUSED)
    assert headers["ratelimit-policy"] == '"general";q=100;w=60, "daily";q=1000;w=86400'
    assert headers["ratelimit"] == '"general";r=0;t=4, "daily";r=412;t=86'
    assert headers["retry-after"] == "4"
    assert headers["x-ratelimit-remaining"] == "0"
    assert headers["x-ratelimit-reset"] == "2026-11-21T09:00:04Z"


def test_the_next_revision_of_the_draft_renames_two_parameters() -> None:
    headers = _headers(REFUSED, "pr166")
    assert headers["ratelimit"] == '"general";a=0;w=4, "daily";a=412;w=86'


def test_legacy_leaves_the_drafts_fields_out() -> None:
    assert set(_headers(REFUSED, "legacy")) == {
        *(f"x-ratelimit-{word}" for word in ("limit", "remaining", "used", "reset", "window", "tier")),
        "retry-after",
    }


def test_off_leaves_only_when_to_come_back() -> None:
    assert _headers(REFUSED, "off") == {"retry-after": "4"}
    assert _headers(PASSED, "off") == {}


def test_without_a_policy_there_is_nothing_to_say() -> None:
    assert _headers(Decision(True, (), None, (), 0, "free", "memory", 0)) == {}


@pytest.mark.parametrize("tier", ["pro\r\nset-cookie: a=b", "é", "a b", "x" * 1000, '"'])
def test_a_tier_from_a_token_cannot_end_its_field(tier: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", _headers(PASSED._replace(tier=tier))["x-ratelimit-tier"])


def test_a_refusal_is_a_problem_document() -> None:
    body = refusal_body(REFUSED, request_id="r-1", instance="/v1/entities", upgrade_url="/plans")
    assert body == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "detail": 'Policy "general" allows 100 requests per 60 s.',
        "instance": "/v1/entities",
        "code": "RATE_LIMIT_EXCEEDED",
        "requestId": "r-1",
        "retryAfter": 4,
        "currentTier": "pro",
        "upgradeUrl": "/plans",
        "limits": [
            {"policy": "general", "limit": 100, "remaining": 0, "used": 100,
             "window": 60, "reset": "2026-11-21T09:00:04Z"},
            {"policy": "daily", "limit": 1000, "remaining": 412, "used": 588,
             "window": 86_400, "reset": "2026-11-21T09:01:26Z"},
        ],
        "violated-policies": ["general"],
    }  # fmt: skip


def test_the_members_are_those_that_a_refusal_adds() -> None:
    members = refusal_members(REFUSED, upgrade_url="/plans")
    assert {"title", "status", "code", "instance", "requestId"}.isdisjoint(members)


@pytest.mark.parametrize("dialect", ["draft-11", "pr166", "legacy", "off"])
@pytest.mark.parametrize(
    "decision",
    [
        PASSED,
        PASSED._replace(tier="100 % odd\r\nx: y"),
        PASSED._replace(mode="local"),
        PASSED._replace(nearest=None),
        PASSED._replace(nearest=GENERAL._replace(window_s=0)),
        REFUSED,
    ],
    ids=["passed", "odd tier", "local", "no policy", "concurrency", "refused"],
)
def test_the_lines_are_the_headers_as_they_are_written(decision: Decision, dialect: Dialect) -> None:
    expected = b"".join(b"%b: %b\r\n" % pair for pair in decision_headers(decision, dialect))
    assert expected == decision_lines(decision, dialect)
