"""``DELETE /internal/idempotency/{organization}``: an organisation's keys go, and no other's, in calls that end in time."""

from __future__ import annotations

from typing import Any

import pytest

from b1.asgi.endpoints.keys import KEYS_PATH, KeysDesk
from b1.idempotency import ServiceOptions
from b1.types import Principal
from tests.idempotency.conftest import mode, shared_postgres_url
from tests.idempotency.harness import post
from tests.idempotency.modes import Mode

__all__ = ["mode", "shared_postgres_url"]

ODD = "ann's \N{LATIN SMALL LETTER E WITH ACUTE}/17"


async def purge(desk: KeysDesk, organization: str, query: bytes = b"", **more: Any) -> Any:
    return await post(
        desk, path=KEYS_PATH + organization, method="DELETE", query=query, key=None, principal=None, **more
    )


async def asked(mode: Mode, organization: str, count: int) -> None:
    app = mode.serve(ServiceOptions(purge_batch=2))
    for number in range(count):
        await post(app, {"a": 1}, f"k{number}", principal=Principal("ann", organization))


@pytest.mark.parametrize("organization", ["17", ODD])
async def test_an_organisation_is_forgotten_and_no_other(mode: Mode, organization: str) -> None:
    await asked(mode, organization, 3)
    await asked(mode, "18", 2)
    rows = 3 if mode.database is not None else 0
    reply = await purge(KeysDesk(mode.worlds[0].service), organization)
    expected = {"organization": organization, "rows": rows, "store_keys": 3, "next": None}
    assert (reply.status, reply.json, reply.headers["cache-control"], mode.keys()) == (200, expected, "no-store", 2)


async def test_a_call_that_comes_to_its_end_says_where_to_go_on(mode: Mode) -> None:
    await asked(mode, "17", 5)
    desk = KeysDesk(mode.worlds[0].service, limit_s=0.0)
    rows = store_keys = calls = 0
    after: str | None = ""
    while after is not None:
        answer = (await purge(desk, "17", f"after={after}".encode())).json
        rows, store_keys, after, calls = (
            rows + answer["rows"],
            store_keys + answer["store_keys"],
            answer["next"],
            calls + 1,
        )
    assert (rows, store_keys, calls > 1) == (5 if mode.database is not None else 0, 5, True)


@pytest.mark.parametrize("after", ["x", "rows-xyz", "store-", "store--1", "store-" + "9" * 50])
async def test_a_place_that_no_answer_named_is_refused(mode: Mode, after: str) -> None:
    mode.world()
    reply = await purge(KeysDesk(mode.worlds[0].service), "17", f"after={after}".encode())
    assert (reply.status, reply.code) == (400, "MALFORMED_REQUEST")


async def test_what_names_nobody_and_what_comes_from_a_page_is_refused(mode: Mode) -> None:
    mode.world()
    desk = KeysDesk(mode.worlds[0].service)
    origin = ((b"origin", b"https://example.com"),)
    assert (await purge(desk, "")).code == "MALFORMED_REQUEST"
    assert (await purge(desk, "17", b"all=1")).code == "MALFORMED_REQUEST"
    assert (await purge(desk, "17", headers=origin)).status == 403
