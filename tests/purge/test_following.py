"""What the application invalidates reaches the CDN: after all processes know, each name once, and never in its way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from b1.asgi.caching.surrogate import purged_keys, surrogate_key
from b1.cache.invalidating import Invalidation
from b1.cache.names import key_tag, organization_tag, prefix_tag
from b1.purge import Following, FollowingOptions


class Queue:
    """Stands for the purge queue."""

    def __init__(self) -> None:
        self.told: list[tuple[list[str], bool]] = []
        self.news = asyncio.Event()

    def put(self, keys: Sequence[str], *, soft: bool = False) -> int:
        self.told.append((list(keys), soft))
        self.news.set()
        return len(self.told)

    def put_everything(self) -> int:
        return self.put(["everything"])


class Site:
    """A following whose Redis and whose waiting the test decides about."""

    def __init__(self, **options: float) -> None:
        self.queue = Queue()
        self.is_shared = True
        self.looked = asyncio.Event()
        self.may_look = asyncio.Event()
        self.following = Following(
            self.queue,
            lambda names: list(names),
            is_shared=lambda: self.is_shared,
            options=FollowingOptions(**options),  # type: ignore[arg-type]
            sleep=self.sleep,
        )

    @property
    def told(self) -> list[tuple[list[str], bool]]:
        return self.queue.told

    async def sleep(self, _: float) -> None:
        self.looked.set()
        await self.may_look.wait()
        self.may_look.clear()


def invalidation() -> tuple[asyncio.Future[None], Invalidation]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return done, Invalidation(done)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_cdn_is_told_only_when_all_processes_know() -> None:
    site = Site()
    done, under_way = invalidation()
    site.following.follow(under_way, ("a",))
    await turns()
    assert ([], 0) == (site.told, site.following.snapshot().told)
    done.set_result(None)
    await turns()
    assert [(["a"], False)] == site.told
    await site.following.aclose()


async def test_what_comes_while_one_is_under_way_travels_together_each_name_once() -> None:
    site = Site()
    done, under_way = invalidation()
    next_done, next_under_way = invalidation()
    site.following.follow(under_way, ("a",))
    await turns()
    for names in (("b", "c"), ("b",), ("c", "d")):
        site.following.follow(next_under_way, names)
    done.set_result(None)
    next_done.set_result(None)
    await turns()
    assert [(["a"], False), (["b", "c", "d"], False)] == site.told
    await site.following.aclose()


async def test_hard_beats_soft_and_the_rest_is_purged_softly() -> None:
    site = Site()
    site.following.follow(Invalidation(), (), ("a", "b"))
    site.following.follow(Invalidation(), ("a",))
    await turns()
    assert [(["a"], False), (["b"], True)] == site.told
    await site.following.aclose()


async def test_everything_takes_the_place_of_all_that_waits() -> None:
    site = Site()
    site.following.follow(Invalidation(), ("a",))
    site.following.follow(Invalidation(), None)
    site.following.follow(Invalidation(), ("b",))
    await turns()
    assert ([(["everything"], False)], 0) == (site.told, site.following.snapshot().collapsed)
    await site.following.aclose()


async def test_too_many_names_become_everything() -> None:
    site = Site(names_limit=3)
    for number in range(10):
        site.following.follow(Invalidation(), (f"n{number}",))
    await turns()
    assert ([(["everything"], False)], 1) == (site.told, site.following.snapshot().collapsed)
    await site.following.aclose()


async def test_while_redis_is_away_the_cdn_is_told_at_once_and_again_when_it_is_back() -> None:
    site = Site()
    site.is_shared = False
    site.following.follow(Invalidation(), ("a",))
    await site.looked.wait()
    assert ([(["a"], False)], 1) == (site.told, site.following.snapshot().late)
    site.may_look.set()
    await turns()
    assert 1 == len(site.told)
    site.is_shared = True
    site.may_look.set()
    await turns()
    assert ([(["a"], False)] * 2, 0) == (site.told, site.following.snapshot().late)
    await site.following.aclose()


@pytest.mark.parametrize("ending", ["fails", "is ended by the cache"])
async def test_an_invalidation_that_does_not_arrive_is_purged_now_and_once_more(ending: str) -> None:
    site = Site()
    done, under_way = invalidation()
    site.following.follow(under_way, ("a",))
    await turns()
    if ending == "fails":
        done.set_exception(ConnectionError())
    else:
        done.cancel()
    await site.looked.wait()
    assert [(["a"], False)] == site.told
    site.may_look.set()
    await turns()
    assert [(["a"], False)] * 2 == site.told
    await site.following.aclose()


async def test_an_end_loses_nothing() -> None:
    site = Site(flush_s=0.01)
    _, never = invalidation()
    site.following.follow(never, ("a",))
    await turns()
    site.following.follow(never, ("b",), ("c",))
    await site.following.aclose()
    site.following.follow(Invalidation(), ("d",))
    assert {"a", "b", "c", "d"} == {key for keys, _ in site.told for key in keys}
    assert "waiting=0" in repr(site.following)


async def test_plain_functions_invalidate_from_threads() -> None:
    site = Site()
    await site.following.start()
    thread = threading.Thread(target=site.following.follow, args=(Invalidation(), ("a",)))
    thread.start()
    await site.queue.news.wait()
    thread.join()
    assert [(["a"], False)] == site.told
    await site.following.aclose()


def test_without_a_loop_there_is_nothing_to_wait_with() -> None:
    site = Site()
    site.following.follow(Invalidation(), ("a",))
    assert [(["a"], False)] == site.told


@pytest.mark.parametrize(
    ("tag", "is_purged"),
    [
        ("ledger:3", True),
        (organization_tag("3"), True),
        (key_tag("http:/v1/x", "3"), True),
        (key_tag("http:/v1/x"), True),
        (prefix_tag("http", "3"), True),
        (prefix_tag("http:/v1/x"), True),
        (key_tag("user:7", "3"), False),
        (key_tag("user:7"), False),
        (key_tag("https:7"), False),
        (prefix_tag("user", "http:3"), False),
    ],
)
def test_only_what_an_answer_can_carry_is_purged(tag: str, is_purged: bool) -> None:
    assert ([surrogate_key(tag)] if is_purged else []) == purged_keys([tag, tag])


async def test_what_comes_while_something_waits_for_redis_is_told_without_waiting_for_that() -> None:
    site = Site()
    site.is_shared = False
    for name in ("a", "b"):
        done, under_way = invalidation()
        done.set_result(None)
        site.following.follow(under_way, (name,))
        await turns(10)
    assert [(["a"], False), (["b"], False)] == site.told
    await site.following.aclose()


async def test_a_stream_of_invalidations_does_not_put_off_what_waits_for_redis() -> None:
    site = Site()
    site.is_shared = False
    done, under_way = invalidation()
    done.set_result(None)
    site.following.follow(under_way, ("late",))
    await turns()
    site.is_shared = True
    for number in range(20):
        done, under_way = invalidation()
        asyncio.get_running_loop().call_soon(done.set_result, None)
        site.following.follow(under_way, (f"n{number}",))
        site.may_look.set()
        await asyncio.sleep(0)
    await turns(10)
    assert 2 == sum("late" in keys for keys, _ in site.told)
    await site.following.aclose()
