"""Memory at 95 % under the real command: the worker ends within moments, one successor answers, and no storm begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.steady import Changing, Talk
from tests.server.running import wait_for

pytestmark = pytest.mark.real

EMERGENCY = "0.97"
REPLACEMENTS_ALLOWED = 3  # in fifteen minutes, by the breaker


class Pressed(Changing):
    """A server whose memory is as full as the test says."""

    def __init__(self, folder: Path) -> None:
        (folder / "ratio").write_text("off")
        super().__init__(folder, B1_ENV="development", B1_MEMORY_INJECTION_FILE=str(folder / "ratio"))


def test_one_worker_ends_at_once_and_its_successor_answers_on_the_connections_that_were_open(tmp_path: Path) -> None:
    with Pressed(tmp_path) as server, Talk(server.wait_ready().port) as idle, Talk(server.port) as slow:
        [old] = server.workers()
        idle.ask("/pid")
        assert (200, str(old)) == idle.answer()
        slow.ask("/slow?s=60")
        wait_for(lambda: f"slow {old}\n" in (tmp_path / "events").read_text())
        server.set("ratio", EMERGENCY)
        wait_for(lambda: old not in server.workers(), limit_s=20)  # although a request of a minute is in work
        server.set("ratio", "off")
        new = server.wait_alone(but=[old])
        idle.ask("/pid")
        assert (200, str(new)) == idle.answer()
        assert [old, new] == server.loading()  # the old one was gone before the new one began
        assert "mode=serial reason=memory" in server.log
        assert ["stopped"] == [end["phase"] for end in server.endings()]


def test_where_a_new_worker_does_not_help_the_breaker_ends_it_and_the_last_one_stays(tmp_path: Path) -> None:
    with Pressed(tmp_path) as server:
        server.wait_ready()
        server.set("ratio", EMERGENCY)
        wait_for(lambda: "no further replacement" in server.log)
        assert 1 + REPLACEMENTS_ALLOWED == len(server.loading())
        wait_for(lambda: server.status("/pid") == 503)  # none but critical work is let in
        assert (200, 503) == (server.status("/live"), server.status("/ready"))
        assert b"b1_worker_replacements_tripped 1" in server.get("/metrics")
        assert server.loading()[-1:] == server.workers()
