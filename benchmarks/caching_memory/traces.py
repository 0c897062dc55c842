"""Seeded traces: which entity each request asks for, and how large it is."""

from __future__ import annotations

import bisect
import itertools
import random
from array import array

ENTITIES = 20_000
REQUESTS = 100_000
NAMES = ("zipf 0.9", "zipf 1.0", "zipf 0.9 with scans", "shifting zipf 0.9")


def sizes() -> array[int]:
    """Return each entity's size: 200 B to 64 KiB, most of them around 1.5 KB; scanned ones are behind the others."""
    choose = random.Random(7)
    count = ENTITIES + REQUESTS
    return array("l", (min(65_536, max(200, int(choose.lognormvariate(7.3, 1.1)))) for _ in range(count)))


def trace(name: str) -> array[int]:
    """Return the entities in the order in which they are asked for."""
    choose = random.Random(11)
    asked = _zipf(1.0 if name == "zipf 1.0" else 0.9, choose)
    if name == "shifting zipf 0.9":
        return array("l", ((one + at * 10 // REQUESTS * 500) % ENTITIES for at, one in enumerate(asked)))
    places = list(range(ENTITIES))
    choose.shuffle(places)
    if name != "zipf 0.9 with scans":
        return array("l", (places[one] for one in asked))
    # A quarter of the time somebody reads new entities, one after the other, between the others' requests.
    scanned = itertools.count(ENTITIES)
    found = array("l")
    for at, one in enumerate(asked):
        found.append(places[one])
        if at % 10_000 < 2_500:
            found.append(next(scanned))
    return found


def _zipf(skew: float, choose: random.Random) -> list[int]:
    weights = list(itertools.accumulate((number + 1) ** -skew for number in range(ENTITIES)))
    return [bisect.bisect(weights, choose.random() * weights[-1]) for _ in range(REQUESTS)]
