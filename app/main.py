"""Pantry's application object: the routes, what starts and ends with them, and b1 around all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.auth.routes import router as auth
from app.auth.service import membership_from_source, passwords
from app.entities.routes import router as entities
from app.entities.service import from_source as entity_from_source
from app.finance.routes import router as finance
from app.openapi import complete
from app.profile import b1
from app.reference.routes import router as reference
from app.reference.service import from_source as reference_from_source

# By the first part of the data cache's keys.
SOURCES = {
    "entity": entity_from_source,
    "membership": membership_from_source,
    "reference": reference_from_source,
}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Own the password thread, and say where `b1 cache check` finds the truth."""
    passwords.start()
    for namespace, load in SOURCES.items():
        b1.knows(namespace, load)
    try:
        yield
    finally:
        await passwords.aclose()


app = FastAPI(title="Pantry", version="1.0", lifespan=lifespan, docs_url="/api-docs", redoc_url=None)
# The router tries them in this order, so the busiest come first.
for router in (finance, entities, reference, auth):
    # Their full paths stand in the routers, a second version beside the first. Taken over one by one instead of
    # `include_router`, whose nested matching costs 10 to 20 microseconds per request and level.
    app.router.routes.extend(router.routes)
complete(app)
b1.install(app)
