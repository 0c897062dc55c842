"""`b1 limits`: what it asks the worker and says of the answer; what a log of requests would get."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from b1.asgi.endpoints.limits import LIMITS_PATH, LimitsDesk
from b1.cli import limits, simulation
from b1.cli.simulation import Rules, load_rules, simulate
from b1.cli.traffic import Request, Unreadable, read
from b1.clock import ManualClock
from b1.errors import ConfigurationError
from b1.limiter import Caller, Limiter, Policy, PolicyTable
from b1.store.memory import MemoryStore
from b1.units import MIB
from tests.asgi.raw import call

TABLE = PolicyTable(
    (
        Policy("read", 3, 60),
        Policy("door", 2, 60, scope="address"),
        Policy("team", 5, 60, scope="organization"),
        Policy("quiet", 1, 60, shadow=True),
    )
)
ANN = Caller("203.0.113.9", "ann", "1")
START_S = 1_750_000_000


def limits_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    limits.add_arguments(parser)
    return limits.run(parser.parse_args(words))


class TestTheEndpoint:
    def desk(self) -> tuple[Limiter, LimitsDesk]:
        limiter = Limiter(MemoryStore(MIB, ManualClock()), TABLE)
        return limiter, LimitsDesk(limiter)

    async def asked(self, desk: LimitsDesk, query: str = "", method: str = "GET", **more: Any) -> Any:
        return await call(desk, LIMITS_PATH, method, query=query.encode(), **more)

    async def test_without_a_question_it_shows_the_policies(self) -> None:
        answer = (await self.asked(self.desk()[1])).json
        assert [one["name"] for one in answer["policies"]] == ["read", "door", "team", "quiet"]
        assert answer["policies"][1] == {"name": "door", "quota": 2, "window_s": 60, "scope": "address"}
        assert answer["policies"][3]["shadow"] is True
        assert answer["limiter"]["mode"] == "memory"

    async def test_it_shows_where_a_caller_stands_and_spends_nothing(self) -> None:
        limiter, desk = self.desk()
        await limiter.check(("read", "door"), ANN)
        for _ in range(5):
            answer = (await self.asked(desk, "actor=ann&organization=1")).json
        assert {one["policy"]: one["used"] for one in answer["states"]} == {"read": 1}
        address = (await self.asked(desk, "address=203.0.113.9")).json
        assert {one["policy"]: one["used"] for one in address["states"]} == {"read": 0, "door": 1, "team": 0}

    async def test_an_organisation_is_found_without_its_members(self) -> None:
        limiter, desk = self.desk()
        await limiter.check(("team",), ANN, cost=4)
        answer = (await self.asked(desk, "organization=1")).json
        assert [(one["policy"], one["used"]) for one in answer["states"]] == [("team", 4)]

    async def test_what_an_actor_does_is_no_reason_to_reset_its_organisation(self) -> None:
        limiter, desk = self.desk()
        await limiter.check(("read", "team"), ANN, cost=3)
        answer = (await self.asked(desk, "actor=ann&organization=1", "DELETE")).json
        assert answer["given_back"] == {"read": 3}

    async def test_a_reset_gives_everything_back(self) -> None:
        limiter, desk = self.desk()
        for _ in range(4):
            await limiter.check(("read",), ANN)
        assert not (await limiter.check(("read",), ANN)).allowed
        answer = (await self.asked(desk, "actor=ann&organization=1", "DELETE")).json
        assert answer["given_back"] == {"read": 3}
        assert {one["policy"]: one["used"] for one in answer["states"]} == {"read": 0}
        assert (await limiter.check(("read",), ANN)).allowed

    @pytest.mark.parametrize(
        ("query", "method"),
        [("who=ann", "GET"), ("tier=pro", "GET"), ("key=k", "GET"), ("", "DELETE"), ("address=rubbish", "GET"),
         ("actor=ann&policy=raed", "GET"), ("actor=&organization=1", "DELETE"), ("actor=ann&role=", "GET")],
    )  # fmt: skip
    async def test_a_question_that_makes_no_sense_is_400(self, query: str, method: str) -> None:
        assert (await self.asked(self.desk()[1], query, method)).code == "MALFORMED_REQUEST"

    async def test_a_page_cannot_reset(self) -> None:
        reply = await self.asked(self.desk()[1], "actor=ann", "DELETE", headers=[(b"origin", b"http://localhost")])
        assert reply.status == 403


@pytest.fixture
def worker() -> Iterator[Callable[[int, Any], tuple[str, list[tuple[str, str, str | None]]]]]:
    """Stand in for a running service: answers the same to everybody and remembers what it was asked."""
    running: list[HTTPServer] = []

    def start(status: int, answer: Any) -> tuple[str, list[tuple[str, str, str | None]]]:
        asked: list[tuple[str, str, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.command, self.path, self.headers.get("authorization")))
                body = json.dumps(answer).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")  # type: ignore[attr-defined]
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_DELETE = do_GET

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


STATES = {
    "caller": {"actor": "ann"},
    "states": [{"policy": "read", "used": 2, "remaining": 1, "limit": 3, "reset_s": 61, "window_s": 60}],
}


class TestAskingTheWorker:
    def test_it_asks_with_the_token_and_prints_the_states(
        self, worker: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("ADMIN_TOKEN", "the admin's own token of 32 signs")
        url, asked = worker(200, STATES)
        assert limits_command("show", "--actor", "ann", "--organization", "a b", "--url", url) == 0
        assert asked == [
            ("GET", "/internal/limits?actor=ann&organization=a+b", "Bearer the admin's own token of 32 signs")
        ]
        assert capsys.readouterr().out.splitlines() == [
            "actor ann",
            "policy  used  remaining  limit  reset",
            "read    2     1          3      61 s",
        ]

    def test_a_reset_is_a_delete(self, worker: Any, capsys: pytest.CaptureFixture[str]) -> None:
        url, asked = worker(200, STATES | {"given_back": {"read": 3}})
        assert limits_command("reset", "--actor", "ann", "--url", url) == 0
        assert asked == [("DELETE", "/internal/limits?actor=ann", None)]
        assert "given back: 3 of read" in capsys.readouterr().out

    def test_a_reset_of_nobody_is_refused_before_anybody_is_asked(self) -> None:
        with pytest.raises(ConfigurationError, match="nobody was named"):
            limits_command("reset", "--policy", "read")

    @pytest.mark.parametrize(
        ("status", "words"), [(401, "ADMIN_TOKEN"), (404, "an older one"), (400, "no address"), (302, "answered 302")]
    )
    def test_a_refusal_says_what_to_do(
        self, worker: Any, capsys: pytest.CaptureFixture[str], status: int, words: str
    ) -> None:
        url, asked = worker(status, {"detail": "'x' is no address"})
        assert limits_command("show", "--address", "x", "--url", url) == 1
        assert words in capsys.readouterr().err
        assert len(asked) == 1  # a redirect is not followed: the token is for this service alone

    def test_nobody_there_is_exit_code_1(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert limits_command("show", "--url", "http://127.0.0.1:1") == 1
        assert "no worker answers at http://127.0.0.1:1" in capsys.readouterr().err

    def test_a_url_that_is_none_is_a_wrong_question(self) -> None:
        with pytest.raises(ConfigurationError, match="--url is 'file:///etc/passwd'"):
            limits_command("show", "--url", "file:///etc/passwd")


class TestReading:
    def requests(self, text: str) -> list[Request]:
        return [found for _, found in read(io.StringIO(text)) if isinstance(found, Request)]

    def test_csv_and_json_say_the_same(self) -> None:
        header = "time,address,actor,organization,tier,role,method,path,class"
        csv = f"{header}\n1750000000,::1,ann,1,pro,MANAGER,post,/x?a=1,read+write\n"
        line = {"ts": 1750000000000, "ip": "::1", "user": "ann", "org": "1", "tier": "pro", "role": "MANAGER",
                "method": "POST", "url": "/x?a=1", "policies": "read write"}  # fmt: skip
        found = self.requests(csv) + self.requests(json.dumps(line))
        assert found == [Request(START_S, "::1", "ann", "1", "pro", "MANAGER", "POST", "/x", ("read", "write"))] * 2

    def test_times_are_seconds_milliseconds_or_iso(self) -> None:
        times = [
            "1750000000",
            "1750000000000",
            "2025-06-15T15:06:40Z",
            "2025-06-15T17:06:40+02:00",
            "2025-06-15 15:06:40",
        ]
        assert {request.at_s for request in self.requests("\n".join(["time", *times]))} == {START_S}

    def test_only_the_time_is_needed(self) -> None:
        assert self.requests("time,actor\n1750000000,-\n") == [Request(START_S)]

    @pytest.mark.parametrize(
        "line",
        ["{", "[1]", "{}", '{"time": "soon"}', '{"time": NaN}', '{"time": 1e999}', '{"time": -5}',
         '{"time": true, "cost": "x"}', '{"time": 1, "cost": "-1"}', '{"time": 1, "cost": 99999999999}',
         '{"time": 1' + "0" * 400 + "}"],
    )  # fmt: skip
    def test_a_line_that_is_no_request_is_named_and_left_out(self, line: str) -> None:
        found = list(read(io.StringIO('{"time": 1}\n\n' + line)))
        assert [1, 3] == [number for number, _ in found]
        assert isinstance(found[1][1], Unreadable)

    @pytest.mark.parametrize("text", ["", "\n \n", "GET /x 200\n", "address,method\n::1,GET\n"])
    def test_a_log_of_another_kind_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigurationError, match=r"header"):
            list(read(io.StringIO(text)))


class TestSimulating:
    def log(self, *rows: tuple[float, str]) -> io.StringIO:
        return io.StringIO("\n".join(["time,actor,organization", *(f"{START_S + at_s},{who},1" for at_s, who in rows)]))

    def test_it_counts_what_passes_and_what_does_not(self) -> None:
        report = simulate(self.log(*[(n, "ann") for n in range(5)], (5, "bob"), (70, "ann")), Rules(TABLE))
        counts = report.as_json()
        assert (counts["requests"], counts["allowed"], counts["refused"]) == (7, 5, 2)
        assert (counts["callers"], counts["callers_refused"]) == (2, 1)
        assert counts["policies"]["read"]["refused"] == 2
        first = counts["first_refusals"][0]
        assert (first["at_s"], first["caller"], first["policies"]) == ("2025-06-15T15:06:43.000Z", "ann@1", ("read",))

    def test_who_goes_on_asking_is_shut_out_as_in_life(self) -> None:
        report = simulate(self.log(*[(n * 1.5, "ann") for n in range(60)]), Rules(TABLE), shown=60)
        assert report.penalised > 0
        assert ("penalty",) in {one.policies for one in report.first}

    def test_whoever_waits_as_told_passes(self) -> None:
        requests = [(float(n), "ann") for n in range(4)]
        wait_s = simulate(self.log(*requests), Rules(TABLE)).first[0].retry_after_s
        assert simulate(self.log(*requests, (3 + wait_s, "ann")), Rules(TABLE)).total.refused == 1
        assert simulate(self.log(*requests, (2 + wait_s, "ann")), Rules(TABLE)).total.refused == 2

    def test_a_shadow_policy_is_counted_and_refuses_nobody(self) -> None:
        lines = io.StringIO("time,actor,class\n" + "\n".join(f"{START_S + n},ann,quiet" for n in range(4)))
        report = simulate(lines, Rules(TABLE))
        assert (report.total.refused, report.policies["quiet"].shadow) == (0, 3)

    def test_it_says_what_a_limiter_asked_by_hand_says(self) -> None:
        clock, source = ManualClock(monotonic=START_S, wall=START_S), random.Random(7)
        limiter, at_s, lines, expected = Limiter(MemoryStore(MIB, clock), TABLE), 0.0, [], 0
        for _ in range(500):
            step_s = source.random() * 20
            at_s, who = at_s + step_s, source.choice("abc")
            clock.advance(step_s)
            lines.append((at_s, who))
            decision = limiter.check_now(("read",), Caller("unknown", who, "1"))
            assert decision is not None
            expected += not decision.allowed
        assert simulate(self.log(*lines), Rules(TABLE)).total.refused == expected > 0

    def test_what_is_late_is_judged_at_the_newest_time(self) -> None:
        report = simulate(self.log((60, "ann"), (0, "ann"), (61, "ann")), Rules(TABLE))
        assert (report.late, report.total.requests) == (1, 3)

    def test_a_policy_that_is_not_in_the_table_is_left_out_and_named(self) -> None:
        report = simulate(io.StringIO("time,class\n1,read\n2,raed\n"), Rules(TABLE))
        assert (report.total.requests, report.unreadable) == (1, 1)
        assert "line 3: no policy is called 'raed'" in report.first_unreadable

    def test_a_log_without_any_request_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="line 2"):
            simulate(io.StringIO("time\nsoon\n"), Rules(TABLE))

    def test_a_table_is_found_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ours_limits.py").write_text(
            "from b1.limiter import Policy, PolicyTable\nTABLE = PolicyTable([Policy('read', 7, 60)])\nNO = 1\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        assert load_rules("ours_limits:TABLE").table["read"].quota == 7
        with pytest.raises(ConfigurationError, match="is a int"):
            load_rules("ours_limits:NO")
        with pytest.raises(ConfigurationError, match="has no 'NOTHING'"):
            load_rules("ours_limits:NOTHING")

    def test_the_command_prints_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log = tmp_path / "traffic.log"
        log.write_text("".join(f'{{"time": {START_S + n}, "actor": "ann"}}\n' for n in range(105)) + "rubbish\n")
        assert limits_command("simulate", str(log), "--top", "1") == 0
        text = capsys.readouterr().out
        assert "105 requests of 1 callers" in text
        assert "1 lines were left out; the first: line 106" in text
        assert limits_command("simulate", str(log), "--json") == 0
        assert json.loads(capsys.readouterr().out)["requests"] == 105

    def test_a_log_that_is_not_there_is_a_wrong_question(self) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read"):
            limits_command("simulate", "/nowhere/traffic.log")
        with pytest.raises(ConfigurationError, match="--top is 0"):
            limits_command("simulate", "x", "--top", "0")


def test_asking_loads_no_framework() -> None:
    program = (
        "import sys, b1.cli.limits; print(*(name for name in ('fastapi', 'starlette', 'redis') if name in sys.modules))"
    )

    async def output() -> bytes:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        return (await child.communicate())[0]

    assert asyncio.run(output()).strip() == b""


def test_the_simulation_has_room_for_its_callers() -> None:
    assert simulation.STORE_BYTES >= 256 * MIB
