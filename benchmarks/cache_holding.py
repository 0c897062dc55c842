"""How many documents does the in-process cache hold when they lie packed, and what does a packed one cost?

``python benchmarks/cache_holding.py``; half a minute. The fixed workload of `cache.py` against the map alone: no server, no
database, so the counts are the same on every machine and under any load. Each document is compared with what was put.
"""

from __future__ import annotations

import argparse
import time
from abc import ABC, abstractmethod
from statistics import median
from typing import Any

from caching.workload import (
    ENTITIES,
    ORGANIZATIONS,
    SEED,
    Documents,
    Operation,
    head_of,
    operations,
    organization_of,
)
from measuring.table import machine, print_table

from b1.asgi.caching.compression import IDENTITY
from b1.asgi.caching.holding import AnswerMap
from b1.asgi.caching.stored import SharedPairs, StoredAnswer
from b1.cache import L1
from b1.cache.names import tags_of, tags_to_invalidate
from b1.cache.packing.holding import HoldOptions
from b1.cache.reading.holding import ValueMap
from b1.cache.reading.values import meta_of
from b1.clock import SystemClock
from b1.store import versions
from b1.units import MIB

MEASURED = 8_000
COMMON = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"accept-encoding, authorization, x-organization-id"),
)
TTL_S = 3600.0


class Held(ABC):
    """One map and what is in it."""

    def __init__(self, documents: list[bytes], mib: int, *, is_packed: bool) -> None:
        self.documents = documents
        self.clock = SystemClock()
        self.l1 = L1(mib * MIB, self.clock)
        self.options = HoldOptions(enabled=is_packed)
        self.hits_s: list[float] = []
        self.puts_s: list[float] = []
        self.writes = 0

    def play(self, turns: list[Operation]) -> None:
        """Read and write; what is not there is put."""
        for turn in turns:
            entity, key = turn.entity, f"entity:{turn.entity}"
            organization = str(organization_of(entity))
            if turn.is_write:
                self.writes += 1
                self.l1.invalidate((key, *tags_to_invalidate((), keys=(key,), organization=organization)))
                continue
            begun_s = time.perf_counter()
            body = self.read(key, len(self.documents[entity]))
            read_s = time.perf_counter()
            if body is None:
                self.put(key, self.documents[entity], (key, *tags_of(key, (), organization)), organization)
                self.puts_s.append(time.perf_counter() - read_s)
            elif body != self.documents[entity]:
                raise AssertionError(f"{key} came back as something else")
            else:
                self.hits_s.append(read_s - begun_s)

    @abstractmethod
    def read(self, key: str, size: int) -> bytes | None: ...

    @abstractmethod
    def put(self, key: str, body: bytes, tags: tuple[str, ...], owner: str) -> None: ...


class HeldValues(Held):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.map = ValueMap(self.l1, self.clock, self.options)

    def read(self, key: str, size: int) -> bytes | None:
        found = self.map.find(key)
        return None if found is None else found.value

    def put(self, key: str, body: bytes, tags: tuple[str, ...], owner: str) -> None:
        meta = meta_of(self.clock.monotonic() + TTL_S, 0.003, int(self.clock.wall() * 1000), 0)
        self.map.put(key, body, ttl_s=TTL_S, versions=self.l1.versions_of(tags), meta=meta, owner=owner)


class HeldAnswers(Held):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.map = AnswerMap(self.l1, self.clock, self.options)
        self.pairs = SharedPairs()

    def read(self, key: str, size: int) -> bytes | None:
        found = self.map.find(key)
        return None if found is None else found.value[0:size]

    def put(self, key: str, body: bytes, tags: tuple[str, ...], owner: str) -> None:
        common = self.pairs.common([self.pairs.of(*pair) for pair in COMMON])
        answer = StoredAnswer(200, common, is_compressible=True)
        answer.made_s = now_s = self.clock.monotonic()
        answer.fresh_until_s, answer.stale_until_s, answer.error_until_s = now_s + TTL_S, now_s + 3630, now_s + 3900
        answer.add(IDENTITY, b'"%032x"' % hash(key), len(body))
        self.map.keep(
            key, answer, body, frame=self.map.frame_of(answer, body), ttl_s=TTL_S, stale_s=300.0,
            versions=self.l1.versions_of(tags), owner=owner,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--buckets", type=int, default=versions.MEMORY_BUCKETS, help="of the table of versions")
    versions.MEMORY_BUCKETS = parser.parse_args().buckets
    print(machine() + f"; {versions.MEMORY_BUCKETS:,} buckets of versions\n")
    texts = Documents()
    documents = [head_of(entity, 0) + texts.tail(entity) for entity in range(ENTITIES)]
    first = operations(MEASURED, seed=SEED)
    seen = {turn.entity for turn in first}
    rest = [Operation(entity, False) for entity in range(ENTITIES - 1, -1, -1) if entity not in seen]
    settling, warm = operations(MEASURED // 2, seed=SEED + 2), operations(MEASURED, seed=SEED + 1)
    rows = []
    for kind, name in ((HeldAnswers, "answers"), (HeldValues, "data")):
        for mib in (64, 16):
            for is_packed in (False, True):
                held = kind(documents, mib, is_packed=is_packed)
                for turns in (first, rest, settling):
                    held.play(turns)
                held.hits_s, held.puts_s, held.writes = [], [], 0
                held.play(warm)
                hits, misses = len(held.hits_s), len(held.puts_s)
                numbers = held.map.holding()
                rows.append(
                    [
                        f"{name}, {mib} MiB, {'packed' if is_packed else 'as they are'}",
                        f"{hits / (hits + misses):.1%}",
                        f"{1 - (misses + held.writes) / MEASURED:.1%}",
                        f"{len(held.l1) - numbers.ready_entries:,}",
                        f"{numbers.packed_entries:,}",
                        f"{held.l1.held_bytes() / MIB:.1f}",
                        f"{median(held.hits_s) * 1e6:.0f}",
                        f"{median(held.puts_s) * 1e6:.0f}",
                    ]
                )
    print(f"{ENTITIES:,} documents of {ORGANIZATIONS} organisations, {texts.total_bytes / 1e6:.0f} MB\n")
    head = ["", "hits", "fewer queries", "entries", "packed", "MiB", "hit, µs", "put, µs"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
