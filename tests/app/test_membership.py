"""From a token's subject and a header to a principal, against a real Postgres."""

from __future__ import annotations

import pytest

from app.errors import OrganizationForbidden
from app.membership.service import membership_of, number, principal_of
from b1 import Credentials, Principal, Unauthenticated
from tests.app.conftest import Connection


async def credentials(pantry: Connection, email: str, organization: str | None = None) -> Credentials:
    actor = await pantry.fetchval("SELECT id FROM actors WHERE email = $1", email)
    return Credentials(str(actor), {}, organization)


async def join_second_organization(pantry: Connection, email: str) -> None:
    await pantry.execute(
        "INSERT INTO memberships SELECT id, 3, 'MANAGER' FROM actors WHERE email = $1",
        email,
    )


async def test_the_only_organization_is_meant_when_none_is_named(pantry: Connection) -> None:
    who = await credentials(pantry, "manager@example.com")

    assert await principal_of(pantry, who) == Principal(who.subject, "1", "MANAGER", "pro")


async def test_with_two_organizations_the_principal_names_none(pantry: Connection) -> None:
    await join_second_organization(pantry, "user@example.com")
    who = await credentials(pantry, "user@example.com")

    assert await principal_of(pantry, who) == Principal(who.subject)


async def test_the_named_organization_decides_role_and_tier(pantry: Connection) -> None:
    await join_second_organization(pantry, "user@example.com")
    who = await credentials(pantry, "user@example.com", " 3 ")

    assert await principal_of(pantry, who) == Principal(who.subject, "3", "MANAGER", "enterprise")


@pytest.mark.parametrize("organization", ["2", "99", "", "abc", "-1", "1.0", "²", "9" * 40, "9223372036854775808"])
async def test_a_foreign_an_unknown_and_an_impossible_organization_are_one_refusal(
    pantry: Connection, organization: str
) -> None:
    with pytest.raises(OrganizationForbidden) as refused:
        await principal_of(pantry, await credentials(pantry, "user@example.com", organization))

    assert (refused.value.status, refused.value.detail) == (403, None)


@pytest.mark.parametrize("subject", ["4711", "auth0|x", ""])
async def test_a_token_of_nobody_is_no_principal(pantry: Connection, subject: str) -> None:
    with pytest.raises(Unauthenticated):
        await principal_of(pantry, Credentials(subject, {}, None))


async def test_an_actor_without_an_organization_is_somebody(pantry: Connection) -> None:
    actor = await pantry.fetchval(
        "INSERT INTO actors (email, name, password_hash) VALUES ('new@example.com', 'New', '$argon2id$x') RETURNING id"
    )

    assert await membership_of(pantry, str(actor)) == {
        "actor": {"id": actor, "email": "new@example.com", "name": "New"},
        "organizations": [],
    }


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("0", None), ("+7", None), ("٧", None), ("7 ", None)])
def test_only_plain_positive_numbers_are_ids(text: str, value: int | None) -> None:
    assert number(text) == value
