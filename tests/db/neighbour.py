"""Another process on the same slots: ``python -m tests.db.neighbour URL SLOTS [asyncio|uvloop] VERB…``.

Verbs: ``serve N MS`` runs N endless loops of queries of MS each and reports every 20 queries; ``hold SQL`` runs one
statement and reports when it has begun; ``fork`` opens a connection, forks a child that stays, and reports both pids.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import uvloop

from b1.db import Database, DatabaseOptions
from b1.errors import DatabaseBusy


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


async def serve(database: Database, loops: int, query_s: float) -> None:
    done = 0

    async def one() -> None:
        nonlocal done
        while True:
            try:
                await database.fetchval("select pg_sleep($1)", query_s)
            except DatabaseBusy:
                continue
            done += 1
            if done % 20 == 1:
                say(done=done, kept=database.snapshot().in_use)

    await asyncio.gather(*(one() for _ in range(loops)))


async def hold(database: Database, statements: list[str]) -> None:
    async def one(statement: str) -> None:
        async with database.acquire() as lease:
            say(pid=lease.pid)
            await lease.execute(statement)

    await asyncio.gather(*(one(statement) for statement in statements))
    say(ended=True)


async def fork(database: Database) -> None:
    async with database.acquire() as lease:
        await lease.execute("select 1")
        child = os.fork()
        if child == 0:
            while os.getppid() != 1:  # outlives its parent for a while, then goes by itself
                os.sched_yield()
                __import__("time").sleep(0.05)
            __import__("time").sleep(8)
            os._exit(0)
        say(child=child, pid=lease.pid)
        await lease.execute("select pg_sleep(60)")


async def main(url: str, slots_dir: str, verb: str, *words: str) -> None:
    database = Database(DatabaseOptions(url=url, slots_dir=Path(slots_dir), role="neighbour"))
    await database.start()
    loop = asyncio.get_running_loop()
    asked_to_end = loop.run_in_executor(None, sys.stdin.read)
    work: asyncio.Future[None]
    if verb == "serve":
        work = asyncio.ensure_future(serve(database, int(words[0]), float(words[1]) / 1000))
    elif verb == "hold":
        work = asyncio.ensure_future(hold(database, list(words)))
    else:
        work = asyncio.ensure_future(fork(database))
    await asyncio.wait({work, asked_to_end}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await work
        await asked_to_end
    else:
        work.cancel()
        await asyncio.wait({work})
    await database.aclose()


if __name__ == "__main__":
    _, url, slots_dir, loop_kind, *rest = sys.argv
    (uvloop.run if loop_kind == "uvloop" else asyncio.run)(main(url, slots_dir, *rest))
