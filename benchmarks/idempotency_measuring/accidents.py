"""What is done to the server while it works: every process of it is killed, stopped, frozen or emptied.

Runs in the main thread: Linux ties a started server to the thread that forked it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from b1.embedded import process
from idempotency_measuring.world import World
from tests.real.points import POINTS, order

ARRIVAL_LIMIT_S = 20.0
PAUSE_S = (0.2, 2.5)
_WITH_A_FLUSH = 0.25


@dataclass(frozen=True, slots=True)
class Accident:
    """One that happened.

    Attributes:
        begun_s: when it was done (monotonic).
        over_s: when everything that was hit answered again.
        has_happened: False when no request came to the point in time.
    """

    kind: str
    begun_s: float
    over_s: float
    has_happened: bool = True


Happening = Callable[[World, random.Random], bool]
GoOn = Callable[[], None]


def kinds(*, with_redis: bool, go_on: GoOn = lambda: None) -> dict[str, Happening]:
    """Return all kinds of accident by name. `go_on` is called while one waits for a request that comes to its point."""
    found: dict[str, Happening] = {f"kill -9 at {point}": _at(point, go_on) for point in POINTS}
    found |= {
        "kill -9 at a random instant": _kill,
        "worker replaced (SIGHUP)": _replace,
        "Postgres restarted": _restart_postgres,
        "Postgres crashed": _crash_postgres,
        "Postgres paused": _pause_postgres,
    }
    if not with_redis:
        del found["kill -9 at storing"]  # memory stores within one turn of the loop
    else:
        found |= {"Redis flushed": _flush, "Redis restarted": _restart_redis, "Redis paused": _pause_redis}
    return found


def schedule(count: int, chance: random.Random, *, with_redis: bool) -> list[str]:
    """Return `count` names in random order, every kind as often as the others."""
    names: list[str] = []
    while len(names) < count:
        whole = list(kinds(with_redis=with_redis))
        chance.shuffle(whole)
        names += whole
    return names[:count]


def cause(name: str, world: World, chance: random.Random, go_on: GoOn) -> Accident:
    """Let it happen and wait until everything is up again."""
    begun_s = time.monotonic()
    happening = kinds(with_redis=world.redis is not None, go_on=go_on)[name]
    has_happened = happening(world, chance)
    return Accident(name, begun_s, time.monotonic(), has_happened)


def counted(accidents: Sequence[Accident]) -> dict[str, int]:
    """Count what happened by kind."""
    counts: dict[str, int] = {}
    for accident in accidents:
        counts[accident.kind] = counts.get(accident.kind, 0) + accident.has_happened
    return dict(sorted(counts.items()))


def _at(point: str, go_on: GoOn) -> Happening:
    def die(world: World, chance: random.Random) -> bool:
        [worker, *_] = world.server.workers()
        doom = order(world.folder, point)

        def is_taken() -> bool:
            go_on()
            return not doom.exists()

        if not process.wait_until(is_taken, limit_s=ARRIVAL_LIMIT_S, every_s=0.2):
            doom.unlink(missing_ok=True)
            return False
        if chance.random() < _WITH_A_FLUSH:
            _flush(world, chance)
        world.wait_for_another(worker)
        return True

    return die


def _kill(world: World, chance: random.Random) -> bool:
    time.sleep(chance.uniform(0.0, 0.3))
    [worker, *_] = world.server.workers()
    os.kill(worker, signal.SIGKILL)
    if chance.random() < _WITH_A_FLUSH:
        _flush(world, chance)
    world.wait_for_another(worker)
    return True


def _replace(world: World, chance: random.Random) -> bool:
    [worker, *_] = world.server.workers()
    world.server.send(signal.SIGHUP)
    world.wait_for_another(worker)
    return True


def _flush(world: World, chance: random.Random) -> bool:
    if world.redis is not None:
        world.redis.command("FLUSHALL")
    return True


def _restart_redis(world: World, chance: random.Random) -> bool:
    assert world.redis is not None
    world.redis.kill()
    time.sleep(chance.uniform(0.0, 1.0))
    world.redis.start()
    return True


def _pause_redis(world: World, chance: random.Random) -> bool:
    assert world.redis is not None
    world.redis.suspend()
    time.sleep(chance.uniform(*PAUSE_S))
    world.redis.resume()
    return True


def _restart_postgres(world: World, chance: random.Random) -> bool:
    world.postgres.stop()
    time.sleep(chance.uniform(0.0, 1.0))
    world.postgres.start()
    return True


def _crash_postgres(world: World, chance: random.Random) -> bool:
    world.postgres.abandon()  # SIGQUIT: no checkpoint; the next start replays the log
    world.postgres.start()
    return True


def _pause_postgres(world: World, chance: random.Random) -> bool:
    world.postgres.suspend()
    time.sleep(chance.uniform(*PAUSE_S))
    world.postgres.resume()
    return True
