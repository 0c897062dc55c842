"""FastAPI with asyncpg's own pool of three connections, and nothing else; it believes the organisation it is told."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
from fastapi import FastAPI, Header

from caching.entity import READ, WRITE, Entity, document


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=3, max_size=3) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=_lifespan)
Organization = Annotated[int, Header(alias="x-organization-id")]


@app.get("/plain/{id}")
async def read(id: int, organization: Organization) -> Entity:
    return Entity.model_validate(document(await app.state.pool.fetchrow(READ, id, organization)))


@app.put("/plain/{id}")
async def write(id: int, organization: Organization) -> int:
    revision: int = await app.state.pool.fetchval(WRITE, id, organization)
    return revision
