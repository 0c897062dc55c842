"""The entity statements against a real Postgres."""

from __future__ import annotations

from typing import Any

from app.entities import queries
from tests.app.conftest import Connection


async def create(db: Connection, attributes: str = '{"name": "Ann"}', *, organization: int = 1) -> int:
    row = await queries.create(db, organization, 1, "CUSTOMER", attributes, "ACTIVE")
    identity: int = row["id"]
    return identity


async def change(db: Connection, entity: int, attributes: str, *, merge: bool = True, **options: Any) -> Any:
    options = {"status": None, "version": None, **options}
    return await queries.change(db, 1, 2, entity, None, attributes, merge=merge, **options)


async def delete(db: Connection, entity: int, *, actor: int = 1, organization: int = 1, **options: Any) -> Any:
    options = {"version": None, "any_creator": False, **options}
    return await queries.delete(db, organization, actor, entity, None, **options)


async def test_a_change_merges_counts_the_version_and_stamps_who_did_it(pantry: Connection) -> None:
    row = await change(pantry, await create(pantry), '{"city": "Pune"}')

    assert row["attributes"] == '{"city": "Pune", "name": "Ann"}'
    assert (row["version"], row["created_by"], row["updated_by"]) == (2, 1, 2)


async def test_a_replacement_leaves_nothing_of_what_was(pantry: Connection) -> None:
    row = await change(pantry, await create(pantry), '{"city": "Pune"}', merge=False, status="ARCHIVED")

    assert (row["attributes"], row["status"]) == ('{"city": "Pune"}', "ARCHIVED")


async def test_a_change_of_an_old_version_finds_the_new_one_and_writes_nothing(pantry: Connection) -> None:
    entity = await create(pantry)
    await change(pantry, entity, "{}", version=1)

    found = await change(pantry, entity, '{"name": "Eve"}', version=1)

    assert (found["found_version"], found["id"]) == (2, None)
    assert (await queries.get(pantry, 1, entity, None))["attributes"] == '{"name": "Ann"}'


async def test_merging_stops_at_the_size_limit(pantry: Connection) -> None:
    entity = await create(pantry, f'{{"a": "{"x" * 20_000}"}}')

    found = await change(pantry, entity, f'{{"b": "{"x" * 20_000}"}}')

    assert found["id"] is None
    assert found["wanted_bytes"] > queries.ATTRIBUTES_MAX_BYTES


async def test_another_tenant_can_neither_read_change_nor_delete(pantry: Connection) -> None:
    entity = await create(pantry, organization=2)

    assert await queries.get(pantry, 1, entity, None) is None
    assert await change(pantry, entity, "{}") is None
    assert await delete(pantry, entity, any_creator=True) is None
    assert await queries.newest(pantry, 1, before=None, limit=10) == []


async def test_a_type_that_is_not_the_entitys_finds_nothing(pantry: Connection) -> None:
    assert await queries.get(pantry, 1, await create(pantry), "LEAD") is None


async def test_a_deleted_entity_is_gone_and_its_row_says_who_did_it(pantry: Connection) -> None:
    entity = await create(pantry)

    assert (await delete(pantry, entity, actor=2, any_creator=True))["id"] == entity

    assert await queries.get(pantry, 1, entity, None) is None
    assert await delete(pantry, entity) is None
    assert await pantry.fetchval("SELECT updated_by FROM entities WHERE id = $1", entity) == 2


async def test_somebody_elses_entity_is_found_but_not_deleted(pantry: Connection) -> None:
    entity = await create(pantry)

    assert tuple(await delete(pantry, entity, actor=2)) == (1, None)


async def test_a_list_narrows_by_attribute_and_pages_backwards(pantry: Connection) -> None:
    pune = [await create(pantry, '{"city": "Pune"}') for _ in range(3)]
    await create(pantry, '{"city": "Goa"}')

    first = await queries.newest_of_type(pantry, 1, "CUSTOMER", '{"city": "Pune"}', before=None, limit=2)
    rest = await queries.newest_of_type(pantry, 1, "CUSTOMER", '{"city": "Pune"}', before=first[-1]["id"], limit=2)

    assert [row["id"] for row in (*first, *rest)] == pune[::-1]
