"""A small application whose routes cost something: one computes, one waits, one reads a body."""

from __future__ import annotations

import asyncio
import time

from fastapi import FastAPI, Request

from b1 import B1

app = FastAPI()
b1 = B1(app)

HOLDS_S = 0.01


@app.get("/compute")
async def compute() -> None:
    """Hold the loop by the clock: other processes on the machine do not make it faster or slower."""
    end_s = time.perf_counter() + HOLDS_S
    while time.perf_counter() < end_s:
        pass


@app.get("/wait")
async def wait() -> None:
    await asyncio.sleep(0.02)


@app.post("/upload")
async def upload(request: Request) -> int:
    return len(await request.body())
