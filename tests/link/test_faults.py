"""Every way in which a server can be away, and what callers see of it: an answer in time, and only their own.

Times have the slack of a busy machine; what is exact is who was answered and how many clients the server saw.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from b1.errors import StoreUnavailable
from b1.link import Link, ReplyError
from tests.link.conftest import Census, MakeLink, in_thread, until
from tests.link.proxy import Proxy, proxy_before
from tests.servers import RedisServer

pytestmark = pytest.mark.real

OwnRedis = Callable[[], RedisServer]
DEADLINE_S = 0.25
SLACK_S = 1.5  # on top of the deadline, for a machine that does something else


class Callers:
    """Twenty callers that ask for their own number again and again, and what became of their calls.

    Attributes:
        right, refused: calls that were answered, and that failed.
        wrong: answers that belonged to somebody else.
        words: first words of error answers.
        longest_s: of any call.
    """

    def __init__(self, link: Link, *, writes: bool = False) -> None:
        self.right = self.refused = self.wrong = 0
        self.words: set[str] = set()
        self.longest_s = 0.0
        self._link = link
        self._writes = writes
        self._is_over = False

    async def run(self, number: int) -> None:
        turn = 0
        while not self._is_over:
            turn += 1
            mine = f"{number}:{turn}"
            started_s = time.monotonic()
            try:
                if self._writes:
                    self._note(await self._link.call("SET", f"b1:k{number}", mine), b"OK")
                else:
                    self._note(await self._link.call("ECHO", mine), mine.encode())
            except ReplyError as error:
                self.refused += 1
                self.words.add(error.word)
            except StoreUnavailable:
                self.refused += 1
            self.longest_s = max(self.longest_s, time.monotonic() - started_s)
            await asyncio.sleep(0.001)

    def stop(self) -> None:
        self._is_over = True

    def _note(self, answer: object, expected: bytes) -> None:
        self.right += answer == expected
        self.wrong += answer != expected


@asynccontextmanager
async def calling(link: Link, *, writes: bool = False) -> AsyncIterator[Callers]:
    """Keep twenty callers busy; afterwards nobody may have waited too long or got another's answer."""
    callers = Callers(link, writes=writes)
    tasks = [asyncio.create_task(callers.run(number)) for number in range(20)]
    await until(lambda: callers.right > 20)
    try:
        yield callers
        before = callers.right
        await until(lambda: callers.right > before + 100)  # everything is well again
    finally:
        callers.stop()
        await asyncio.gather(*tasks)
    assert callers.wrong == 0
    assert callers.longest_s < DEADLINE_S + SLACK_S


async def _refused(proxy: Proxy) -> None:
    await proxy.refuse()
    await asyncio.sleep(0.5)
    await proxy.listen()


async def _reset(proxy: Proxy) -> None:
    proxy.reset()


async def _black_hole(proxy: Proxy) -> None:
    proxy.swallows = True
    await asyncio.sleep(2.0)
    proxy.swallows = False


async def _half_open(proxy: Proxy) -> None:
    proxy.forget_server_side()


@pytest.mark.parametrize("fault", [_refused, _reset, _black_hole, _half_open])
async def test_a_broken_line_costs_a_bounded_wait_and_is_made_anew(
    make_link: MakeLink, own_redis: OwnRedis, fault: Callable[[Proxy], Awaitable[None]]
) -> None:
    server = own_redis()
    async with proxy_before(server.port) as proxy:
        link = make_link(proxy.url, deadline_s=DEADLINE_S)
        await link.start()
        with Census(server.port) as census:
            async with calling(link) as callers:
                await fault(proxy)
                await until(lambda: link.snapshot().connects > 1 and link.is_up)
        assert callers.refused > 0
        assert census.most <= 2
        await link.aclose()


async def test_a_server_that_is_frozen_for_two_seconds_keeps_its_connection(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=DEADLINE_S)
    await link.start()
    with Census(server.port) as census:
        async with calling(link) as callers:
            server.suspend()
            await until(lambda: link.snapshot().state == "stalled")
            await until(lambda: link.snapshot().reserve.used != ())
            await asyncio.sleep(0.7)
            server.resume()
            await until(lambda: link.is_up)
        await until(lambda: link.snapshot().reserve.state == "closed")
        seen = census.samples
        await until(lambda: census.samples > seen + 20)
    assert callers.refused > 0
    assert census.most <= 2


async def test_a_server_that_is_killed_is_used_again_when_it_is_back(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=DEADLINE_S)
    await link.start()
    async with calling(link):
        await in_thread(server.kill)
        await until(lambda: not link.is_up)
        await asyncio.sleep(1)
        await in_thread(server.start)
        back_s = await until(lambda: link.is_up)
    assert back_s < 5  # the promise is 2 s; this machine is shared
    assert link.snapshot().connects == 2


async def test_a_script_that_does_not_end_is_an_error_for_the_others(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    server.command("CONFIG", "SET", "busy-reply-threshold", 100)
    link = make_link(server.url, deadline_s=DEADLINE_S)
    await link.start()
    async with calling(link) as callers:
        endless = asyncio.create_task(_endless_script(server.port))
        await until(lambda: "BUSY" in callers.words)
        server.command("SCRIPT", "KILL")
        await endless
    assert link.snapshot().connects == 1


async def test_a_script_of_our_own_that_does_not_end_is_a_stall_and_no_reason_for_a_new_connection(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    server.command("CONFIG", "SET", "busy-reply-threshold", 100)
    link = make_link(server.url, deadline_s=DEADLINE_S, stall_bound_s=0.2)
    await link.start()
    async with calling(link) as callers:
        with pytest.raises(StoreUnavailable):
            await link.call("EVAL", "while true do end", 0)
        assert link.snapshot().state == "stalled"
        await until(lambda: dict(link.snapshot().reserve.used).get("stalled", 0) > 0)
        await asyncio.sleep(0.5)
        server.command("SCRIPT", "KILL")
        await until(lambda: link.is_up)
    assert callers.refused > 0
    assert link.snapshot().connects == 1


async def _endless_script(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"EVAL 'while true do end' 0\r\n")
    await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_server_out_of_memory_answers_so_and_keeps_its_connection(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=DEADLINE_S)
    await link.start()
    async with calling(link, writes=True) as callers:
        server.command("CONFIG", "SET", "maxmemory", "1")
        await until(lambda: "OOM" in callers.words)
        server.command("CONFIG", "SET", "maxmemory", "0")
    assert link.snapshot().connects == 1


async def test_a_server_that_became_a_replica_is_left_and_taken_back(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=DEADLINE_S)
    await link.start()
    async with calling(link, writes=True) as callers:
        server.command("REPLICAOF", "127.0.0.1", 1)
        await until(lambda: "READONLY" in callers.words)
        await until(lambda: (seen := link.snapshot().server) is not None and seen.is_read_only)
        server.command("REPLICAOF", "NO", "ONE")
    assert link.snapshot().connects > 1
    await until(lambda: (seen := link.snapshot().server) is not None and not seen.is_read_only)


async def test_a_server_that_is_loading_its_data_is_away_until_it_is_done(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=DEADLINE_S)
    await link.start()
    await link.call("EVAL", "for i = 1, 2000 do redis.call('SET', 'b1:' .. i, 'x') end", 0)
    await link.call("CONFIG", "SET", "key-load-delay", 500)  # microseconds: a second for these keys
    async with calling(link):
        answer = await in_thread(lambda: server.command("DEBUG", "RELOAD"))
        assert answer == b"+OK"
        await until(lambda: link.is_up)


async def test_a_password_that_changes_ends_the_connection_and_is_reported(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=DEADLINE_S)
    await link.start()
    await link.call("ACL", "SETUSER", "default", "resetpass", ">new")
    await link.call("CLIENT", "KILL", "ID", await link.call("CLIENT", "ID"), "SKIPME", "no")
    await until(lambda: "auth" in (link.snapshot().last_error or "").lower())
    with pytest.raises(StoreUnavailable, match="is away"):
        await link.call("PING")


async def test_while_redis_is_away_a_call_fails_without_a_wait(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    link = make_link(server.url)
    await link.start()
    await in_thread(server.kill)
    await until(lambda: not link.is_up)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    for _ in range(100):
        with pytest.raises(StoreUnavailable):
            await link.call("PING")
    counting.cancel()
    assert turns == 0  # not one of them gave the loop away


async def test_never_more_than_two_clients_whatever_happens(make_link: MakeLink, own_redis: OwnRedis) -> None:
    server = own_redis()
    link = make_link(server.url, deadline_s=0.2, stall_bound_s=0.2, reserve_idle_s=0.1)

    async def burst() -> None:
        await asyncio.gather(*(link.call("ECHO", n) for n in range(200)), return_exceptions=True)

    async def one_more_connection(than: int) -> None:
        await until(lambda: link.snapshot().connects > than and link.is_up)

    with Census(server.port) as census:
        await link.start()
        for _ in range(5):
            await burst()
            connects = link.snapshot().connects
            await in_thread(lambda: server.command("CLIENT", "KILL", "TYPE", "normal"))
            await burst()
            await one_more_connection(connects)
        async with link.reserve("emergency") as line:
            await line.call("PING")
            connects = link.snapshot().connects
            await in_thread(lambda: server.command("CLIENT", "KILL", "TYPE", "normal"))
        await one_more_connection(connects)
        server.suspend()
        await burst()
        await until(lambda: link.snapshot().reserve.state == "opening")
        server.resume()
        await until(lambda: link.is_up)
        await in_thread(server.kill)
        await burst()
        await in_thread(server.start)
        await until(lambda: link.is_up)
        await burst()
        samples = census.samples
        await until(lambda: census.samples > samples + 20)
    assert census.samples > 50
    assert 1 <= census.most <= 2


async def test_a_link_started_before_its_server_comes_up_by_itself(
    make_link: MakeLink, own_redis: OwnRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_redis()
    await in_thread(server.kill)
    link = make_link(server.url)
    await link.start()
    assert link.snapshot().state == "away"
    assert link.snapshot().last_error
    await asyncio.sleep(0.5)  # some attempts
    assert [record.message for record in caplog.records if record.name == "b1.link"] == ["redis away"]
    await in_thread(server.start)
    assert await until(lambda: link.is_up) < 5


async def test_a_connection_that_is_taken_and_never_answered_is_tried_again(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    async with proxy_before(server.port) as proxy:
        proxy.swallows = True
        link = make_link(proxy.url, connect_timeout_s=0.2)
        await link.start()
        assert link.snapshot().state == "connecting"
        proxy.swallows = False
        await until(lambda: link.is_up)
        assert await link.call("ECHO", "after") == b"after"
        await until(lambda: proxy.open_connections == 1)
        await link.aclose()


async def test_random_cuts_in_the_middle_of_replies_give_nobody_anothers_answer(
    make_link: MakeLink, own_redis: OwnRedis
) -> None:
    server = own_redis()
    random_ = random.Random(7)
    async with proxy_before(server.port) as proxy:
        link = make_link(proxy.url, deadline_s=DEADLINE_S, backoff_first_s=0.01, backoff_most_s=0.05)
        await link.start()
        async with calling(link):
            proxy.cut = lambda data: random_.randrange(len(data)) if random_.random() < 0.02 else None
            await until(lambda: link.snapshot().connects > 15)
            proxy.cut = None
            await until(lambda: link.is_up)
        await link.aclose()
