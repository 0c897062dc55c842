"""Two versions at work on one Redis: the scripts of an earlier one and of this one, in turn, keep one contract."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from b1.link import Link, LinkOptions
from b1.store.base import Charge
from b1.store.redis import RedisStore
from b1.store.tally import Batch, Tally
from b1.store.window import Part
from b1.testing import StoreCheck, StoreHarness, store_contract
from tests.previous import story

ORDERS: dict[str, Callable[[], Callable[[], bool]]] = {
    "earlier-first": lambda: itertools.cycle((True, False)).__next__,
    "later-first": lambda: itertools.cycle((False, True)).__next__,
}


class Mixed:
    """A link on which a call runs now the earlier script, now the present one."""

    def __init__(self, link: Link, version: str, is_earlier: Callable[[], bool]) -> None:
        self._link = link
        self._version = version
        self._is_earlier = is_earlier
        self.runs = [0, 0]
        self._earlier: set[str] = set()
        for path in (story.FOLDER / version / "scripts").glob("*.lua"):
            self._earlier.add(path.stem)
            link.register(f"{version}/{path.stem}", path.read_text())

    def register(self, name: str, source: str) -> None:
        self._link.register(name, source)

    async def script(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return await self._link.script(self._turn(name), keys, arguments)

    async def whole_script(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return await self._link.whole_script(self._turn(name), keys, arguments)

    def _turn(self, name: str) -> str:
        is_earlier = name in self._earlier and self._is_earlier()  # a script of a later version runs as it is
        self.runs[is_earlier] += 1
        return f"{self._version}/{name}" if is_earlier else name


def _mixed(link: Link, version: str, order: str) -> Any:
    # Duck-typed: RedisStore asks its link for no more than this where no snapshot is taken.
    return Mixed(link, version, ORDERS[order]())


@pytest.fixture
async def link(redis_url: str, tmp_path: Path) -> AsyncIterator[Link]:
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    yield link
    await link.aclose()


versions = pytest.mark.parametrize("version", story.VERSIONS)
orders = pytest.mark.parametrize("order", ORDERS)


@versions
@orders
@pytest.mark.parametrize("check", store_contract, ids=lambda check: check.__name__)
async def test_two_versions_keep_one_contract(check: StoreCheck, version: str, order: str, link: Link) -> None:
    clock = StoreHarness.clock_at_start()
    store = RedisStore(_mixed(link, version, order), "mixed", now_ms=lambda: round(clock.wall() * 1000))
    await link.start()
    await check(StoreHarness(store, clock))


@versions
@orders
async def test_two_versions_tell_one_story(version: str, order: str, link: Link) -> None:
    mixed = _mixed(link, version, order)
    await link.start()
    for seconds, part in ((0, story.write), (0, story.write_shared), (10, story.find), (10, story.find_shared)):
        await part(story.redis_at(mixed, seconds))
    await story.go_on(story.redis_at(mixed, 10))
    assert min(mixed.runs) > 10


@versions
@pytest.mark.parametrize("is_earlier_first", [True, False])
async def test_a_batch_that_both_send_counts_once(version: str, is_earlier_first: bool, link: Link) -> None:
    turns = iter((is_earlier_first, not is_earlier_first, True))
    store = RedisStore(Mixed(link, version, lambda: next(turns)), "mixed")  # type: ignore[arg-type]
    await link.start()
    batch = Batch("b:1", (Tally("limit:a:1", 3_600_000, [Part(0, 0, 3)]),), 0, True)
    for _ in range(2):
        await store.merge(batch, waited_ms=0)
    assert (await store.spend([Charge("limit:a:1", 9, 3_600_000)], commit=False)).balances[0].used == 3


@versions
def test_every_script_is_frozen(version: str) -> None:
    from b1.store.scripts import SCRIPTS

    frozen = {path.stem for path in (story.FOLDER / version / "scripts").glob("*.lua")}
    assert frozen <= set(SCRIPTS)
