"""The coherency check: it finds what was planted, nothing where nothing is wrong, and costs no more than it was given."""

from __future__ import annotations

import asyncio
import mmap
import random
from typing import Any

import orjson
import pytest

from b1.cache.checking import Checker, CheckOptions, Finding
from b1.cache.l1.measuring import resident_bytes
from b1.cache.l1.table import L1
from b1.cache.names import entry_name, tags_of
from b1.cache.reading.shared import Answer, State, store_key
from b1.clock import ManualClock
from b1.errors import NotRunning
from b1.store.versions import Versions as Table
from b1.units import MIB


class World:
    """A first copy, a second one, and a source, which a test sets against each other."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.table = Table()
        self.l1 = L1(8 * MIB, self.clock, versions=self.table)
        self.second: dict[str, bytes] = {}
        self.source: dict[str, Any] = {}
        self.asked: list[str] = []
        self.loads: list[str] = []
        self.names: list[str] = []
        self.is_there = True
        self.before_answer: Any = lambda: None
        self.vector: bytes | None = None
        self.checker = Checker(
            self.l1,
            lambda count: random.Random(1).sample(self.names, min(count, len(self.names))),
            self.clock,
            shared=self,
            source=self.table,
            options=CheckOptions(pause_s=0.0, **options),
        )
        self.checker.knows("thing", self.load)

    def put(self, key: str, value: Any, *, organization: str | None = None, meta: Any = None) -> str:
        name, data = entry_name(key, organization), orjson.dumps(value)
        assert self.l1.put(
            name, data, ttl_s=60.0, versions=self.l1.versions_of(tags_of(key, ("t",), organization)), meta=meta
        )
        self.names.append(name)
        self.second[store_key(key, organization)] = data
        self.source[key] = value
        return name

    async def ask(self, name: str, key: str | None, tags: tuple[str, ...], *, namespace: str = "") -> Answer | None:
        self.asked.append(name)
        vector = self.vector or self.table.vector(tags)
        value = self.second.get(key or "")
        self.before_answer()
        await asyncio.sleep(0)
        return Answer(State.NONE, vector) if value is None else Answer(State.FRESH, vector, value=value)

    async def load(self, key: str, organization: str | None) -> Any:
        self.loads.append(key)
        return self.source[key]


async def test_where_nothing_is_wrong_nothing_is_found() -> None:
    world = World()
    for number in range(50):
        world.put(f"thing:{number}", {"n": number}, organization="7" if number % 2 else None)
    drift = await world.checker.check()
    assert drift.is_clean and drift.is_complete
    assert (drift.entries, drift.checked, drift.compared_l2, drift.compared_source) == (50, 50, 50, 20)
    assert (drift.missed, drift.l1_l2_differs, drift.stale, drift.unknown, drift.moved, drift.errors) == (0,) * 6
    assert world.checker.snapshot() == drift


async def test_a_source_that_changed_without_an_invalidation_is_found() -> None:
    world = World()
    for number in range(10):
        world.put(f"thing:{number}", number)
    world.source["thing:3"] = "new"
    drift = await world.checker.check()
    assert (drift.stale, drift.findings) == (1, (Finding("stale", "thing:3", None),))


async def test_copies_that_differ_are_found() -> None:
    world = World()
    for number in range(10):
        world.put(f"thing:{number}", number, organization="o")
    world.second[store_key("thing:4", "o")] = b'"other"'
    drift = await world.checker.check()
    assert (drift.l1_l2_differs, drift.findings) == (1, (Finding("differs", "thing:4", "o"),))


async def test_an_invalidation_that_this_process_missed_is_found() -> None:
    world = World()
    world.put("thing:1", 1)
    world.vector = Table().vector(tags_of("thing:1", ("t",)))  # the server's table says something else
    drift = await world.checker.check()
    assert (drift.missed, drift.is_clean, drift.findings[0].kind) == (1, False, "missed")


async def test_what_is_invalidated_or_replaced_while_it_is_looked_at_is_no_finding() -> None:
    world = World()
    for number in range(10):
        world.put(f"thing:{number}", number)
    world.second = dict.fromkeys(world.second, b'"other"')
    world.source = dict.fromkeys(world.source, "other")
    world.before_answer = lambda: world.table.bump(("t",))
    drift = await world.checker.check()
    assert drift.is_clean
    assert drift.moved >= 1


async def test_an_entry_that_the_second_copy_does_not_have_is_no_finding() -> None:
    world = World()
    world.put("thing:1", 1)
    world.second.clear()
    drift = await world.checker.check()
    assert (drift.absent_l2, drift.is_clean) == (1, True)


async def test_without_a_second_copy_the_source_is_still_asked() -> None:
    world = World()
    world.put("thing:1", 1)
    world.is_there = False
    drift = await world.checker.check()
    assert (drift.compared_l2, drift.compared_source, world.asked) == (0, 1, [])


async def test_what_nobody_can_load_and_what_is_no_value_are_unknown() -> None:
    world = World()
    world.put("other:1", 1)
    world.l1.put("https:1:p", b"answer", ttl_s=60.0, versions=world.l1.versions_of(tags_of("http:/x")), meta=object())
    world.l1.put("identity", object(), 100, ttl_s=60.0, versions=())
    world.names += ["https:1:p", "identity"]
    drift = await world.checker.check()
    assert (drift.checked, drift.unknown, world.loads) == (3, 3, [])


async def test_a_load_that_fails_or_hangs_is_counted_and_the_check_goes_on() -> None:
    world = World(load_s=0.01)
    for number in range(4):
        world.put(f"thing:{number}", number)

    async def load(key: str, organization: str | None) -> Any:
        if key == "thing:0":
            raise RuntimeError
        if key == "thing:1":
            await asyncio.Event().wait()
        return world.source[key]

    world.checker.knows("thing", load)
    drift = await world.checker.check()
    assert (drift.errors, drift.compared_source, drift.is_clean) == (2, 2, True)


async def test_it_looks_at_no_more_than_it_was_asked_to_and_loads_less() -> None:
    world = World(loads=5, most=30)
    for number in range(100):
        world.put(f"thing:{number}", number)
    assert (await world.checker.check(10)).checked == 10
    drift = await world.checker.check(10_000)
    assert (drift.checked, len(world.loads)) == (30, 10)


async def test_it_names_no_more_findings_than_it_may() -> None:
    world = World(findings=3)
    for number in range(10):
        world.put(f"thing:{number}", number)
    world.second = dict.fromkeys(world.second, b"0")
    drift = await world.checker.check()
    assert (drift.l1_l2_differs, len(drift.findings)) == (9, 3)


async def test_a_check_whose_time_is_over_says_so() -> None:
    world = World(limit_s=0.01)
    world.put("thing:1", 1)

    async def hangs(key: str, organization: str | None) -> Any:
        await asyncio.Event().wait()

    world.checker.knows("thing", hangs)
    assert not (await world.checker.check()).is_complete


async def test_who_comes_while_a_check_runs_gets_its_report_and_may_leave() -> None:
    world = World()
    world.put("thing:1", 1)
    first = asyncio.create_task(world.checker.check())
    left = asyncio.create_task(world.checker.check())
    await asyncio.sleep(0)
    left.cancel()
    assert await world.checker.check() is await first
    assert world.loads == ["thing:1"]


async def test_a_stop_ends_a_check() -> None:
    world = World()
    world.put("thing:1", 1)

    async def hangs(key: str, organization: str | None) -> Any:
        await asyncio.Event().wait()

    world.checker.knows("thing", hangs)
    running = asyncio.create_task(world.checker.check())
    await asyncio.sleep(0)
    await world.checker.aclose()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(NotRunning):
        await world.checker.check()


def test_the_system_says_which_pages_are_there() -> None:
    pages = 64
    one = mmap.mmap(-1, pages * mmap.PAGESIZE)
    closed = mmap.mmap(-1, mmap.PAGESIZE)
    closed.close()
    assert list(resident_bytes([one])) == [0]
    for page in range(10):
        one[page * mmap.PAGESIZE] = 1
    assert list(resident_bytes([one, closed])) == [10 * mmap.PAGESIZE, 0]
    one.close()  # nobody holds a view


async def test_accounted_and_real_bytes_stand_in_the_report() -> None:
    world = World()
    for number in range(2000):
        world.put(f"thing:{number}", "x" * 1000)
    checker = Checker(
        world.l1,
        lambda count: [],
        world.clock,
        maps=lambda: [segment.data for segment in world.l1._segments.values()],
    )
    drift = await checker.check()
    assert drift.segments_bytes is not None
    assert drift.resident_bytes is not None
    assert 0.9 <= drift.resident_bytes / drift.segments_bytes <= 1.1
    assert drift.accounted_bytes > 2000 * 1000
