"""While there are two processes without a Redis, the second one hears what the first one invalidates."""

from __future__ import annotations

import pytest

from b1.clock import ManualClock
from b1.store.base import CacheRead
from b1.store.fallback import FallbackStore
from b1.store.memory import MemoryStore
from b1.units import MIB
from tests.store.distant import Distant


class Two:
    """A store and its successor; what is told arrives at once."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.first, self.second = MemoryStore(MIB, clock), MemoryStore(MIB, clock)
        self.has_heir = True
        self.told: list[bytes] = []
        self.first.tell_through(lambda: self.has_heir, self.tell)

    def tell(self, data: bytes) -> bool:
        self.told.append(data)
        self.second.hear(data)
        return True

    def vectors(self, *tags: str) -> list[bytes]:
        return [self.second.versions.vector((tag,)) for tag in tags]


async def test_from_the_first_export_on_each_invalidation_is_heard_at_once_and_nothing_else_is_stale() -> None:
    two = Two()
    await two.second.absorb((await two.first.export(MIB, last=False)).data)
    before = two.vectors("a", "b", "c")
    await two.first.invalidate(("a",), soft=("b",))
    after = two.vectors("a", "b", "c")
    assert [True, True, False] == [one != other for one, other in zip(before, after, strict=True)]
    await two.first.invalidate(None)
    assert two.vectors("c") != after[2:]


async def test_what_was_invalidated_while_a_successor_started_is_in_the_first_export() -> None:
    two = Two()
    before = two.vectors("a", "b")
    await two.first.invalidate(("a",))
    assert [] == two.told  # nobody listens yet
    absorbed = await two.second.absorb((await two.first.export(MIB, last=False)).data)
    after = two.vectors("a", "b")
    assert (("a",), True, False) == (absorbed.tags, before[0] != after[0], before[1] != after[1])


async def test_without_a_successor_nothing_is_kept_or_told() -> None:
    two = Two()
    two.has_heir = False
    await two.first.invalidate(("a",))
    exported = await two.first.export(MIB, last=False)
    assert ([], ()) == (two.told, (await two.second.absorb(exported.data)).tags)


async def test_the_last_export_repeats_what_was_told() -> None:
    two = Two()
    await two.first.export(MIB, last=False)
    await two.first.invalidate(("a",))
    assert ("a",) == (await two.second.absorb((await two.first.export(MIB, last=True)).data)).tags


async def test_news_is_bounded_in_number_and_in_size() -> None:
    two = Two()
    await two.first.export(MIB, last=False)
    before = two.vectors("other")
    await two.first.invalidate([f"{number:0>200}" for number in range(100)])
    assert (before != two.vectors("other"), True) == (True, len(two.told[0]) < 200)  # everything, instead of 20 KB
    for number in range(1000):
        await two.first.invalidate((f"n{number}",))
    assert 512 == len(two.told)


@pytest.mark.parametrize("data", [b"", b"b1-pass", b"b1-pass\x07rest", b"b1-pass\x01tags", bytes(100)])
def test_what_cannot_be_read_does_no_harm(data: bytes) -> None:
    two = Two()
    before = two.vectors("a")
    two.second.hear(data)
    assert before == two.vectors("a")


@pytest.mark.parametrize("is_away", [True, False])
async def test_with_a_redis_that_is_away_it_is_heard_by_those_who_follow_redis_too(is_away: bool) -> None:
    clock = ManualClock()
    distant = Distant(clock)
    memory = MemoryStore(MIB, clock)
    first, second = MemoryStore(MIB, clock), FallbackStore(distant, memory, clock)
    first.tell_through(lambda: True, lambda data: bool(second.hear(data)) or True)
    distant.is_away = is_away
    await second.read_many([CacheRead(None, ("a",))])
    await second.absorb((await first.export(MIB, last=False)).data)
    before = [second.versions.vector((tag,)) for tag in ("a", "b")]
    await first.invalidate(("a",))
    after = [second.versions.vector((tag,)) for tag in ("a", "b")]
    assert [is_away, False] == [one != other for one, other in zip(before, after, strict=True)]
    assert is_away == second.owes_invalidations
    await second.aclose()


async def test_what_was_invalidated_while_redis_was_away_and_a_successor_started_is_stale_there(
    clock: ManualClock,
) -> None:
    ours, theirs = Distant(clock), Distant(clock)
    ours.is_away = theirs.is_away = True
    first, second = (FallbackStore(distant, MemoryStore(MIB, clock), clock) for distant in (ours, theirs))
    first.tell_through(lambda: True, lambda data: True)
    await second.read_many([CacheRead(None, ("a",))])
    before = [second.versions.vector((tag,)) for tag in ("a", "b")]
    await first.invalidate(("a",))
    await second.absorb((await first.export(MIB, last=False)).data)
    after = [second.versions.vector((tag,)) for tag in ("a", "b")]
    assert [True, False] == [one != other for one, other in zip(before, after, strict=True)]
    await first.aclose()
    await second.aclose()
