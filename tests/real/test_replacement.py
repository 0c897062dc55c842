"""A worker is replaced and nobody notices: neither its clients, nor when the next one does not come."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.real.steady import Changing, Steady, Talk
from tests.server.running import wait_for

pytestmark = pytest.mark.real

MODES = pytest.mark.parametrize("mode", ["handover", "serial"])
STOP_LIMIT_S = 30


class TestReload:
    @MODES
    def test_loses_nothing_and_leaves_one_worker_of_a_new_process(self, mode: str, tmp_path: Path) -> None:
        with Changing(tmp_path, B1_REPLACEMENT=mode) as server, Steady(server.wait_ready().port) as load:
            workers = [server.workers()[0], server.replace(), server.replace()]
            load.wait_for_more()
            assert ([], {200}) == (load.lost, set(load.statuses))
            assert set(workers) == set(load.workers)
            assert workers[-1:] == server.workers()
            assert ["stopped", "stopped"] == [end["phase"] for end in server.endings()]

    @MODES
    def test_twice_in_quick_succession_ends_with_one_worker_of_the_newest_code(self, mode: str, tmp_path: Path) -> None:
        with Changing(tmp_path, B1_REPLACEMENT=mode) as server, Steady(server.wait_ready().port) as load:
            [old] = server.workers()
            server.set("mood", "wait")
            server.send(signal.SIGHUP)
            server.wait_loading(2)
            server.set("version", "2")
            server.send(signal.SIGHUP)
            server.send(signal.SIGHUP)
            if mode == "handover":
                server.wait_loading(3)  # the one with the old code is given up; in series it is all there is
            server.set("mood", "")
            wait_for(lambda: server.body("/version") == "2")
            last = server.wait_alone(but=[old])
            load.wait_for_more()
            assert [last] == server.workers()
            assert ([], {200}) == (load.lost, set(load.statuses))


class TestWhatIsUnderWay:
    """Connections that were open before the worker was replaced."""

    @MODES
    def test_requests_are_answered_by_whoever_there_is(self, mode: str, tmp_path: Path) -> None:
        """By handover the successor loads beside the worker that serves; in series it loads alone, and requests wait."""
        with Changing(tmp_path, B1_REPLACEMENT=mode) as server, Talk(server.wait_ready().port) as idle:
            idle.ask("/pid")
            old = int(idle.answer()[1])
            server.set("mood", "wait")
            server.set("version", "2")
            server.send(signal.SIGHUP)
            new = server.wait_loading(2)
            assert ({old, new} if mode == "handover" else {new}) == set(server.workers())
            with Talk(server.port) as other:
                idle.ask("/pid")
                other.ask("/version")
                if mode == "handover":
                    assert [(200, str(old)), (200, "1")] == [idle.answer(), other.answer()]
                    server.set("mood", "")
                else:
                    server.set("mood", "")
                    assert [(200, str(new)), (200, "2")] == [idle.answer(), other.answer()]
            server.wait_alone(but=[old])
            idle.ask("/pid")
            assert ((200, str(new)), "2") == (idle.answer(), server.body("/version"))


class TestSuccessorThatDoesNotCome:
    @pytest.mark.parametrize("mood", ["raise", "fail"])
    def test_changes_nothing(self, mood: str, tmp_path: Path) -> None:
        with Changing(tmp_path, B1_REPLACEMENT="handover") as server, Steady(server.wait_ready().port) as load:
            [old] = server.workers()
            good = server.code.read_text()
            if mood == "raise":
                server.code.write_text("raise RuntimeError('as asked for')\n")
            server.set("mood", mood)
            server.send(signal.SIGHUP)
            wait_for(lambda: "as asked for" in server.log and server.workers() == [old])
            load.wait_for_more()
            assert ([], [old], None) == (load.lost, load.workers, server.process.poll())
            server.code.write_text(good)
            server.set("mood", "")
            assert server.replace() != old
            load.wait_for_more()
            assert ([], {200}) == (load.lost, set(load.statuses))

    def test_because_it_was_killed_changes_nothing(self, tmp_path: Path) -> None:
        with Changing(tmp_path, B1_REPLACEMENT="handover") as server, Steady(server.wait_ready().port) as load:
            [old] = server.workers()
            server.set("mood", "wait")
            server.send(signal.SIGHUP)
            os.kill(server.wait_loading(2), signal.SIGKILL)
            wait_for(lambda: server.workers() == [old])
            load.wait_for_more()
            assert ([], [old]) == (load.lost, load.workers)
            server.set("mood", "")
            assert server.replace() != old


class TestDeathAndStopMeanwhile:
    def test_a_predecessor_killed_in_mid_handover_leaves_the_successor_serving(self, tmp_path: Path) -> None:
        with Changing(tmp_path, B1_REPLACEMENT="handover") as server:
            [old] = server.wait_ready().workers()
            server.set("mood", "wait")
            server.send(signal.SIGHUP)
            new = server.wait_loading(2)
            os.kill(old, signal.SIGKILL)
            wait_for(lambda: old not in server.workers())
            server.set("mood", "")
            assert new == server.wait_alone(but=[old])
            assert str(new) == server.body("/pid")
            assert server.replace() != new  # and it has not forgotten how

    def test_a_successor_killed_in_series_is_followed_by_one_that_answers_who_waited(self, tmp_path: Path) -> None:
        with Changing(tmp_path, B1_REPLACEMENT="serial") as server, Talk(server.wait_ready().port) as idle:
            idle.ask("/pid")
            old = int(idle.answer()[1])
            server.set("mood", "wait")
            server.send(signal.SIGHUP)
            killed = server.wait_loading(2)
            idle.ask("/pid")
            os.kill(killed, signal.SIGKILL)
            server.wait_loading(3)
            server.set("mood", "")
            assert (200, str(server.wait_alone(but=[old, killed]))) == idle.answer()

    @pytest.mark.parametrize(("mode", "limit"), [("handover", "5"), ("serial", "60")])
    def test_a_stop_while_a_successor_loads_ends_everything(self, mode: str, limit: str, tmp_path: Path) -> None:
        environment = {"WEBSITE_SITE_NAME": "b1", "B1_ENV": "development", "WEBSITES_CONTAINER_STOP_TIME_LIMIT": limit}
        with Changing(tmp_path, B1_REPLACEMENT=mode, **environment) as server:
            [old] = server.wait_ready().workers()
            server.set("mood", "wait")
            server.send(signal.SIGHUP)
            server.wait_loading(2)
            family = [psutil.Process(pid) for pid in server.workers()]
            server.send(signal.SIGTERM)
            assert 0 == server.process.wait(STOP_LIMIT_S), server.log
            assert [] == [one for one in family if one.is_running()]
            assert (1, ["stopped"]) == (server.events("shutdown"), _phases(server, old))

    def test_a_stop_while_the_predecessor_drains_ends_everything(self, tmp_path: Path) -> None:
        with Changing(tmp_path, B1_REPLACEMENT="handover") as server, Talk(server.wait_ready().port) as busy:
            [old] = server.workers()
            busy.ask("/slow?s=1.5")
            wait_for(lambda: server.events("slow") == 1)
            server.send(signal.SIGHUP)
            wait_for(lambda: len(server.workers()) == 2)
            server.send(signal.SIGTERM)
            assert 200 == busy.answer()[0]
            assert 0 == server.process.wait(STOP_LIMIT_S), server.log
            assert [] == [pid for pid in [old, *server.loading()] if psutil.pid_exists(pid)]
            assert ["stopped"] == _phases(server, old)


def _phases(server: Changing, pid: int) -> list[object]:
    return [end["phase"] for end in server.endings() if end["pid"] == pid]
