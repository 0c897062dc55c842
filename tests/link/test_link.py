"""The link over a real server that is well: order, sharing, bounds, endings."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from b1.clock import DEADLINE, SystemClock
from b1.errors import ConfigurationError, StoreUnavailable
from b1.link import Link, LinkOptions, Oversized, ReplyError, slots_directory
from tests.link.conftest import MakeLink, until
from tests.servers import RedisServer


async def test_replies_go_to_the_callers_that_asked(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    replies = await asyncio.gather(*(link.call("ECHO", number) for number in range(500)))
    assert replies == [str(number).encode() for number in range(500)]


async def test_calls_of_one_turn_leave_in_one_write(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()

    async def reads() -> int:
        lines = (await link.call("INFO", "stats")).split(b"\r\n")
        return next(int(line.split(b":")[1]) for line in lines if line.startswith(b"total_reads_processed:"))

    before = await reads()
    await asyncio.gather(*(link.call("PING") for _ in range(200)))
    assert await reads() - before <= 5


async def test_the_server_sees_one_client_named_after_role_and_process(
    make_link: MakeLink, redis_server: RedisServer
) -> None:
    link = make_link(redis_server.url, role="test", deadline_s=10)
    await link.start()
    await asyncio.gather(*(link.call("PING") for _ in range(100)))
    clients = (await link.call("CLIENT", "LIST")).decode().splitlines()
    assert len([line for line in clients if f"name=b1:test:{os.getpid()} " in line]) == 1


async def test_a_caller_that_gives_up_takes_nobodys_answer(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    tasks = [asyncio.create_task(link.call("ECHO", number)) for number in range(200)]
    await asyncio.sleep(0)  # all are queued
    for task in tasks[::2]:
        task.cancel()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert replies[1::2] == [str(number).encode() for number in range(1, 200, 2)]
    assert all(isinstance(reply, asyncio.CancelledError) for reply in replies[::2])
    assert await link.call("ECHO", "after") == b"after"
    assert link.snapshot().connects == 1


async def test_an_error_of_the_server_belongs_to_its_caller_alone(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    await link.call("SET", "k", "v")
    wrong, right = await asyncio.gather(link.call("LPUSH", "k", "x"), link.call("GET", "k"), return_exceptions=True)
    assert isinstance(wrong, ReplyError)
    assert wrong.word == "WRONGTYPE"
    assert right == b"v"
    assert link.is_up


async def test_replies_keep_their_types(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    assert await link.call("GET", "nothing") is None
    assert await link.call("INCRBY", "n", 2**40) == 2**40
    assert await link.call("SET", "b", b"\x00\xff\r\n") == b"OK"
    assert await link.call("GET", "b") == b"\x00\xff\r\n"
    assert await link.call("EVAL", "return {1, 'a', {2}}", 0) == [1, b"a", [2]]


async def test_a_command_that_would_block_the_line_is_refused_before_it_is_sent(
    make_link: MakeLink, redis_url: str
) -> None:
    link = make_link(redis_url, deadline_s=10, command_limit_bytes=100_000)
    await link.start()
    writes = link.snapshot().writes
    with pytest.raises(Oversized, match="more than 100000"):
        await link.call("SET", "k", bytes(100_001))
    assert (link.snapshot().writes, link.snapshot().failures) == (writes, 1)
    assert await link.call("SET", "k", bytes(99_000)) == b"OK"


@pytest.mark.parametrize("command", [("SUBSCRIBE", "c"), ("blpop", "k", 0), (b"MULTI",), ("HELLO", 2), ("AUTH", "x")])
async def test_a_command_that_cannot_share_a_connection_is_refused(
    make_link: MakeLink, redis_url: str, command: tuple[str | bytes | int, ...]
) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    with pytest.raises(ValueError, match="cannot share a connection"):
        await link.call(*command)
    assert await link.call("PING") == b"PONG"


@pytest.mark.parametrize("argument", [None, True, ["list"], "\ud800"])
async def test_an_argument_that_cannot_be_sent_harms_nobody_else(
    make_link: MakeLink, redis_url: str, argument: object
) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    wrong, right = await asyncio.gather(
        link.call("SET", "k", argument),  # type: ignore[arg-type]
        link.call("PING"),
        return_exceptions=True,
    )
    assert isinstance(wrong, TypeError | UnicodeEncodeError)
    assert right == b"PONG"


async def test_pushes_go_to_the_handler_and_come_before_the_reply_that_follows_them(
    make_link: MakeLink, redis_url: str
) -> None:
    link = make_link(redis_url, deadline_s=10)
    heard: list[bytes] = []
    link.subscribe(["news"], lambda push: heard.append(push[2]) if push[0] == b"message" else None)
    await link.start()
    for number in range(20):
        assert await link.call("PUBLISH", "news", number) == 1
        assert heard[-1] == b"%d" % number
    assert link.snapshot().pushes == 21  # the confirmation of the subscription is one
    with pytest.raises(RuntimeError, match="before the link is started"):
        link.subscribe(["more"], heard.append)


async def test_subscriptions_are_made_anew_with_each_connection(make_link: MakeLink, redis_server: RedisServer) -> None:
    link = make_link(redis_server.url, deadline_s=10)
    heard: list[bytes] = []
    link.subscribe(["news"], lambda push: heard.append(push[2]) if push[0] == b"message" else None)
    await link.start()
    await link.call("CLIENT", "KILL", "ID", await link.call("CLIENT", "ID"), "SKIPME", "no")
    await until(lambda: link.snapshot().connects == 2 and link.is_up)
    await link.call("PUBLISH", "news", "again")
    assert heard == [b"again"]


async def test_a_server_that_refuses_the_subscription_serves_without_pushes(
    make_link: MakeLink, own_redis: Callable[[], RedisServer]
) -> None:
    server = own_redis()
    server.command("ACL", "SETUSER", "default", "resetchannels")
    link = make_link(server.url, deadline_s=10)
    link.subscribe(["news"], lambda push: None)
    await link.start()
    await until(lambda: link.is_up)
    assert await asyncio.gather(*(link.call("ECHO", number) for number in range(3))) == [b"0", b"1", b"2"]
    seen = link.snapshot().server
    assert seen is not None
    assert not seen.has_pushes


async def test_what_the_server_can_do_is_in_the_snapshot(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    assert link.snapshot().server is None
    await link.start()
    seen = link.snapshot().server
    assert seen is not None
    assert (seen.protocol, seen.mode, seen.is_read_only, seen.has_pushes) == (3, "standalone", False, True)
    assert seen.name in ("redis", "valkey")
    assert seen.version[0].isdigit()
    assert seen.has_functions == (int(seen.version.split(".")[0]) >= 7)


async def test_a_server_without_resp3_serves_in_the_poorer_mode(make_link: MakeLink, redis_server: RedisServer) -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _relay_without_hello(redis_server.port, reader, writer)

    async with await asyncio.start_server(old, "127.0.0.1", 0) as listener:
        link = make_link(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}", deadline_s=10)
        link.subscribe(["news"], lambda push: None)
        await link.start()
        await until(lambda: link.is_up)
        seen = link.snapshot().server
        assert seen is not None
        assert (seen.protocol, seen.has_pushes, seen.mode) == (2, False, "standalone")
        assert seen.name in ("redis", "valkey")
        assert seen.version[0].isdigit()
        assert await asyncio.gather(*(link.call("ECHO", number) for number in range(50))) == [
            b"%d" % number for number in range(50)
        ]
        async with link.reserve("emergency") as line:
            assert await line.call("PING") == b"PONG"
        assert link.snapshot().reserve.failed == 0
        await link.aclose()


async def _relay_without_hello(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)

    async def back() -> None:
        while data := await server_reader.read(65_536):
            writer.write(data)
        writer.close()

    answering = asyncio.create_task(back())
    while data := await reader.read(65_536):
        server_writer.write(data.replace(b"HELLO", b"HALLO"))
    server_writer.close()
    await answering


async def test_a_forked_child_has_no_connection_and_leaves_the_parents_alone(
    make_link: MakeLink, redis_url: str
) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    async with link.reserve("emergency") as line:
        child = os.fork()
        if child == 0:
            is_forgotten = not link.is_up and link.snapshot().state == "forked"
            try:
                link.call("PING").send(None)
            except StoreUnavailable:
                os._exit(0 if is_forgotten else 1)
            os._exit(2)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await line.call("PING") == b"PONG"
    assert await link.call("ECHO", "after") == b"after"
    assert link.snapshot().connects == 1


async def test_large_values_pass_both_ways(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    values = [bytes([number]) * 300_000 for number in range(10)]
    await asyncio.gather(*(link.call("SET", f"k{number}", value) for number, value in enumerate(values)))
    assert await asyncio.gather(*(link.call("GET", f"k{number}") for number in range(10))) == values


async def test_a_script_that_the_server_lost_is_sent_again(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    link.register("double", "return ARGV[1] * 2")
    await link.start()
    assert await link.script("double", [], [21]) == 42
    assert link.snapshot().healed_scripts == 0
    await link.call("SCRIPT", "FLUSH")
    assert await asyncio.gather(*(link.script("double", [], [number]) for number in range(3))) == [0, 2, 4]
    assert await link.script("double", [], [21]) == 42
    assert (link.snapshot().healed_scripts, link.snapshot().connects) == (3, 1)


async def test_deadlines_of_calls_are_their_own_and_kept_by_one_timer(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    blocking = asyncio.create_task(link.call("DEBUG", "SLEEP", 1))
    await asyncio.sleep(0)
    late: list[int] = []

    async def call(number: int, deadline_s: float) -> None:
        DEADLINE.set(SystemClock().monotonic() + deadline_s)
        with pytest.raises(StoreUnavailable, match="within the time of the call"):
            await link.call("ECHO", number)
        late.append(number)

    await asyncio.gather(call(2, 0.2), call(3, 0.3), call(0, -1), call(1, 0.1))
    assert late == [0, 1, 2, 3]
    assert link.is_up
    await blocking
    assert await link.call("ECHO", "after") == b"after"


async def test_the_requests_own_deadline_ends_a_call_and_says_nothing_about_redis(
    make_link: MakeLink, redis_url: str
) -> None:
    link = make_link(redis_url, deadline_s=10)
    await link.start()
    token = DEADLINE.set(SystemClock().monotonic() + 0.05)
    try:
        with pytest.raises(StoreUnavailable, match="did not answer within the time"):
            await link.call("DEBUG", "SLEEP", 1)
    finally:
        DEADLINE.reset(token)
    assert link.is_up
    assert await link.call("ECHO", "after") == b"after"


async def test_a_loop_that_was_blocked_does_not_blame_redis(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=0.2)
    await link.start()
    task = asyncio.create_task(link.call("PING"))
    for _ in range(3):
        await asyncio.sleep(0)  # the command is on its way
    time.sleep(0.5)
    assert await task == b"PONG"
    assert link.snapshot().timeouts == 0


async def test_more_calls_than_the_bound_fail_at_once(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url, deadline_s=10, pending_limit=50)
    await link.start()
    replies = await asyncio.gather(*(link.call("PING") for _ in range(80)), return_exceptions=True)
    assert replies.count(b"PONG") == 50
    assert sum(isinstance(reply, StoreUnavailable) for reply in replies) == 30
    assert await link.call("PING") == b"PONG"


async def test_calls_before_the_start_and_after_the_end_fail(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url)
    with pytest.raises(StoreUnavailable, match="is new"):
        await link.call("PING")
    await link.start()
    await link.aclose()
    with pytest.raises(StoreUnavailable, match="is closed"):
        await link.call("PING")


async def test_closing_leaves_no_client_and_no_task(make_link: MakeLink, redis_server: RedisServer) -> None:
    before = asyncio.all_tasks()
    link = make_link(redis_server.url)
    await link.start()
    await link.aclose()
    await link.aclose()
    assert asyncio.all_tasks() == before
    other = make_link(redis_server.url, deadline_s=10)
    await other.start()
    assert f"name=b1:web:{os.getpid()}".encode() in await other.call("CLIENT", "LIST")
    assert (await other.call("CLIENT", "LIST")).count(b"name=b1:") == 1


async def test_a_host_has_two_connections_and_a_third_process_says_so(make_link: MakeLink, redis_url: str) -> None:
    first, second, third = (make_link(redis_url, deadline_s=10) for _ in range(3))
    for link in (first, second, third):
        await link.start()
    assert [link.snapshot().slot for link in (first, second, third)] == [0, 1, None]
    assert third.snapshot().state == "no_slot"
    assert third.snapshot().last_error == "all 2 Redis connections of this host are in use"
    with pytest.raises(StoreUnavailable, match="is no_slot"):
        await third.call("PING")
    assert (await first.call("CLIENT", "LIST")).count(b"name=b1:") == 2
    await first.aclose()
    await until(lambda: third.is_up)
    assert third.snapshot().slot == 0


def test_all_spellings_of_this_machine_share_the_slots() -> None:
    assert slots_directory("localhost:6379") == slots_directory("127.0.0.1:6379")
    assert slots_directory("localhost:6379") != slots_directory("localhost:6380")


@pytest.mark.parametrize(
    "url", ["http://:s3cret@localhost", "redis://:s3cret@localhost:port", "redis://:s3cret@localhost/0?nonsense=1"]
)
def test_a_url_that_cannot_be_used_stops_the_start_without_telling_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL cannot be used") as caught:
        Link(LinkOptions(url))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_the_password_shows_nowhere(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url.replace("redis://", "redis://nobody:s3cret@"))
    await link.start()
    assert not link.is_up
    assert "s3cret" not in f"{link!r} {link.snapshot()} {LinkOptions('redis://:s3cret@h')}"


@pytest.mark.parametrize(
    "words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n", b"*-1\r\n", b"-ERR unknown command 'HELLO'\r\n", b""]
)
async def test_a_server_that_is_no_redis_is_away_and_tried_again(make_link: MakeLink, words: bytes) -> None:
    meetings = 0

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal meetings
        meetings += 1
        await reader.read(1000)
        writer.write(words)
        writer.close()

    async with await asyncio.start_server(meet, "127.0.0.1", 0) as server:
        link = make_link(f"redis://:s3cret@127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await link.start()
        await until(lambda: meetings > 2)
        assert not link.is_up
        assert link.snapshot().last_error
        await link.aclose()
        assert link.snapshot().state == "closed"


def test_redis_py_is_not_imported_before_a_link_is_made() -> None:
    code = "import sys, b1.link, b1.store.redis, b1.store.fallback, b1.limiter; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
