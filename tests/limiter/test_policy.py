"""Policies and their table: what is read, what is refused, what a role and a tier are worth."""

from __future__ import annotations

from typing import Any

import pytest

from b1.errors import ConfigurationError
from b1.limiter import DEFAULT_POLICIES, Policy, PolicyTable, parse_rate, scaled
from b1.store.base import MAX_UNITS


@pytest.mark.parametrize(
    ("text", "quota", "window_s"),
    [
        ("100/minute", 100, 60),
        ("1/s", 1, 1),
        ("1/day", 1, 86_400),
        ("5 per 10 seconds", 5, 10),
        ("1 per 5 minutes", 1, 300),
        ("10 / 2h", 10, 7200),
        ("  20/Minute ", 20, 60),
        ("1 per hour", 1, 3600),
    ],
)
def test_a_rate_is_read(text: str, quota: int, window_s: int) -> None:
    assert parse_rate(text) == (quota, window_s)


@pytest.mark.parametrize(
    "text",
    [None, "", "meow", "100", "100/", "/minute", "1 per millenium", "1 per yearl; 2 per decade", "1/day;2/hour", "0/minute",
     "5 per 0 seconds", "-1/minute", "1.5/minute", "1e3/minute", "١/minute", "100/minutess", "1/year"],
)  # fmt: skip
def test_what_is_no_rate_is_refused_with_what_was_seen(text: Any) -> None:
    with pytest.raises(ValueError, match="is not a rate") as caught:
        parse_rate(text)
    assert repr(text) in str(caught.value)


def test_a_rate_makes_a_policy() -> None:
    policy = Policy("downloads", *parse_rate("5 per 10 seconds"))
    assert (policy.quota, policy.window_s) == (5, 10)


@pytest.mark.parametrize("name", ["", "A", "a b", 'a"b', "a:b", "é", "a" * 33, "a\n", None])
def test_a_name_that_headers_or_keys_cannot_carry_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no policy name"):
        Policy(name, 1, 60)


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), MAX_UNITS + 1, True, "5", None])
def test_a_quota_that_is_no_whole_number_above_zero_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="policy p: quota is"):
        Policy("p", value, 60)
    with pytest.raises(ConfigurationError, match=r"policy p: tiers\['free'\] is"):
        Policy("p", 1, 60, tiers={"free": value})


@pytest.mark.parametrize("value", [0, -1, 0.5, 2**31])
def test_a_window_that_cannot_be_counted_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="policy p: window_s is"):
        Policy("p", 1, value)


def test_an_unknown_scope_or_algorithm_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="scope is 'ip'"):
        Policy("p", 1, 60, scope="ip")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="algorithm is 'token'"):
        Policy("p", 1, 60, algorithm="token")  # type: ignore[arg-type]


def test_a_policy_does_not_share_the_dictionary_it_was_made_from() -> None:
    tiers = {"free": 1}
    policy = Policy("p", 5, 60, tiers=tiers)
    tiers["free"] = 1000
    assert dict(policy.tiers) == {"free": 1}


def test_a_table_refuses_a_name_twice() -> None:
    with pytest.raises(ConfigurationError, match="'p' is in the table twice"):
        PolicyTable([Policy("p", 1, 60), Policy("p", 2, 60)])


def test_policies_that_share_a_counter_must_count_alike() -> None:
    with pytest.raises(ConfigurationError, match="'p' and 'q' share a counter"):
        PolicyTable([Policy("p", 1, 60), Policy("q", 2, 61, counter="p")])
    with pytest.raises(ConfigurationError, match="'q' and 'p' share a counter"):
        PolicyTable([Policy("q", 2, 60, counter="p", scope="address"), Policy("p", 1, 60)])


@pytest.mark.parametrize("factor", [0, -1, float("inf"), float("nan")])
def test_a_table_refuses_a_multiplier_that_is_none(factor: float) -> None:
    with pytest.raises(ConfigurationError, match="role OWNER"):
        PolicyTable([], roles={"OWNER": factor})


def test_an_unknown_policy_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="no policy is called 'serach': did you mean search"):
        DEFAULT_POLICIES.require("serach")


def _quota(name: str, role: str = "MEMBER", tier: str = "free", *, is_anonymous: bool = False) -> int:
    return DEFAULT_POLICIES.quota(DEFAULT_POLICIES[name], role=role, tier=tier, is_anonymous=is_anonymous)


@pytest.mark.parametrize(
    ("name", "tier", "expected"),
    [
        ("general", "free", 20),
        ("general", "pro", 100),
        ("general", "enterprise", 500),
        ("general", "basic", 20),
        ("general", "premium", 100),
        ("general", "nonsense", 20),
        ("entities", "free", 20),
        ("entities", "basic", 20),
        ("entities", "pro", 100),
        ("entities", "enterprise", 100),
        ("transactions", "free", 150),
        ("membership", "free", 200),
        ("read", "free", 100),
        ("write", "free", 20),
        ("delete", "free", 5),
        ("search", "free", 60),
        ("public", "free", 15),
        ("analysis", "free", 10),
        ("analysis", "pro", 100),
        ("analysis", "enterprise", 1000),
        ("authentication", "free", 5),
        ("authentication-known", "free", 15),
        ("authentication-address", "free", 50),
        ("authentication-account", "free", 100),
        ("health", "free", 1000),
    ],
)
def test_the_default_table_is_the_contracts(name: str, tier: str, expected: int) -> None:
    assert _quota(name, tier=tier) == expected


@pytest.mark.parametrize(
    ("role", "entities", "transactions"),
    [
        ("ORG_OWNER", 200, 300),
        ("ORG_ADMIN", 150, 225),
        ("MANAGER", 120, 180),
        ("MEMBER", 100, 150),
        ("GUEST", 100, 150),
    ],
)
def test_roles_multiply_class_limits_and_nothing_else(role: str, entities: int, transactions: int) -> None:
    assert _quota("entities", role, "pro") == entities
    assert _quota("transactions", role, "pro") == transactions
    assert _quota("write", role, "pro") == 20


def test_anonymous_search_has_a_quota_of_its_own() -> None:
    assert _quota("search", is_anonymous=True) == 18


def test_multipliers_lose_nothing_to_rounding() -> None:
    table = PolicyTable([Policy("p", 115, 60, role_scaled=True)])
    assert table.quota(table["p"], role="MANAGER", tier="free", is_anonymous=False) == 138


def test_scaling_multiplies_every_quota_and_keeps_the_rest() -> None:
    table = scaled(DEFAULT_POLICIES, 10)
    assert table["general"].quota == 200
    assert dict(table["general"].tiers) == {"pro": 1000, "enterprise": 5000}
    assert table["search"].anonymous_quota == 180
    assert table["search"].window_s == 60
    assert table.roles == DEFAULT_POLICIES.roles


def test_scaling_down_leaves_at_least_one() -> None:
    assert scaled(DEFAULT_POLICIES, 0.001)["delete"].quota == 1


def test_scaling_up_stops_at_what_can_be_counted() -> None:
    assert scaled(DEFAULT_POLICIES, 1e12)["health"].quota == MAX_UNITS


def test_a_table_with_other_policies_keeps_the_old_one_as_it_was() -> None:
    table = DEFAULT_POLICIES.with_policies(Policy("read", 1, 60), Policy("mine", 2, 60))
    assert (table["read"].quota, table["mine"].quota) == (1, 2)
    assert DEFAULT_POLICIES["read"].quota == 100
    assert "mine" not in DEFAULT_POLICIES
