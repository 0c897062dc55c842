"""The same entities behind `B1(app)` four times: read anew for each request, from the data cache as values and as
ready JSON, and as stored answers.

All but `plain` are invalidated as the documentation advises: the rule's intent rides in the write's own
transaction. A write of `plain` invalidates nothing, and is one statement.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response

from b1 import B1
from b1.cache import Rule, Rules
from b1.profile import ensure_wrapped
from caching.entity import READ, WRITE, Entity, document

application = FastAPI()
b1 = B1(application, rules=Rules(Rule("entity.updated", keys=("entity:{{id}}",), tags=("entity:{{id}}",))))


def _organization() -> int:
    return int(b1.principal().organization or 0)


async def _load(id: int) -> dict[str, Any]:
    return document(await b1.db.fetchrow(READ, id, _organization()))


@application.get("/plain/{id}")
async def read_plain(id: int) -> Entity:
    return Entity.model_validate(await _load(id))


@application.get("/data/{id}")
async def read_data(id: int, response: Response) -> Entity:
    async def load() -> dict[str, Any]:
        response.headers["x-loaded"] = "1"
        return await _load(id)

    found = await b1.cache.get_or_load(f"entity:{id}", load, organization=str(_organization()))
    return Entity.model_validate(found)


@application.get("/bytes/{id}")
async def read_bytes(id: int) -> Response:
    headers = {}

    async def load() -> bytes:
        headers["x-loaded"] = "1"
        return Entity.model_validate(await _load(id)).model_dump_json().encode()

    found = await b1.cache.get_or_load(f"entity:{id}", load, organization=str(_organization()))
    return Response(found, media_type="application/json", headers=headers)


@application.get("/answer/{id}")
@b1.cached(ttl_s=3600, vary="organization", tags=("entity:{id}",))
async def read_answer(id: int) -> Entity:
    return Entity.model_validate(await _load(id))


@application.put("/plain/{id}")
async def write_plain(id: int) -> int:
    revision: int = await b1.db.fetchval(WRITE, id, _organization())
    return revision


@application.put("/data/{id}")
@application.put("/bytes/{id}")
@application.put("/answer/{id}")
async def write(id: int) -> int:
    organization = _organization()
    async with b1.idempotent.transaction() as tx:
        write = b1.changing(tx, "entity.updated", id=id, organization=str(organization))
        row = await write.fetchrow(WRITE, id, organization)
    assert row is not None
    return int(row["revision"])


app = ensure_wrapped(application)
