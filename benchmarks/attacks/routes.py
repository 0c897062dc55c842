"""The application under attack, the same for every contender: one innocent route, and one per attack.

Nothing here imports b1: the peers run it in an environment of their own. What leaks stays in module globals, as leaks do.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request

MEGABYTE = 1_000_000
SMALL_OBJECTS_PER_MEGABYTE = 3700  # a dict of two members, with its string: about 270 bytes
SURVIVORS = 50  # one of so many small objects is kept

# Returns the cached value of a key, or has it made.
Cached = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]

leaked: list[bytes] = []
pile: list[dict[str, Any]] = []


def add_routes(app: FastAPI, cached: Cached) -> None:
    """Give the application its routes; `cached` is the contender's own cache."""

    @app.get("/innocent")
    async def innocent() -> dict[str, Any]:
        return {"pid": os.getpid(), "name": "a small answer", "items": [1, 2, 3]}

    @app.post("/attack/leak")
    async def leak() -> dict[str, int]:
        leaked.append(b"x" * (5 * MEGABYTE))
        return {"leaked": len(leaked)}

    @app.post("/attack/spike")
    async def spike(megabytes: int, hold_s: float) -> dict[str, int]:
        block = b"x" * (megabytes * MEGABYTE)
        await asyncio.sleep(hold_s)
        return {"bytes": len(block)}

    @app.post("/attack/pile")
    async def grow(megabytes: int) -> dict[str, int]:
        first = len(pile)
        pile.extend({"a": n, "b": str(n)} for n in range(first, first + megabytes * SMALL_OBJECTS_PER_MEGABYTE))
        return {"objects": len(pile)}

    @app.post("/attack/scatter")
    async def scatter() -> dict[str, int]:
        pile[:] = pile[::SURVIVORS]
        return {"objects": len(pile)}

    @app.post("/attack/fill")
    async def fill(first: int, count: int, size_bytes: int) -> dict[str, int]:
        async def load() -> dict[str, Any]:
            return {"id": number, "text": "x" * size_bytes}

        for number in range(first, first + count):
            await cached(f"entity:{number}", load)
            await asyncio.sleep(0)
        return {"cached": count}

    @app.post("/attack/upload")
    async def upload(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}


def encode(value: Any) -> bytes:
    """Encode what a cache without an encoder of its own is given."""
    return json.dumps(value).encode()
