"""One process of the race: readers and a writer on one event loop, against one contender's cache.

``python -m cache_racing.racer CONTENDER URL WORLD PROCESS READS SEED``; prints what it saw as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from cache_racing.world import KEYS, PROCESSES, World

READERS = 16
# Whoever waits longer for a server that is away counts as an error.
READ_LIMIT_S = 2.0
# For so long may a copy be served while Redis is away; and for so much more may that go unnoticed.
AWAY_LIMIT_S, NOTICED_S = 1.0, 1.0
Load = Callable[[], Awaitable[int]]


class Contender(Protocol):
    """A cache under test; `read` returns the number, and how it was found."""

    async def start(self) -> None: ...

    async def read(self, key: int, load: Load) -> tuple[int, str]: ...

    async def invalidate(self, key: int, chance: random.Random, *, soft: bool, begun: Callable[[], None]) -> bool: ...

    async def aclose(self) -> None: ...

    def notes(self) -> dict[str, int]: ...


class Race:
    """Reads and writes, and counts what should not be."""

    def __init__(self, world: World, contender: Contender, process: int, reads: int, seed: int) -> None:
        self._world = world
        self._contender = contender
        self._process = process
        self._left = reads
        self._chance = random.Random(seed * 1000 + process)
        self.counts: Counter[str] = Counter()
        self.worst_away_s = 0.0

    async def run(self) -> None:
        """Race until all reads are done; the writer goes on until everybody's are."""
        writer = asyncio.create_task(self._write())
        await asyncio.gather(*(self._readers() for _ in range(READERS)))
        self._world.done(self._process)
        await writer

    async def _readers(self) -> None:
        chance = random.Random(self._chance.random())
        while self._left > 0 and not self._world.is_over:
            self._left -= 1
            await self._read(min(chance.randrange(KEYS), chance.randrange(KEYS)), chance)

    async def _read(self, key: int, chance: random.Random) -> None:
        world, process = self._world, self._process
        own_hard, own_soft = world.own_hard[process][key], world.own_soft[process][key]
        hard, soft = world.hard[key], world.soft[key]

        async def load() -> int:
            self.counts["loads"] += 1
            number = world.truth[key]
            await asyncio.sleep(chance.random() * 0.004)  # the truth may move meanwhile
            return number

        try:
            async with asyncio.timeout(READ_LIMIT_S):
                number, how = await self._contender.read(key, load)
        except Exception as error:  # what a contender does when its server is away is its own affair
            self.counts["errors"] += 1
            self.counts[f"error {type(error).__name__}"] += 1
            await asyncio.sleep(0.002)
            return
        self.counts["reads"] += 1
        self.counts[how] += 1
        says_stale = how.startswith("stale")
        if number < own_hard or (number < own_soft and not says_stale):
            self.counts["STALE OWN"] += 1
        if number < hard or (number < soft and not says_stale):
            self._found_stale(key, number, how)
        # Without its server a read takes no time, and would leave the loop none.
        await asyncio.sleep(0.003 if how.endswith("away") else 0)

    def _found_stale(self, key: int, number: int, how: str) -> None:
        if how not in ("away", "stale away", "unproven"):
            self.counts["STALE"] += 1
            self.counts[f"STALE {how}"] += 1
            return
        stale_s = self._world.stale_s(key, number)
        self.worst_away_s = max(self.worst_away_s, stale_s)
        self.counts[f"older while {how}"] += 1
        if stale_s > AWAY_LIMIT_S + NOTICED_S:
            self.counts["STALE TOO LONG"] += 1

    async def _write(self) -> None:
        world, process, chance = self._world, self._process, random.Random(self._chance.random())
        mine = [key for key in range(KEYS) if key % PROCESSES == process]
        while not world.is_over:
            key, is_soft = chance.choice(mine), chance.random() < 0.25
            number = world.truth[key] = world.truth[key] + 1

            def begun(key: int = key, number: int = number, is_soft: bool = is_soft) -> None:
                (world.own_soft if is_soft else world.own_hard)[process][key] = number

            try:
                async with asyncio.timeout(READ_LIMIT_S):
                    is_told = await self._contender.invalidate(key, chance, soft=is_soft, begun=begun)
            except Exception as error:  # as above; what was not invalidated may be read
                self.counts["errors"] += 1
                self.counts[f"error {type(error).__name__}"] += 1
                is_told = False
            self.counts["writes"] += 1
            self.counts["writes not told"] += not is_told
            if is_told and is_soft:
                world.soft[key] = number
            elif is_told:
                world.see(key, number)
            await asyncio.sleep(chance.random() * 0.012)


async def main() -> None:
    name, url, path, process, reads, seed = sys.argv[1:]
    from cache_racing.contenders import make

    world, contender = World(Path(path)), make(name, url, int(process))
    await contender.start()
    race = Race(world, contender, int(process), int(reads), int(seed))
    print("ready", flush=True)
    try:
        await race.run()
        notes = contender.notes()
    finally:
        await contender.aclose()
    print(json.dumps({"counts": race.counts, "worst_away_s": race.worst_away_s, "notes": notes}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
