"""The fixed workload: which entities there are, and in which order they are read and written. Seeded, always the same.

Entity number n is the n-th most wanted (Zipf, exponent 1) and belongs to organisation ``n % 200``. Sizes are spread evenly
over the logarithm, so half of the documents are below 3.6 KB and the mean is 11 KB; all together take 113 MB.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import dataclass

ENTITIES, ORGANIZATIONS = 10_000, 200
LEAST_BYTES, MOST_BYTES = 200, 64 * 1024
WRITES = 0.02
SEED = 2026
_WORDS = (
    "room", "night", "breakfast", "late", "checkout", "parking", "minibar", "laundry", "transfer", "city", "tax",
    "deposit", "refund", "voucher", "booking", "invoice", "season", "corporate", "rate", "extra", "bed", "cleaning",
)  # fmt: skip
_POOL_LINES = 4000


@dataclass(frozen=True, slots=True)
class Operation:
    """A read, or a write that changes the entity's revision."""

    entity: int
    is_write: bool


def organization_of(entity: int) -> int:
    return entity % ORGANIZATIONS + 1


def head_of(entity: int, revision: int) -> bytes:
    """Return how the document begins."""
    return b'{"id":%d,"organization":%d,"revision":%d,' % (entity, organization_of(entity), revision)


class Documents:
    """The lines of all entities, as JSON: what a document is beside its head."""

    def __init__(self) -> None:
        chance = random.Random(SEED)
        pool = [_line(chance) for _ in range(_POOL_LINES)]
        self.lines = [_lines(chance, pool) for _ in range(ENTITIES)]

    def tail(self, entity: int) -> bytes:
        """Return what follows the head."""
        return b'"lines":%b}' % self.lines[entity].encode()

    @property
    def total_bytes(self) -> int:
        """Of all documents."""
        return sum(map(len, self.lines)) + ENTITIES * len(head_of(5000, 0))


def _line(chance: random.Random) -> str:
    item = " ".join(chance.choices(_WORDS, k=3))
    note = " ".join(chance.choices(_WORDS, k=chance.randrange(2, 12)))
    values = {"item": item, "quantity": chance.randrange(1, 20), "cents": chance.randrange(100, 99_999), "note": note}
    return json.dumps(values, separators=(",", ":"))


def _lines(chance: random.Random, pool: list[str]) -> str:
    size = math.exp(chance.uniform(math.log(LEAST_BYTES), math.log(MOST_BYTES)))
    first = chance.randrange(_POOL_LINES)
    lines: list[str] = []
    held = 60
    for line in itertools.islice(itertools.cycle(pool), first, first + _POOL_LINES):
        held += len(line) + 1
        if held > size and lines:
            break
        lines.append(line)
    return "[" + ",".join(lines) + "]"


def operations(count: int, *, seed: int = SEED) -> list[Operation]:
    """Return the first `count` operations of the workload that belongs to `seed`."""
    chance = random.Random(seed)
    weights = list(itertools.accumulate(1.0 / rank for rank in range(1, ENTITIES + 1)))
    entities = chance.choices(range(ENTITIES), cum_weights=weights, k=count)
    return [Operation(entity, chance.random() < WRITES) for entity in entities]
