"""A process that gets as far as it is told in one idempotent request, says so, and waits to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from b1.idempotency import Attempt
from tests.idempotency.harness import World, database_at, post


async def _wait_to_be_killed() -> None:
    sys.stdout.write("inside\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def main(url: str, folder: str, moment: str) -> None:
    """Stop ``before`` the commit, when the effect is made, or ``after`` it, before the answer is sent."""

    async def handler(attempt: Attempt, body: dict[str, Any]) -> Any:
        async with attempt.transaction() as tx:
            await tx.execute("INSERT INTO effects VALUES ('doomed')")
            if moment == "after":
                tx.on_commit(_wait_to_be_killed)
        if moment == "before":
            await _wait_to_be_killed()
        return {"id": 1}

    async with database_at(url, Path(folder)) as database:
        await post(World(database).handle(handler), {"a": 1})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
