"""The application with `B1(app)` and nothing declared: which route computes and which waits is for b1 to find out."""

from __future__ import annotations

from fastapi import Response

from b1 import B1
from overloading.application import QUERY, WAITS_S, make_app

app = make_app()
b1 = B1(app)


@app.get("/query")
async def query() -> Response:
    """Ask Postgres for something that takes it 20 ms."""
    await b1.db.execute(QUERY, WAITS_S)
    return Response(b"ok")
