"""What is refused, and how it is said: keys, tags, times, tiers. And the parts that are arithmetic alone."""

import asyncio
from typing import Any

import pytest

from b1.cache import L1, Cache, CacheOptions, LoadOptions, Residence
from b1.cache.counts import OTHER
from b1.cache.names import key_tag, organization_tag, prefix_tag, prefixes_of, tags_of, tags_to_invalidate
from b1.cache.reading.places import Places, Turn
from b1.cache.reading.shared import store_key
from b1.cache.reading.tiers import Heat, Throttle, extended_s, jittered
from b1.clock import ManualClock
from tests.cache.hosts import Loader, settled


@pytest.fixture
def cache(clock: ManualClock) -> Cache:
    return Cache(L1(1_000_000, clock), clock, limit_bytes=1_000_000)


@pytest.mark.parametrize("key", ["", "x" * 513, "a\nb", "a\x00", "\x1fk", "\x7f", "\x85", "half \ud800", "\udfff"])
async def test_keys_that_are_none(cache: Cache, key: str) -> None:
    """HybridCache MaximumKeyLength and Unicode checks; 1025-char keys."""
    with pytest.raises(ValueError, match=r"^the key "):
        await cache.get_or_load(key, Loader(), ttl_s=60)
    with pytest.raises(ValueError, match=r"^the key "):
        cache.invalidate(keys=[key])


@pytest.mark.parametrize("key", [" ", "x" * 512, "ключ:🔑", "a b", "*", "a:b:c:d:e:f", ":", "::", "café"])
async def test_keys_that_are_some(cache: Cache, key: str) -> None:
    loader = Loader()
    assert [await cache.get_or_load(key, loader, ttl_s=60) for _ in range(2)] == [{"call": 1}] * 2
    await cache.invalidate(keys=[key])
    assert await cache.get_or_load(key, loader, ttl_s=60) == {"call": 2}


@pytest.mark.parametrize("tag", ["", "*", "x" * 257, "a\tb", "\x1fo1"])
async def test_tags_that_are_none(cache: Cache, tag: str) -> None:
    """FusionCache TagSetTests InvalidEmpty and InvalidReserved: no tag means everything."""
    with pytest.raises(ValueError, match=r"^the tag "):
        await cache.get_or_load("k", Loader(), ttl_s=60, tags=[tag])
    with pytest.raises(ValueError, match=r"^the tag "):
        cache.invalidate([tag])


async def test_too_many_tags_and_names_are_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="33 tags"):
        await cache.get_or_load("k", Loader(), tags=[f"t{number}" for number in range(33)])
    with pytest.raises(ValueError, match="1025 names"):
        cache.invalidate([f"t{number}" for number in range(1025)])
    with pytest.raises(ValueError, match="4 parts"):
        cache.invalidate(prefixes=["a:b:c:d"])
    with pytest.raises(ValueError, match="invalidated hard"):
        cache.invalidate(everything=True, soft=True)
    with pytest.raises(TypeError, match="the tag is int"):
        cache.invalidate([7])  # type: ignore[list-item]


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e9, "tepid"])
async def test_times_that_are_none(cache: Cache, ttl: Any) -> None:
    """FusionCache CanHandleZero, CanHandleNegative and CanHandleInfiniteOrSimilarDurations: here they are mistakes."""
    with pytest.raises(ValueError, match=r"ttl is|the lifetime is"):
        await cache.get_or_load("k", Loader(), ttl=ttl)


def test_options_that_make_no_sense_are_refused() -> None:
    for options in (
        {"stale_s": -1}, {"jitter": 0.9}, {"hard_timeout_s": 0}, {"none_s": -1}, {"early": float("nan")},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            LoadOptions(**options)
    for other in ({"loads": 0}, {"hard_timeout_s": -1}, {"lifetimes": {"never": 0}}):
        with pytest.raises(ValueError, match="expected"):
            CacheOptions(**other)  # type: ignore[arg-type]


def test_lifetimes_by_name() -> None:
    options = CacheOptions(lifetimes={"menu": 600, "report": Residence(86_400, "cold")})
    assert [options.residence(name) for name in ("hot", "warm", "cold")] == [
        Residence(300, "hot"), Residence(3600, "warm"), Residence(86_400, "cold"),
    ]  # fmt: skip
    assert options.residence("menu") == Residence(600, "warm", may_extend=False)
    assert options.residence("report") == Residence(86_400, "cold")
    assert options.residence(90, "cold") == Residence(90, "cold", may_extend=False)
    with pytest.raises(ValueError, match="tier is 'frozen'"):
        options.residence(90, "frozen")  # type: ignore[arg-type]


def test_names_of_tags_never_meet() -> None:
    assert prefixes_of("a:b:c:d:e") == ["a", "a:b", "a:b:c"]
    assert tags_of("a:b", ["t", "t"], "1") == (
        key_tag("a:b", "1"), prefix_tag("a", "1"), organization_tag("1"), "t",
    )  # fmt: skip
    names = {
        key_tag("x"), key_tag("x", "o"), prefix_tag("x"), prefix_tag("x", "o"), organization_tag("x"), "x",
    }  # fmt: skip
    assert len(names) == 6
    assert tags_to_invalidate(organization="1") == (organization_tag("1"),)
    assert tags_to_invalidate(keys=["k"], organization="1") == (key_tag("k", "1"),)
    assert store_key("k", None) != store_key("k", "shared") != store_key("k", "1")


async def test_lifetimes_vary_by_a_tenth_and_no_more(clock: ManualClock) -> None:
    assert [jittered(60, 0.1, lambda part=part: part) for part in (0.0, 0.5, 1.0)] == [54.0, 60.0, 66.0]  # type: ignore[misc]


def test_what_is_extended_is_a_day_old_at_most() -> None:
    day_ms = 86_400_000
    assert extended_s(8, 0, day_ms // 2, 3600) == 3600
    assert extended_s(8, 0, day_ms - 1000, 3600) == 1
    assert extended_s(8, 0, 2 * day_ms, 3600) == 0
    assert extended_s(0, 0, 1000, 3600) == 0


def test_heat_and_throttle_are_bounded() -> None:
    heat, throttle = Heat(), Throttle()
    for number in range(5000):
        heat.read(f"k{number}", 0.0)
        throttle.failed(f"k{number}", 10.0)
    assert (repr(heat), repr(throttle)) == ("<Heat names=1024>", "<Throttle names=1024>")
    assert [heat.read("k5", 1.0), heat.read("k5", 61.0), heat.read("k5", 62.0)] == [2, 1, 2]
    assert (throttle.holds("k4999", 9.0), throttle.holds("k4999", 10.0), throttle.holds("k1", 1.0)) == (
        True,
        False,
        False,
    )


async def test_namespaces_are_counted_up_to_a_number(clock: ManualClock) -> None:
    cache = Cache(L1(1_000_000, clock), clock, limit_bytes=1_000_000, options=CacheOptions(namespaces=3))
    for number in range(10):
        for _ in range(2):
            await cache.get_or_load(f"n{number}:x", Loader(), ttl_s=60)
    counted = cache.snapshot().namespaces
    assert set(counted) == {"n0", "n1", "n2", OTHER}
    assert (counted["n0"].hits, counted["n0"].misses, counted[OTHER].hits, counted[OTHER].misses) == (1, 1, 7, 7)
    await cache.aclose()


async def test_places_go_to_who_waits_before_refreshes_and_survive_any_cancellation() -> None:
    places = Places(2, 1)
    first, second, refresh, waiting = Turn(), Turn(), Turn(is_background=True), Turn()
    await places.take(first)
    await places.take(second)
    background = asyncio.create_task(places.take(refresh))
    front = asyncio.create_task(places.take(waiting))
    await settled()
    places.give_back(first)
    await settled()
    assert (front.done(), background.done()) == (True, False)
    places.give_back(second)
    await background
    for turn in (waiting, refresh, refresh):
        places.give_back(turn)
    assert (places.running, places.waiting) == (0, 0)
    tasks = [asyncio.create_task(places.take(Turn(is_background=number % 2 == 0))) for number in range(30)]
    await settled()
    for task in tasks[2:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (places.running, places.waiting) == (2, 0)


async def test_a_place_that_comes_in_the_moment_of_a_cancellation_is_not_lost() -> None:
    places, holder, waiter = Places(1, 1), Turn(), Turn()
    await places.take(holder)
    task = asyncio.create_task(places.take(waiter))
    await settled()
    places.give_back(holder)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert places.running == 0


async def test_a_generator_as_loader_is_no_value(cache: Cache) -> None:
    async def loader() -> object:
        return (number for number in range(3))

    with pytest.raises(TypeError, match="generator"):
        await cache.get_or_load("k", loader, ttl_s=60)
    await cache.aclose()
