"""What a version that is frozen wrote, and what every later one has to find in it: one story, told once at each release."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from b1.alerts.alert import Alert, Severity, Transition
from b1.alerts.book import Book
from b1.clock import ManualClock
from b1.idempotency import queries
from b1.idempotency.record import Outcome, Record, Unstored
from b1.link import Link
from b1.store.base import CacheAnswer, CacheRead, CacheState, Charge, ClaimState, PenaltyRule, Store
from b1.store.memory import MemoryStore
from b1.store.redis import RedisStore
from b1.store.tally import Batch, Tally
from b1.store.window import Part

FOLDER = Path(__file__).parent
VERSIONS = sorted(path.name for path in FOLDER.iterdir() if (path / "redis.json").exists())

START_S = 1_750_032_000.0  # midnight UTC
NAMESPACE = "frozen"
PREFIX = f"b1:{{{NAMESPACE}}}:"
DAY_MS = 86_400_000
MIB = 2**20

RULE = PenaltyRule(threshold=3, decay_ms=10_000, blocks_ms=(3_600_000,), forget_ms=600_000)
STRIKES = PenaltyRule(threshold=9, decay_ms=3_600_000)
MINUTE, HOUR = Charge("limit:minute:1", 5, 60_000), Charge("limit:hour:1", 5, 3_600_000)
READ = CacheRead("cache:1:k", ("t", "u"), lease_ms=3_600_000)
LOADING = CacheRead("cache:1:loading", ("t",), lease_ms=3_600_000)
BATCH = Batch("frozen:1", (Tally("limit:merged:1", 3_600_000, [Part(0, 0, 2)]),), 0, True)
RING = {"keep": 3, "keep_bytes": 1000, "ttl_ms": DAY_MS}

RECORDS: dict[str, Outcome] = {
    "plain": Record(
        status=201,
        headers=((b"content-type", b"application/json"), (b"location", b"/v1/finance/expenses/7")),
        body=b'{"id":7}',
        original_ms=1_750_032_000_123,
        entity="7",
        actor="user-\udce9",
    ),
    "compressed": Record(
        status=200, headers=((b"content-type", b"text/plain"),), body=b"long " * 1000, original_ms=1_750_032_000_123
    ),
    "unstored": Unstored(original_ms=1_750_032_000_123, actor="user-1"),
}


def clock_at(seconds: float) -> ManualClock:
    """Return the story's clock so long after it began."""
    return ManualClock(monotonic=START_S + seconds, wall=START_S + seconds)


def redis_at(link: Link, seconds: float) -> RedisStore:
    """Return a store that takes the time from the story."""
    return RedisStore(link, NAMESPACE, now_ms=lambda: int((START_S + seconds) * 1000))


async def write(store: Store) -> None:
    """Use every verb that leaves something behind."""
    for _ in range(3):
        assert (await store.spend([MINUTE, HOUR])).allowed
    open_claim = await store.claim("idempotency:1:open", b"f", lease_ms=3_600_000)
    assert open_claim.state is ClaimState.CLAIMED
    done = await store.claim("idempotency:1:done", b"f", lease_ms=1000)
    assert await store.finish("idempotency:1:done", done.fence, b"\x00record\xff", ttl_ms=DAY_MS)
    freed = await store.claim("idempotency:1:freed", b"f", lease_ms=1000)
    assert await store.release("idempotency:1:freed", freed.fence)
    await store.penalise("penalty:blocked", RULE, strikes=3)
    await store.penalise("penalty:struck", STRIKES, strikes=2)
    for data in (b"0", b"1", b"2", b"\x003"):
        await store.append("events:1", data, keep=3, keep_bytes=1000, ttl_ms=DAY_MS)


async def write_shared(store: RedisStore) -> None:
    """What only Redis holds for others."""
    await store.invalidate(["t"])
    vector = (await _cache(store, READ)).vector
    assert await store.store_if_unchanged(READ.key or "", b"value", tags=READ.tags, vector=vector, ttl_ms=DAY_MS)
    assert (await _cache(store, LOADING)).state is CacheState.LEASED
    assert await store.merge(BATCH, waited_ms=0) == 0


async def find(store: Store) -> None:
    """Fail unless the store answers, ten seconds later, from what `write` left."""
    minute, hour = (await store.spend([MINUTE, HOUR], commit=False)).balances
    assert (minute.used, hour.used) == (3, 3)
    opened = await store.claim("idempotency:1:open", b"f", lease_ms=1000)
    assert (opened.state, opened.retry_after_ms) == (ClaimState.IN_FLIGHT, 3_590_000)
    assert (await store.claim("idempotency:1:done", b"f", lease_ms=1000)).record == b"\x00record\xff"
    assert (await store.claim("idempotency:1:done", b"other", lease_ms=1000)).state is ClaimState.MISMATCH
    assert (await store.penalise("penalty:blocked", RULE, strikes=0)) == (3_590_000, 0, 1)
    assert (await store.penalise("penalty:struck", STRIKES, strikes=0)) == (0, 2, 0)
    replay = await store.read_since("events:1", 0, limit=9)
    assert [entry.data for entry in replay.entries] == [b"1", b"2", b"\x003"]
    assert not (await store.read_since("events:1", replay.entries[0].id - 2, limit=9)).is_complete


async def go_on(store: Store) -> None:
    """Fail unless the store goes on from there as if it had begun it."""
    assert [(await store.spend([HOUR])).allowed for _ in range(4)] == [True, True, False, False]
    before = (await store.read_since("events:1", 0, limit=9)).entries
    newest = await store.append("events:1", b"4", keep=3, keep_bytes=1000, ttl_ms=DAY_MS)
    assert newest > before[-1].id
    assert [entry.data for entry in (await store.read_since("events:1", 0, limit=9)).entries] == [b"2", b"\x003", b"4"]
    freed = await store.claim("idempotency:1:freed", b"f", lease_ms=1000)
    assert freed.state is ClaimState.CLAIMED
    assert await store.finish("idempotency:1:freed", freed.fence, b"r", ttl_ms=DAY_MS)
    assert (await store.penalise("penalty:struck", PenaltyRule(threshold=3, decay_ms=3_600_000))).blocked_ms


async def find_shared(store: RedisStore) -> None:
    """Fail unless the cache and the marks are understood."""
    found = await _cache(store, READ)
    assert (found.state, found.value) == (CacheState.HIT, b"value")
    assert (await _cache(store, LOADING)).state is CacheState.LOADING
    assert await store.merge(BATCH, waited_ms=0) == 0
    merged = await store.spend([Charge("limit:merged:1", 9, 3_600_000)], commit=False)
    assert merged.balances[0].used == 2
    await store.invalidate(["t"])
    assert (await _cache(store, READ)).state is CacheState.LEASED


async def hand_over() -> tuple[bytes, bytes]:
    """Return both hand-overs of a worker."""
    clock = clock_at(0)
    store = MemoryStore(MIB, clock)
    await write(store)
    first = await store.export(MIB, last=False, drain_ms=30_000)
    clock.advance(1)
    await store.spend([MINUTE, HOUR])
    await store.invalidate(["t"])
    fence = await store.claim("idempotency:1:late", b"f", lease_ms=1000)
    await store.finish("idempotency:1:late", fence.fence, b"late", ttl_ms=DAY_MS)
    await store.append("events:2", b"late", keep=3, keep_bytes=1000, ttl_ms=DAY_MS)
    return first.data, (await store.export(MIB, last=True)).data


def journal() -> dict[str, Any]:
    """Return what the alerts of a worker leave."""
    book = Book(cooldown_s=300)
    alert = Alert(
        name="B1MemoryHigh", severity=Severity.WARNING, summary="memory is short",
        annotations={"bytes": "1"}, starts_at_s=START_S, ends_at_s=None,
    )  # fmt: skip
    book.fire(alert, START_S)
    waiting = Transition("msg_1", alert, "host:8000", START_S, Severity.CRITICAL)
    return {"family": "frozen", "book": book.records(START_S), "waiting": [waiting.as_record()]}


async def dump(link: Link) -> dict[str, Any]:
    """Return every value of the namespace, as text."""
    found: dict[str, Any] = {}
    for key in sorted(await link.call("KEYS", PREFIX.replace("{", "\\{").replace("}", "\\}") + "*")):
        name = key.decode().removeprefix(PREFIX)
        found[name] = await _READERS[(await link.call("TYPE", key)).decode()](link, key)
    return found


async def restore(link: Link, values: dict[str, Any], *, more: dict[str, str] | None = None) -> None:
    """Write what `dump` returned; hashes and entries of rings get `more` fields."""
    extra = [text for pair in (more or {}).items() for text in pair]
    for name, value in values.items():
        if "string" in value:
            await link.call("SET", PREFIX + name, _bytes(value["string"]), "PX", DAY_MS)
            continue
        if "hash" in value:
            words = [word for field, text in value["hash"].items() for word in (field, bytes.fromhex(text))]
            await link.call("HSET", PREFIX + name, *words, *extra)
        for entry_id, words in value.get("stream", ()):
            await link.call("XADD", PREFIX + name, entry_id, *map(bytes.fromhex, words), *extra)
        await link.call("PEXPIRE", PREFIX + name, DAY_MS)


async def _cache(store: RedisStore, read: CacheRead) -> CacheAnswer:
    cache = (await store.enter([], read=read)).cache
    assert cache is not None
    return cache


async def _string(link: Link, key: bytes) -> dict[str, Any]:
    value: bytes = await link.call("GET", key)
    # The version table is 262 KB of zeros and a few numbers.
    runs = [[at, value[at : at + 4].hex()] for at in range(0, len(value), 4) if any(value[at : at + 4])]
    return {"string": value.hex() if len(value) < 4096 else {"length": len(value), "words": runs}}


async def _hash(link: Link, key: bytes) -> dict[str, Any]:
    found = await link.call("HGETALL", key)
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    return {"hash": {field.decode(): value.hex() for field, value in sorted(pairs)}}


async def _stream(link: Link, key: bytes) -> dict[str, Any]:
    rows = await link.call("XRANGE", key, "-", "+")
    return {"stream": [[entry_id.decode(), [word.hex() for word in words]] for entry_id, words in rows]}


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return bytes.fromhex(value)
    made = bytearray(value["length"])
    for at, word in value["words"]:
        made[at : at + 4] = bytes.fromhex(word)
    return bytes(made)


_READERS: dict[str, Callable[[Link, bytes], Awaitable[dict[str, Any]]]] = {
    "string": _string,
    "hash": _hash,
    "stream": _stream,
}


# Rows of idempotency that both versions tell and find, by name.
ROWS = ("earlier", "later", "before", "after")


def digest_of(name: str) -> bytes:
    """Return the key of a row."""
    return name.encode().ljust(32, b"-")


def statements() -> dict[str, Any]:
    """Return the SQL with which this version claims, concludes, reads and purges those rows."""
    return {
        "BEGIN": {name: queries.begin(digest_of(name), 500) for name in ROWS},
        "UNKNOWN": queries.UNKNOWN,
        "CONCLUDE": {name: queries.conclude(digest_of(name), "org", b"print", 201, b"record", 3600.0) for name in ROWS},
        "READ": queries.READ,
        "ROLLBACK": queries.ROLLBACK,
        "PURGE": queries.PURGE,
    }
