"""Many keys at once, the decorator, and reads that load nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import TypeAdapter

from b1.cache import L1, Cache
from b1.clock import ManualClock
from tests.cache.hosts import Hosts, Loader, settled


@pytest.fixture
async def hosts(clock: ManualClock) -> AsyncIterator[Hosts]:
    made = Hosts(clock)
    yield made
    for cache in made.made:
        await cache.aclose()


class ManyLoader:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.begun = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, keys: list[str]) -> Mapping[str, Any]:
        self.asked.append(keys)
        self.begun.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return {key: f"value of {key}" for key in keys if "absent" not in key}


KEYS = [f"user:{number}" for number in range(20)]
VALUES = {key: f"value of {key}" for key in KEYS}


async def test_missing_keys_are_loaded_in_one_call(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    loader = ManyLoader()
    await cache.get_or_load("user:3", Loader(), ttl_s=60)
    await settled()
    assert await cache.get_many(KEYS, loader, ttl_s=60) == {**VALUES, "user:3": {"call": 1}}
    assert loader.asked == [[key for key in KEYS if key != "user:3"]]
    assert await cache.get_many(KEYS, loader, ttl_s=60) == {**VALUES, "user:3": {"call": 1}}
    assert (len(loader.asked), cache.snapshot().loads) == (1, 2)


async def test_another_host_takes_them_from_the_store(hosts: Hosts) -> None:
    (here, _), (there, _) = hosts.host(), hosts.host()
    loader = ManyLoader()
    await here.get_many(KEYS[:10], loader, ttl_s=60)
    await settled()
    assert await there.get_many(KEYS, loader, ttl_s=60) == VALUES
    assert loader.asked == [KEYS[:10], KEYS[10:]]


async def test_keys_that_come_twice_are_read_once_and_absent_ones_are_none(hosts: Hosts) -> None:
    """cashews get_many, Caffeine getAll_duplicates, getAll_absent."""
    cache, _ = hosts.host()
    loader = ManyLoader()
    keys = ["a", "absent", "a", "b", "absent"]
    for _ in range(2):
        assert await cache.get_many(keys, loader, ttl_s=60) == {"a": "value of a", "absent": None, "b": "value of b"}
    assert loader.asked == [["a", "absent", "b"]]


async def test_without_a_loader_what_is_missing_is_left_out(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    await cache.get_many(KEYS[:2], ManyLoader(), ttl_s=60)
    assert await cache.get_many(KEYS[:4]) == {key: VALUES[key] for key in KEYS[:2]}


async def test_more_keys_than_there_is_room_for_are_answered(clock: ManualClock) -> None:
    """Caffeine getAll_exceeds."""
    cache = Cache(L1(64 * 1024, clock), clock, limit_bytes=64 * 1024)
    keys = [f"k{number}" for number in range(1000)]

    async def loader(keys: list[str]) -> dict[str, str]:
        return dict.fromkeys(keys, "x" * 500)

    assert await cache.get_many(keys, loader, ttl_s=60) == dict.fromkeys(keys, "x" * 500)
    with pytest.raises(ValueError, match="1001 keys"):
        await cache.get_many([*keys, "one more"], loader)
    await cache.aclose()


async def test_a_key_that_is_loaded_already_is_waited_for_and_does_not_hold_up_the_call(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    single, loader = Loader(held=True), ManyLoader()
    alone = asyncio.create_task(cache.get_or_load("user:0", single, ttl_s=60))
    await single.begun.wait()
    many = asyncio.create_task(cache.get_many(KEYS[:3], loader, ttl_s=60))
    await loader.begun.wait()
    await settled()
    assert loader.asked == [KEYS[1:3]]
    single.go.set()
    assert await many == {**{key: VALUES[key] for key in KEYS[1:3]}, "user:0": {"call": 1}}
    assert await alone == {"call": 1}


async def test_a_single_read_joins_a_key_of_a_batch(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    loader, single = ManyLoader(), Loader()
    loader.go.clear()
    many = asyncio.create_task(cache.get_many(KEYS, loader, ttl_s=60))
    await loader.begun.wait()
    joined = asyncio.create_task(cache.get_or_load("user:7", single, ttl_s=60))
    await settled()
    loader.go.set()
    assert (await joined, single.calls) == ("value of user:7", 0)
    assert await many == VALUES


async def test_a_key_of_a_batch_that_was_cancelled_is_loaded_for_who_joined_it(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    loader = ManyLoader()
    loader.go.clear()
    many = asyncio.create_task(cache.get_many(KEYS, loader, ttl_s=60))
    await loader.begun.wait()
    joined = asyncio.create_task(cache.get_or_load("user:7", Loader(), ttl_s=60))
    await settled()
    many.cancel()
    await settled()
    loader.go.set()
    assert await joined == "value of user:7"


async def test_an_error_of_the_common_call_reaches_the_caller_and_nothing_is_kept(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    loader = ManyLoader()
    loader.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        await cache.get_many(KEYS, loader, ttl_s=60)
    loader.error = None
    await settled()
    assert await cache.get_many(KEYS, loader, ttl_s=60) == VALUES
    assert len(loader.asked) == 2


async def test_a_batch_that_was_invalidated_while_it_loaded_is_not_kept(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    loader = ManyLoader()
    loader.go.clear()
    many = asyncio.create_task(cache.get_many(KEYS, loader, ttl_s=60))
    await loader.begun.wait()
    await cache.invalidate(prefixes=["user"])
    loader.go.set()
    assert await many == VALUES
    assert await cache.get_many(KEYS) == {}


async def test_a_decorated_function_is_called_once_per_argument(hosts: Hosts) -> None:
    cache, _ = hosts.host()
    calls: list[tuple[int, str]] = []

    @cache.cached("report:{number}:{language}", ttl_s=60, tags=["report:{number}"])
    async def report(number: int, language: str = "en") -> str:
        """Make a report."""
        calls.append((number, language))
        return f"{number} in {language}"

    assert [await report(1), await report(number=1), await report(1, "en"), await report(2)] == [
        "1 in en", "1 in en", "1 in en", "2 in en",
    ]  # fmt: skip
    await cache.invalidate(["report:1"])
    assert await report(1) == "1 in en"
    assert (calls, report.__name__, report.__doc__) == ([(1, "en"), (2, "en"), (1, "en")], "report", "Make a report.")


async def test_an_argument_cannot_name_another_ones_entry(hosts: Hosts) -> None:
    cache, _ = hosts.host()

    @cache.cached("file:{owner}:{name}", ttl_s=60)
    async def file(owner: str, name: str) -> list[str]:
        return [owner, name]

    for owner, name in (("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("ü", "\x00"), ("{name}", "{owner}")):
        assert await file(owner, name) == [owner, name]


async def test_a_key_function_and_an_organisation_template(hosts: Hosts) -> None:
    cache, _ = hosts.host()

    @cache.cached(lambda organization, number: f"sum:{number}", organization="{organization}", ttl_s=60)
    async def total(organization: str, number: int) -> list[Any]:
        return [organization, number]

    assert [await total("1", 5), await total("2", 5), await total("1", 5)] == [["1", 5], ["2", 5], ["1", 5]]


async def test_a_template_that_names_no_parameter_is_refused_when_it_is_written(hosts: Hosts) -> None:
    cache, _ = hosts.host()

    async def report(number: int) -> int:
        return number

    with pytest.raises(ValueError, match=r"\{id\}.*expected one of number"):
        cache.cached("report:{id}")(report)


async def test_values_come_back_in_the_type_that_was_asked_for(hosts: Hosts) -> None:
    @dataclass
    class Account:
        name: str
        balance: int

    async def loader() -> Account:
        return Account("cash", 5)

    typed = TypeAdapter(Account).validate_json
    (here, _), (there, _) = hosts.host(), hosts.host()
    for cache in (here, here, there, there):
        assert await cache.get_or_load("account:1", loader, ttl_s=60, type=typed) == Account("cash", 5)
        await settled()
    assert await here.get("account:1", type=typed) == Account("cash", 5)
    assert await here.get_many(["account:1"], type=typed) == {"account:1": Account("cash", 5)}


async def test_none_is_a_value_and_missing_is_the_default(hosts: Hosts) -> None:
    """FusionCache TryGet; cashews: None against missing."""
    cache, _ = hosts.host()
    assert await cache.get("k", "missing") == "missing"
    await cache.set("k", None, ttl_s=60)
    assert await cache.get("k", "missing") is None
    snapshot = cache.snapshot()
    assert (snapshot.hits, snapshot.misses) == (1, 1)


async def test_what_json_cannot_say_is_a_type_error_and_is_not_kept(hosts: Hosts) -> None:
    cache, _ = hosts.host()

    async def loader() -> object:
        return {1, 2}

    for _ in range(2):
        with pytest.raises(TypeError, match="a value of type set cannot be cached"):
            await cache.get_or_load("k", loader, ttl_s=60)
    with pytest.raises(TypeError):
        await cache.set("k", object())
    assert await cache.get("k", "missing") == "missing"


async def test_switched_off_nothing_is_kept_anywhere(clock: ManualClock) -> None:
    cache = Cache(L1(1_000_000, clock), clock, limit_bytes=1_000_000, enabled=False)
    loader = ManyLoader()
    assert await cache.set("k", 1) is False
    assert await cache.get("k", "missing") == "missing"
    assert await cache.get_many(["k"]) == {}
    assert [await cache.get_many(["k"], loader) for _ in range(2)] == [{"k": "value of k"}] * 2
    assert (len(loader.asked), len(cache.l1)) == (2, 0)
