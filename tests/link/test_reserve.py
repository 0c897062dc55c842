"""The second connection: when it exists, for whom, and that the server never sees a third."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from b1.errors import StoreUnavailable
from tests.link.conftest import Census, MakeLink, clients_of_ours, in_thread, until
from tests.link.proxy import proxy_before
from tests.servers import RedisServer

pytestmark = pytest.mark.real

OwnRedis = Callable[[], RedisServer]


async def test_it_exists_only_while_it_is_used_and_each_use_is_counted(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    link = make_link(redis_server.url, deadline_s=10, reserve_idle_s=0.05)
    await link.start()
    assert (await link.call("CLIENT", "LIST")).count(b"name=b1:") == 1
    async with link.reserve("emergency") as line:
        assert await line.call("SET", "b1:last", "state") == b"OK"
        assert (await link.call("CLIENT", "LIST")).count(b"name=b1:") == 2
        assert (link.snapshot().connections, link.snapshot().reserve.state) == (2, "open")
    async with link.reserve("last_words") as line:
        assert await line.call("GET", "b1:last") == b"state"
    await until(lambda: link.snapshot().reserve.state == "closed")
    assert (await link.call("CLIENT", "LIST")).count(b"name=b1:") == 1
    assert link.snapshot().reserve.used == (("emergency", 1), ("last_words", 1))


async def test_those_who_use_it_at_the_same_time_share_it(make_link: MakeLink, redis_server: RedisServer) -> None:
    link = make_link(redis_server.url, deadline_s=10, reserve_idle_s=0.05)
    await link.start()

    async def use() -> int:
        async with link.reserve("emergency") as line:
            return int(await line.call("CLIENT", "ID"))

    with Census(redis_server.port) as census:
        assert len(set(await asyncio.gather(*(use() for _ in range(20))))) == 1
        await until(lambda: link.snapshot().reserve.state == "closed")
        assert len({await use() for _ in range(5)}) == 1
    assert census.most == 2


async def test_its_scripts_are_loaded(make_link: MakeLink, redis_server: RedisServer) -> None:
    link = make_link(redis_server.url, deadline_s=10)
    link.register("double", "return ARGV[1] * 2")
    await link.start()
    async with link.reserve("emergency") as line:
        assert await line.script("double", [], [21]) == 42


async def test_a_stalled_connection_is_removed_by_the_server_before_the_reserve_takes_its_place(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    async with proxy_before(server.port) as proxy:
        link = make_link(proxy.url, deadline_s=0.1, stall_bound_s=0.1)
        await link.start()
        stalled = await link.call("CLIENT", "ID")
        with Census(server.port) as census:
            proxy.swallows = True
            with pytest.raises(StoreUnavailable):
                await link.call("PING")
            proxy.swallows = False
            await until(lambda: link.is_up)
            assert await link.call("CLIENT", "ID") > stalled
            clients = (await link.call("CLIENT", "LIST")).decode().splitlines()
            assert [line.split()[0] for line in clients if f"name=b1:web:{os.getpid()} " in line] == [
                f"id={await link.call('CLIENT', 'ID')}"
            ]
            seen = census.samples
            await until(lambda: census.samples > seen + 20)
        assert census.most <= 2
        snapshot = link.snapshot()
        assert (snapshot.reserve.state, snapshot.reserve.promoted, snapshot.connects) == ("closed", 1, 2)
        assert dict(snapshot.reserve.used)["stalled"] >= 1
        await link.aclose()


async def test_a_stalled_connection_that_comes_back_stays(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=0.1, stall_bound_s=0.1)
    await link.start()
    number = await link.call("CLIENT", "ID")
    server.suspend()
    with pytest.raises(StoreUnavailable):
        await link.call("PING")
    await until(lambda: link.snapshot().reserve.state == "opening")
    assert link.snapshot().connections == 2
    server.resume()
    await until(lambda: link.is_up and link.snapshot().reserve.state == "closed")
    if link.snapshot().reserve.promoted == 0:  # else the reserve was answered before the main connection was
        assert await link.call("CLIENT", "ID") == number


async def test_while_two_processes_overlap_there_is_none_and_the_main_connection_serves(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    first, second = (make_link(redis_server.url, deadline_s=10) for _ in range(2))
    await first.start()
    await second.start()
    with Census(redis_server.port) as census:
        for link in (first, second):
            main = await link.call("CLIENT", "ID")
            async with link.reserve("emergency") as line:
                assert await line.call("CLIENT", "ID") == main
            assert (link.snapshot().reserve.used, link.snapshot().reserve.failed) == ((("emergency", 1),), 1)
        seen = census.samples
        await until(lambda: census.samples > seen + 20)
    assert census.most == 2


async def test_with_neither_a_slot_nor_a_main_connection_it_says_so(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    links = [make_link(redis_server.url, deadline_s=10) for _ in range(3)]
    for link in links:
        await link.start()
    assert links[2].snapshot().state == "no_slot"
    with pytest.raises(StoreUnavailable, match="there is no reserve"):
        async with links[2].reserve("emergency"):
            pass
    assert links[2].snapshot().connections == 0


async def test_an_idle_reserve_makes_way_for_a_process_that_starts(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    old, new = make_link(redis_server.url, deadline_s=10, reserve_idle_s=60), make_link(redis_server.url, deadline_s=10)
    await old.start()
    with Census(redis_server.port) as census:
        async with old.reserve("emergency") as line:
            await line.call("PING")
            await new.start()
            assert new.snapshot().state == "no_slot"
        await until(lambda: new.is_up)
        assert old.snapshot().reserve.state == "closed"
        assert await new.call("PING") == b"PONG"
    assert census.most == 2


async def test_overlapping_successors_never_make_a_third_client(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    with Census(server.port) as census:
        old = make_link(server.url, deadline_s=0.2, reserve_idle_s=0.05)
        await old.start()
        for number in range(6):  # reloads: each successor starts before its predecessor has gone
            new = make_link(server.url, deadline_s=0.2, reserve_idle_s=0.05)
            await new.start()
            calls = [link.call("PING") for link in (old, new) for _ in range(50)]
            await asyncio.gather(*calls, return_exceptions=True)
            if number % 2:
                await in_thread(lambda: server.command("CLIENT", "KILL", "TYPE", "normal"))
            with contextlib.suppress(StoreUnavailable):  # both slots are in use, and its own connection was killed
                async with old.reserve("last_words"):
                    await asyncio.sleep(0.01)
            await old.aclose()
            await until(lambda one=new: one.is_up)  # type: ignore[misc]
            old = new
        seen = census.samples
        await until(lambda: census.samples > seen + 20)
    assert census.samples > 50
    assert 1 <= census.most <= 2


HOLDER = """
import asyncio, pathlib, sys, uvloop
from b1.link import Link, LinkOptions

async def main(url, slots):
    link = Link(LinkOptions(url, slots_dir=pathlib.Path(slots), deadline_s=5))
    await link.start()
    while not link.is_up:
        await asyncio.sleep(0.01)
    async with link.reserve("emergency"):
        print("holding", link.snapshot().connections, flush=True)
        while True:
            await asyncio.gather(*(link.call("ECHO", n) for n in range(50)))

uvloop.run(main(*sys.argv[1:]))
"""


async def test_processes_that_are_killed_with_both_connections_leave_room_for_the_next(
    make_link: MakeLink, own_redis: OwnRedis, tmp_path: Path
) -> None:
    server = own_redis()
    with Census(server.port) as census:
        for _ in range(3):
            holder = await asyncio.create_subprocess_exec(
                sys.executable, "-c", HOLDER, server.url, str(tmp_path / "slots"), stdout=asyncio.subprocess.PIPE
            )
            try:
                assert holder.stdout is not None
                assert await asyncio.wait_for(holder.stdout.readline(), 30) == b"holding 2\n"
            finally:
                holder.kill()
                await holder.wait()
            link = make_link(server.url, deadline_s=5)
            await link.start()
            await until(lambda one=link: one.is_up)  # type: ignore[misc]
            async with link.reserve("emergency") as line:
                assert await line.call("PING") == b"PONG"
            await link.aclose()
    assert census.samples > 50
    assert census.most == 2


async def test_closing_the_link_closes_it(make_link: MakeLink, redis_server: RedisServer) -> None:
    before = asyncio.all_tasks()
    link = make_link(redis_server.url, deadline_s=10, reserve_idle_s=60)
    await link.start()
    async with link.reserve("last_words") as line:
        await line.call("PING")
    await link.aclose()
    assert asyncio.all_tasks() == before
    await until(lambda: clients_of_ours(redis_server.port) == 0)
