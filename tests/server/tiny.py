"""A small application for tests of the server: plain ASGI, and it notes when its lifespan begins and ends.

Environment: TINY_EVENTS names the file of notes; TINY_START, or what stands in the file TINY_START_FILE, is ``fail``,
``raise`` or ``slow``.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

from b1.types import Receive, Scope, Send

START = os.environ.get("TINY_START", "")
if "TINY_START_FILE" in os.environ:
    START = Path(os.environ["TINY_START_FILE"]).read_text()

if START == "slow":
    time.sleep(30)
if START == "raise":
    raise RuntimeError("as asked for")


def note(event: str) -> None:
    with open(os.environ["TINY_EVENTS"], "a") as events:
        events.write(f"{event} {os.getpid()}\n")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    path = scope["path"]
    if path == "/slow":
        await asyncio.sleep(float(scope["query_string"] or b"1"))
    elif path == "/block":
        time.sleep(60)
    elif path == "/thread":
        threading.Thread(target=time.sleep, args=(60,), name="tiny-stuck").start()
    elif path == "/stream":
        await _stream(scope, send)
        return
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(scope: Scope, send: Send) -> None:
    """Send until the server says that it stops."""
    stopping: asyncio.Event = scope["state"]["b1.stopping"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello ", "more_body": True})
    await stopping.wait()
    await send({"type": "http.response.body", "body": b"farewell"})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message: Any = await receive()
        if message["type"] == "lifespan.startup" and START == "fail":
            await send({"type": "lifespan.startup.failed", "message": "as asked for"})
            return
        note(message["type"])
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
