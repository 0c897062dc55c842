"""What is read often counts for more than what is read once: a look turns "read" into "read before"."""

from __future__ import annotations

from b1.cache.warming import KeySubject
from tests.cache.warming import process


async def test_each_look_counts_what_was_read_since_the_one_before() -> None:
    async with process() as one:
        names = ("often", "once", "never")
        for name in names:
            one.l1.put(name, b"v", ttl_s=3600, versions=())
            one.warming.learnt.saw(name, one_of(name), 0.0)
        one.l1.get("once")
        for _ in range(5):
            one.l1.get("often")
            one.warming.sweep()
        counts = dict(one.warming.learnt._popular.top(3))
        assert {"often": 5.0, "once": 1.0, "never": 0.0} == counts


async def test_eviction_spares_what_was_read_before_as_it_spares_what_is_read() -> None:
    async with process() as one:
        one.l1.put("read", b"v", ttl_s=3600, versions=())
        one.l1.get("read")
        one.warming.learnt.saw("read", one_of("read"))
        one.warming.sweep()
        for number in range(40_000):
            one.l1.put(f"scan:{number}", b"v" * 200, ttl_s=3600, versions=())
        assert one.l1.get("read") is not None


def one_of(name: str) -> KeySubject:
    return KeySubject(name, name)
