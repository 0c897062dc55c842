"""The small parts of the server, each alone."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from b1.clock import ManualClock
from b1.errors import HeadersTooLarge
from b1.plan import ALLOCATOR_ENVIRONMENT
from b1.server.ending import KEPT, Ending, EndingLog, PhaseCell
from b1.server.master import nworkers_changed
from b1.server.options import read_options
from b1.server.passage import Passage, Will
from b1.server.refusals import LINE_EVERY_S, Refusals, answer_bytes
from b1.server.serving import B1Server, StopTimes
from b1.server.succession import Succession

ROOT = Path(__file__).parents[2]


def test_many_refusals_make_one_line_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    refusals = Refusals(clock)
    for _ in range(1000):
        refusals.note("MALFORMED_REQUEST", "nonsense", "192.0.2.1")
    clock.advance(LINE_EVERY_S)
    refusals.note("HEADERS_TOO_LARGE", "too large", None)
    assert [1, 1000] == [record.__dict__["requests"] for record in caplog.records]
    assert {"MALFORMED_REQUEST": 1000, "HEADERS_TOO_LARGE": 1} == refusals.snapshot().by_reason


def test_an_answer_to_a_refusal_ends_the_connection_once() -> None:
    answer = answer_bytes(HeadersTooLarge(), [(b"date", b"today"), (b"connection", b"close")])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert 1 == head.count(b"connection: close")
    assert b"content-length: %d\r\n" % len(body) in head
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\ndate: today\r\n")


def test_the_phase_is_seen_by_the_process_that_forked() -> None:
    cell = PhaseCell()
    if (child := os.fork()) == 0:
        cell.phase = "stopping"
        os._exit(0)
    os.waitpid(child, 0)
    assert "stopping" == cell.phase


def test_the_last_endings_are_kept(tmp_path: Path) -> None:
    log = EndingLog(tmp_path / "state")
    endings = [Ending(pid, 0.0, "stopped", False) for pid in range(KEPT + 5)]
    for ending in endings:
        log.append(ending)
    assert endings[5:] == log.read()


def test_a_broken_list_of_endings_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "worker-endings.json").write_text('[{"pid": 1}]')
    ending = Ending(2, 0.0, "serving", True)
    EndingLog(tmp_path).append(ending)
    assert [ending] == EndingLog(tmp_path).read()


@pytest.mark.parametrize("limit_s", [4, 5, 25, 60])
def test_requests_leave_the_application_some_of_the_time_to_stop(limit_s: int) -> None:
    times = StopTimes.within(limit_s)
    assert 0 < times.linger_s < times.requests_s < limit_s
    assert limit_s - times.requests_s >= 1.2


@pytest.fixture
def server() -> Iterator[B1Server]:
    from uvicorn.config import Config

    passage = Passage()
    succession = Succession(passage, Will(), None, graceful_s=25)
    config = Config(lambda: None, log_config=None)
    yield B1Server(config, StopTimes.within(25), PhaseCell(), succession, gc_threshold=20_000)
    passage.close()


@pytest.mark.parametrize(
    ("signals", "is_hurried"),
    [
        (["SIGTERM"], False),
        (["SIGTERM", "SIGTERM"], False),
        (["SIGINT", "SIGQUIT"], False),
        (["SIGQUIT", "SIGQUIT"], False),
        (["SIGINT", "SIGINT"], False),  # one Ctrl-C, from the terminal and through the supervisor
        (["SIGTERM", "SIGQUIT"], True),
        (["SIGTERM", "SIGINT"], True),
    ],
)
def test_only_an_impatient_signal_hurries(server: B1Server, signals: list[str], is_hurried: bool) -> None:
    for name in signals:
        server.handle_exit(signal.Signals[name], None)
    assert server.should_exit
    assert is_hurried == server._is_hurried


def test_ctrl_c_a_second_later_hurries(server: B1Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("b1.server.serving.time.monotonic", lambda: now_s[0])
    server.handle_exit(signal.SIGINT, None)
    now_s[0] += 1.5
    server.handle_exit(signal.SIGINT, None)
    assert server._is_hurried


class FakeArbiter:
    """As much of gunicorn's as the hook touches: the real configuration, and the property that calls the hook."""

    def __init__(self, **settings: Any) -> None:
        from gunicorn.config import Config

        self.cfg = Config()
        self.cfg.set("worker_class", "b1.server.worker.B1Worker")
        for name, value in settings.items():
            self.cfg.set(name, value)
        self.log = logging.getLogger("tests")
        self.worker_class: Any = None
        self._workers: int | None = None

    @property
    def num_workers(self) -> int | None:
        return self._workers

    @num_workers.setter
    def num_workers(self, value: int) -> None:
        old, self._workers = self._workers, value
        nworkers_changed(self, value, old)


@pytest.mark.parametrize("asked", [1, 2, 8])
def test_a_start_has_one_worker(asked: int) -> None:
    arbiter = FakeArbiter(workers=asked, preload_app=True)
    arbiter.num_workers = arbiter.cfg.workers
    assert (1, 1, False) == (arbiter.num_workers, arbiter.cfg.workers, arbiter.cfg.preload_app)


def test_a_running_master_goes_to_two_and_back() -> None:
    arbiter = FakeArbiter(workers=1)
    seen = []
    for wanted in (1, 2, 3, 2, 1):
        arbiter.num_workers = wanted
        seen.append(arbiter.num_workers)
    assert [1, 2, 2, 2, 1] == seen


@pytest.mark.parametrize(
    ("host", "bind"), [(None, "0.0.0.0:8000"), ("127.0.0.1", "127.0.0.1:8000"), ("::", "[::]:8000")]
)
def test_the_address_is_in_gunicorns_form(host: str | None, bind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if host is not None:
        monkeypatch.setenv("HOST", host)
    assert bind == read_options().bind


@pytest.mark.parametrize("name", ["startup.sh", "Dockerfile"])
def test_the_allocators_numbers_are_the_plans(name: str) -> None:
    text = (ROOT / name).read_text()
    found = dict(re.findall(r"(MALLOC_\w+?)=(?:\"\$\{\w+:-)?(\d+)", text))
    assert dict(ALLOCATOR_ENVIRONMENT) == found


def test_the_start_command_hands_its_process_over() -> None:
    last = (ROOT / "startup.sh").read_text().rstrip().splitlines()[-1]
    assert last.startswith("exec python -m b1 run")
