"""Cached values, offences and replay rings in memory, beyond the contract: byte bounds, floods, honest numbers."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest

from b1.store.base import CacheRead, CacheState, PenaltyRule
from b1.store.entries import Entries
from b1.store.offences import Offences
from b1.store.streams import Streams

NOW_MS = 1_000_000
RULE = PenaltyRule(threshold=2, blocks_ms=(3_600_000,))


def _keep(entries: Entries, key: str, size: int = 100, ttl_ms: int = 10**6) -> bool:
    vector = entries.read(CacheRead(key, ("t",)), NOW_MS).vector
    return entries.store(key, bytes(size), ("t",), vector, ttl_ms=ttl_ms, now_ms=NOW_MS)


def _strike(offences: Offences, key: str, strikes: int = 1, now_ms: int = NOW_MS) -> int:
    return offences.penalise(key, RULE, strikes, pardon=False, now_ms=now_ms).blocked_ms


def _append(streams: Streams, stream: str, size: int = 100, now_ms: int = NOW_MS) -> int:
    return streams.append(
        stream, bytes(size), keep=50, keep_bytes=10**6, ttl_ms=60_000, now_ms=now_ms, wall_us=now_ms * 1000
    )


def test_the_value_used_longest_ago_goes_first() -> None:
    entries = Entries(8 * 1024)
    for number in range(8):
        assert _keep(entries, f"k{number}")
    assert entries.read(CacheRead("k0"), NOW_MS).state is CacheState.HIT
    for number in range(8, 16):
        assert _keep(entries, f"k{number}")
    kept = [number for number in range(16) if entries.read(CacheRead(f"k{number}"), NOW_MS).value is not None]
    assert 0 in kept
    assert 1 not in kept
    assert 15 in kept


def test_a_value_that_is_too_large_is_not_kept_and_pushes_nobody_out() -> None:
    entries = Entries(16 * 1024)
    assert _keep(entries, "small")
    assert not _keep(entries, "large", 2048)
    assert len(entries) == 1


def test_a_flood_of_leases_is_bounded() -> None:
    entries = Entries(16 * 1024)
    for number in range(5000):
        entries.read(CacheRead(f"k{number}", (), 1000), NOW_MS)
    assert len(entries._leases) == 1024


def test_a_flood_of_offenders_frees_nobody_who_is_blocked() -> None:
    offences = Offences(32 * 1024)
    for number in range(20):
        assert _strike(offences, f"penalty:blocked{number}", 2)
    for number in range(20_000):
        _strike(offences, f"penalty:{number}")
    assert all(_strike(offences, f"penalty:blocked{number}", 0) for number in range(20))
    assert offences.held_bytes <= 32 * 1024


def test_offenders_are_forgotten_without_a_sweep() -> None:
    offences = Offences(2**20)
    for number in range(100):
        _strike(offences, f"penalty:{number}")
    for number in range(60):
        _strike(offences, "penalty:other", now_ms=NOW_MS + 200_000 + number)
    assert len(offences) == 1


def test_rings_stay_within_the_bound_and_the_one_used_longest_ago_goes() -> None:
    streams = Streams(64 * 1024)
    for number in range(100):
        _append(streams, f"events:{number}", 900)
    assert streams.held_bytes <= 64 * 1024
    assert streams.read_since("events:99", 0, limit=1, now_ms=NOW_MS).entries
    assert streams.read_since("events:0", 1, limit=1, now_ms=NOW_MS) == ((), False)


def test_rings_that_ran_out_are_forgotten_without_a_sweep() -> None:
    streams = Streams(2**20)
    for number in range(50):
        _append(streams, f"events:{number}")
    for _ in range(30):
        _append(streams, "events:later", now_ms=NOW_MS + 61_000)
    assert len(streams) == 1
    assert streams.read_since("events:0", 0, limit=1, now_ms=NOW_MS + 61_000).entries == ()


def _fill_entries() -> Entries:
    entries = Entries(2**30)
    entries.read(CacheRead(None), NOW_MS)
    for number in range(3000):
        _keep(entries, f"cache:1:{number:032x}", 200)
    return entries


def _fill_offences() -> Offences:
    offences = Offences(2**30)
    for number in range(3000):
        _strike(offences, f"penalty:{number:032x}")
    return offences


def _fill_streams() -> Streams:
    streams = Streams(2**30)
    for number in range(3000):
        _append(streams, f"events:{number % 100}", 200)
    return streams


@pytest.mark.parametrize("fill", [_fill_entries, _fill_offences, _fill_streams])
def test_accounted_bytes_are_real_bytes(fill: Callable[[], Entries | Offences | Streams]) -> None:
    fill()  # what is made once: the bucket of a tag, interned numbers
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        filled = fill()
        gc.collect()
        real_bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.6 * filled.held_bytes <= real_bytes <= 1.1 * filled.held_bytes, real_bytes / filled.held_bytes
