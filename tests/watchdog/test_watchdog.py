"""The watchdog against real loops, clocks and threads: it names who blocked, and nobody when nobody did.

A busy machine can disturb any single stall, so what blocks is done up to three times; what must not be reported is
checked as given.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from blockbuster import BlockBuster
from fastapi import FastAPI

from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.middleware.observe import Observe
from b1.asgi.routes import Route, RouteTable
from b1.asgi.running import running_request
from b1.clock import SystemClock
from b1.metrics import Metrics
from b1.watchdog import Report, Watchdog, WatchdogOptions

HERE = f"tests/watchdog/{Path(__file__).name}"


@pytest.fixture(autouse=True)
def may_block(blockbuster: BlockBuster) -> Iterator[None]:
    """Let these tests block their loop: that is what they are about."""
    blockbuster.deactivate()
    yield
    blockbuster.activate()


@pytest.fixture
async def watchdog() -> AsyncIterator[Watchdog]:
    watchdog = Watchdog(SystemClock(), WatchdogOptions(dump_after_s=0.2), identify=running_request)
    watchdog.start()
    await asyncio.sleep(0.05)
    try:
        yield watchdog
    finally:
        await watchdog.aclose()


def line_of(function: Callable[..., object], text: str) -> int:
    """Return the number of the function's line that holds this text."""
    first = function.__code__.co_firstlineno
    lines = Path(__file__).read_text().splitlines()
    return next(number for number in range(first, len(lines) + 1) if text in lines[number - 1])


def blamed(watchdog: Watchdog) -> list[Report]:
    return [report for report in watchdog.snapshot().reports if report.where is not None]


def stalls(watchdog: Watchdog, cause: str) -> int:
    return next(count for name, count, _ in watchdog.snapshot().stalls if name == cause)


async def settled(watchdog: Watchdog) -> None:
    """Wait until the stalls that have ended are judged."""
    before = sum(count for _, count, _ in watchdog.snapshot().stalls)
    for _ in range(40):
        await asyncio.sleep(0.025)
        if sum(count for _, count, _ in watchdog.snapshot().stalls) > before:
            return


async def report_of(
    watchdog: Watchdog, block: Callable[[], object], function: Callable[..., object], text: str
) -> Report:
    """Block the loop inside a request until the line that holds `text` is reported."""
    number = line_of(function, text)
    for _ in range(3):
        await asyncio.sleep(0.1)
        await asyncio.create_task(request(block, "/block", "request-block"))
        await settled(watchdog)
        for report in blamed(watchdog):
            if report.where == f"{HERE}:{number}":
                return report
    pytest.fail(f"{HERE}:{number} is not among {[(r.cause, r.where) for r in watchdog.snapshot().reports]}")


async def request(block: Callable[[], object], template: str, request_id: str) -> None:
    CONTEXT.set(RequestContext(request_id, 0.0, Route(template), {}, {}))
    await asyncio.sleep(0)
    block()


def sleep() -> None:
    time.sleep(0.4)


def compute(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:  # loop
        pass


def catastrophic(letters: int = 24) -> None:
    re.match(r"(a+)+$", "a" * letters + "b")


def read_slowly(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.recv(1)


async def test_a_sleep_is_named_with_route_and_request(watchdog: Watchdog) -> None:
    report = await report_of(watchdog, sleep, sleep, "time.sleep")
    assert ("sleep", "/block", "request-block") == (report.function, report.route, report.request_id)
    assert "sleeping call" == report.cause
    assert f"{HERE}:{line_of(sleep, 'time.sleep')} sleep" == report.stack[0]
    assert report.worst_s > 0.2


async def test_a_python_loop_is_named(watchdog: Watchdog) -> None:
    report = await report_of(watchdog, functools.partial(compute, 0.4), compute, "# loop")
    assert ("compute", "/block") == (report.function, report.route)


async def test_a_regex_that_holds_the_interpreter_is_named(watchdog: Watchdog) -> None:
    report = await report_of(watchdog, catastrophic, catastrophic, "re.match")
    assert ("native", "catastrophic", "request-block") == (report.cause, report.function, report.request_id)
    assert "match" in report.stack[0]


async def test_a_socket_that_waits_for_a_slow_server_is_named(watchdog: Watchdog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(3):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    time.sleep(0.4)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            port = server.getsockname()[1]
            report = await report_of(watchdog, functools.partial(read_slowly, port), read_slowly, "recv")
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert ("sleeping call", "read_slowly") == (report.cause, report.function)


async def test_two_stalls_at_one_line_are_one_report(watchdog: Watchdog) -> None:
    for _ in range(2):
        report = await report_of(watchdog, sleep, sleep, "time.sleep")
    assert 2 <= report.count
    assert 1 == len([one for one in blamed(watchdog) if one.where == report.where])


async def test_of_two_requests_the_one_that_blocks_is_named(watchdog: Watchdog) -> None:
    turn = asyncio.Event()

    async def quiet() -> None:
        CONTEXT.set(RequestContext("request-quiet", 0.0, Route("/quiet"), {}, {}))
        await turn.wait()

    waiting = [asyncio.create_task(quiet()) for _ in range(3)]
    report = await report_of(watchdog, sleep, sleep, "time.sleep")
    turn.set()
    await asyncio.gather(*waiting)
    assert ("/block", "request-block") == (report.route, report.request_id)


async def test_each_handler_of_an_application_is_named_by_its_template(watchdog: Watchdog) -> None:
    app = FastAPI()

    @app.get("/items/{number}")
    async def blocks(number: int) -> int:
        time.sleep(0.4)
        return number

    @app.get("/threads")
    def in_a_thread() -> int:
        time.sleep(0.4)
        return 1

    observed = Observe(app, routes=RouteTable.of(app), metrics=Metrics(), clock=SystemClock())
    transport = httpx.ASGITransport(app=observed)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.get("/threads")
        assert [] == blamed(watchdog)
        for _ in range(3):
            await client.get("/items/7", headers={"x-request-id": "request-of-seven"})
            await settled(watchdog)
            if found := blamed(watchdog):
                break
    assert [("/items/{number}", "request-of-seven")] == [(report.route, report.request_id) for report in found]
    assert f"{HERE}:{line_of(blocks, 'time.sleep')}" == found[0].where


async def test_an_idle_loop_is_not_reported(watchdog: Watchdog) -> None:
    await asyncio.sleep(0.5)
    assert [] == blamed(watchdog)


async def test_many_short_callbacks_in_one_turn_blame_none_of_them(watchdog: Watchdog) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.1)
    for _ in range(400):
        loop.call_soon(compute, 0.001)
    await settled(watchdog)
    assert [] == blamed(watchdog)


async def test_a_garbage_collection_blames_nobody(watchdog: Watchdog) -> None:
    await asyncio.sleep(0.1)
    heap: list[list[object]] = [[] for _ in range(2_000_000)]
    await asyncio.sleep(0.2)  # building it was a stall, and is this test's line
    before = {report.where for report in blamed(watchdog)}

    def collect() -> None:
        for _ in range(3):
            gc.collect()

    for _ in range(3):
        collect()
        await settled(watchdog)
        if stalls(watchdog, "garbage collection"):
            break
    assert 1 <= stalls(watchdog, "garbage collection")
    assert before >= {report.where for report in blamed(watchdog) if report.function and "collect" in report.function}
    assert 2_000_000 == len(heap)


async def test_another_thread_that_holds_the_interpreter_is_not_the_loops_fault(watchdog: Watchdog) -> None:
    for letters in (24, 25, 26):
        await asyncio.sleep(0.1)
        await asyncio.to_thread(catastrophic, letters)
        await settled(watchdog)
        if stalls(watchdog, "another thread"):
            break
    assert 1 <= stalls(watchdog, "another thread")
    assert {line_of(catastrophic, "re.match")} >= {report.line for report in blamed(watchdog)}


async def test_a_new_report_is_one_warning(watchdog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "b1.watchdog"):
        for _ in range(2):
            report = await report_of(watchdog, sleep, sleep, "time.sleep")
    lines = [record for record in caplog.records if getattr(record, "at", None) == f"{report.where} sleep"]
    assert 1 == len(lines)
    assert ("/block", "request-block", "sleeping call") == (
        lines[0].__dict__["route"],
        lines[0].__dict__["requestId"],
        lines[0].__dict__["cause"],
    )


async def test_a_stall_that_does_not_end_is_announced_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(SystemClock(), WatchdogOptions(announce_s=0.15))
    watchdog.start()
    try:
        with caplog.at_level(logging.WARNING, "b1.watchdog"):
            for _ in range(3):
                await asyncio.sleep(0.1)
                sleep()
                said = [record for record in caplog.records if "still does not turn" in record.getMessage()]
                if said:
                    break
    finally:
        await watchdog.aclose()
    assert f"{HERE}:{line_of(sleep, 'time.sleep')} sleep" == said[0].__dict__["at"]


async def test_a_half_second_stall_raises_the_level(watchdog: Watchdog) -> None:
    assert not watchdog.is_lagging()
    time.sleep(0.6)
    await asyncio.sleep(0.1)
    snapshot = watchdog.snapshot()
    assert watchdog.is_lagging()
    assert snapshot.is_lagging
    assert snapshot.lag.max_s > 0.4
    assert snapshot.lag_minute.max_s > 0.4
    assert 0.0 <= snapshot.utilisation <= 1.0


async def test_the_thread_ends_at_aclose_also_when_a_stall_has_just_been() -> None:
    watchdog = Watchdog(SystemClock())
    watchdog.start()
    thread = next(thread for thread in threading.enumerate() if thread.name == "b1-watchdog")
    await asyncio.sleep(0.1)
    time.sleep(0.3)
    await watchdog.aclose()
    thread.join(2.0)
    assert not thread.is_alive()
    assert not watchdog.snapshot().is_watching
    await watchdog.aclose()


async def test_what_was_looked_at_is_let_go() -> None:
    watchdog = Watchdog(SystemClock())
    watchdog.start()
    await asyncio.sleep(0.05)
    sleep()
    await asyncio.sleep(0.15)
    assert 0 == len(watchdog._heart.to_release)
    await watchdog.aclose()
    assert 0 == len(watchdog._heart.to_release)
    assert not [callback for callback in gc.callbacks if getattr(callback, "__self__", None) is watchdog._heart]


async def test_a_process_has_one_dump_and_the_second_watchdog_goes_without(watchdog: Watchdog) -> None:
    second = Watchdog(SystemClock())
    second.start()
    assert (True, False) == (watchdog.snapshot().is_dumping, second.snapshot().is_dumping)
    await second.aclose()
    assert watchdog.snapshot().is_dumping


async def test_a_watchdog_can_start_again() -> None:
    watchdog = Watchdog(SystemClock())
    for _ in range(2):
        watchdog.start()
        await asyncio.sleep(0.05)
        assert watchdog.snapshot().is_watching
        await watchdog.aclose()


@pytest.mark.parametrize("name", ["interval_s", "stall_s", "reports_kept"])
def test_options_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        WatchdogOptions(**{name: 0})
