"""Keys: nobody shares one by accident, nobody is named in one."""

from __future__ import annotations

import itertools

import pytest

from b1.limiter import Policy
from b1.limiter.keys import charge_key
from b1.limiter.policy import SCOPES, Scope


def _key(
    scope: Scope = "actor+organization",
    *,
    address: str = "1.2.3.4",
    actor: str | None = "a",
    organization: str | None = "o",
    name: str = "p",
    counter: str | None = None,
    custom: str | None = None,
) -> str:
    policy = Policy(name, 1, 60, scope=scope, counter=counter)
    return charge_key(policy, address=address, actor=actor, organization=organization, custom=custom)


def test_parts_that_read_the_same_when_joined_are_different_callers() -> None:
    parts = ["a", "b", "a:b", "b:c", "c", "", "ab", "a\0b", "aa", "1:a"]
    keys = [_key(actor=actor, organization=organization) for actor, organization in itertools.product(parts, parts)]
    assert len(set(keys)) == len(keys)


def test_the_scope_is_part_of_the_key() -> None:
    keys = {_key(scope, address="x", actor="x", organization="x") for scope in SCOPES if scope != "custom"}
    assert len(keys) == len(SCOPES) - 1


def test_a_text_of_the_callers_own_is_counted_whatever_the_scope_says() -> None:
    keys = {_key(scope, custom="x") for scope in SCOPES}
    assert len(keys) == 1
    assert keys.isdisjoint({_key(scope, actor="x") for scope in SCOPES})
    assert _key("custom") == _key("actor")


@pytest.mark.parametrize(
    ("scope", "same", "different"),
    [
        ("address", {"actor": "b", "organization": "p"}, {"address": "5.6.7.8"}),
        ("actor", {"address": "5.6.7.8", "organization": "p"}, {"actor": "b"}),
        ("organization", {"address": "5.6.7.8", "actor": "b"}, {"organization": "p"}),
        ("actor+organization", {"address": "5.6.7.8"}, {"organization": "p"}),
        ("actor+address", {"organization": "p"}, {"address": "5.6.7.8"}),
    ],
)
def test_a_scope_counts_what_it_says(scope: Scope, same: dict[str, str], different: dict[str, str]) -> None:
    assert _key(scope, **same) == _key(scope)
    assert _key(scope, **different) != _key(scope)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_caller_without_an_actor_is_counted_by_address(scope: Scope) -> None:
    assert _key(scope, actor=None) == _key("address")


def test_policies_with_one_counter_count_together() -> None:
    assert _key(name="known", counter="p") == _key(name="p")


def test_a_key_names_the_policy_and_nobody() -> None:
    key = _key(address="203.0.113.7", actor="user@example.com", organization="acme")
    assert key.startswith("limit:p:")
    assert not any(text in key for text in ("203.0.113.7", "user", "acme"))


def test_any_text_can_be_counted() -> None:
    assert _key(actor="\ud800") != _key(actor="\udfff")
