"""What the database itself guarantees, whoever writes to it."""

from __future__ import annotations

import asyncpg
import pytest
from argon2 import PasswordHasher

from app.finance.chart import (
    EXPENSE_ACCOUNTS,
    OTHER_EXPENSES,
    OTHER_REVENUE,
    PAID_FROM,
    RECEIVED_IN,
    REVENUE_ACCOUNTS,
)
from tests.app.conftest import MIGRATIONS, Connection

STAMPED = ("entities", "journal_entries", "expenses", "revenues")


async def test_the_demo_is_what_the_contract_says(pantry: Connection) -> None:
    seats = await pantry.fetch(
        """
        SELECT email, organization_id, role, tier FROM memberships
          JOIN actors ON actors.id = actor_id JOIN organizations ON organizations.id = organization_id
        """
    )

    assert {tuple(seat) for seat in seats} == {
        ("user@example.com", 1, "MEMBER", "pro"),
        ("manager@example.com", 1, "MANAGER", "pro"),
        ("admin@example.com", 1, "ORG_ADMIN", "pro"),
        ("owner@example.com", 1, "ORG_OWNER", "pro"),
        ("free@example.com", 2, "MEMBER", "free"),
        ("enterprise@example.com", 3, "ORG_OWNER", "enterprise"),
    }


async def test_property_1_exists_in_each_organization_of_the_demo(pantry: Connection) -> None:
    assert [
        row["organization_id"]
        for row in await pantry.fetch("SELECT organization_id FROM properties WHERE id = 1 ORDER BY 1")
    ] == [1, 2, 3]


async def test_seeding_the_demo_again_changes_nothing(pantry: Connection) -> None:
    everything = """
        SELECT (SELECT jsonb_agg(o) FROM organizations o), (SELECT jsonb_agg(a) FROM actors a),
               (SELECT jsonb_agg(m) FROM memberships m), (SELECT jsonb_agg(p) FROM properties p)
    """
    before = await pantry.fetchrow(everything)

    await pantry.execute((MIGRATIONS / "demo.sql").read_text())

    assert before == await pantry.fetchrow(everything)


async def test_the_next_organization_gets_an_id_of_its_own_after_the_demo(pantry: Connection) -> None:
    assert await pantry.fetchval("INSERT INTO organizations (name) VALUES ('Next') RETURNING id") == 4


async def test_the_demo_password_is_changeme_at_the_cost_that_the_app_pays(pantry: Connection) -> None:
    hashes = [row["password_hash"] for row in await pantry.fetch("SELECT DISTINCT password_hash FROM actors")]

    assert PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).verify(hashes[0], "changeme")
    assert len(hashes) == 1
    assert hashes[0].startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("table", STAMPED)
async def test_no_row_without_an_actor(schema: Connection, table: str) -> None:
    nullable = await schema.fetchval(
        "SELECT is_nullable FROM information_schema.columns WHERE table_name = $1 AND column_name = 'created_by'", table
    )

    assert nullable == "NO"


async def test_every_account_that_the_code_names_is_in_the_chart(schema: Connection) -> None:
    named = {OTHER_EXPENSES, OTHER_REVENUE}
    for accounts in (EXPENSE_ACCOUNTS, REVENUE_ACCOUNTS, PAID_FROM, RECEIVED_IN):
        named |= set(accounts.values())

    assert named <= {row["code"] for row in await schema.fetch("SELECT code FROM accounts")}


def test_money_goes_out_and_comes_in_by_the_same_ways() -> None:
    assert PAID_FROM.keys() == RECEIVED_IN.keys()


async def entry(pantry: Connection) -> int:
    identity: int = await pantry.fetchval(
        """
        INSERT INTO journal_entries (organization_id, source, currency, occurred_at, created_by)
        SELECT 1, 'EXPENSE', 'INR', now(), min(id) FROM actors RETURNING id
        """
    )
    return identity


async def test_an_entry_that_does_not_balance_cannot_be_written(pantry: Connection) -> None:
    identity = await entry(pantry)

    with pytest.raises(asyncpg.CheckViolationError, match="does not balance"):
        await pantry.execute(
            """
            INSERT INTO journal_lines (organization_id, entry_id, line, account_code, currency, debit_cents, credit_cents)
            VALUES (1, $1, 1, '5000', 'INR', 100, 0), (1, $1, 2, '1000', 'INR', 0, 99)
            """,
            identity,
        )


async def test_a_line_in_another_currency_than_its_entry_cannot_be_written(pantry: Connection) -> None:
    identity = await entry(pantry)

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await pantry.execute(
            """
            INSERT INTO journal_lines (organization_id, entry_id, line, account_code, currency, debit_cents, credit_cents)
            VALUES (1, $1, 1, '5000', 'INR', 100, 0), (1, $1, 2, '1000', 'EUR', 0, 100)
            """,
            identity,
        )


@pytest.mark.parametrize("statement", ["UPDATE journal_entries SET source = 'REVENUE'", "DELETE FROM journal_lines"])
async def test_the_journal_is_append_only(pantry: Connection, statement: str) -> None:
    await entry(pantry)

    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await pantry.execute(statement)
