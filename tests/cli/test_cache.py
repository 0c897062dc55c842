"""`b1 cache`: the endpoints that it talks to, what it asks of them, and what it says of the answer."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from b1.asgi.caching.surrogate import surrogate_keys
from b1.asgi.endpoints.caches import CACHE_PATH, CHECK_PATH, CacheDesk, CheckDesk, Purge
from b1.cache import L1, Cache
from b1.cache.checking import Checker, CheckOptions
from b1.cli import cache as command
from b1.cli.main import main
from b1.clock import ManualClock
from b1.errors import ConfigurationError
from b1.store.memory import MemoryStore
from b1.types import ASGIApp
from b1.units import MIB
from tests.asgi.raw import call


class Queue:
    """Stands for the purge queue."""

    def __init__(self) -> None:
        self.told: list[tuple[list[str], bool]] = []

    def put(self, keys: Any, *, soft: bool = False) -> int:
        self.told.append((list(keys), soft))
        return 1

    def put_everything(self) -> int:
        self.told.append((["everything"], False))
        return 1


class World:
    def __init__(self) -> None:
        clock = ManualClock()
        store = MemoryStore(MIB, clock)
        self.l1 = L1(4 * MIB, clock, versions=store.versions)
        self.cache = Cache(self.l1, clock, store=store, limit_bytes=4 * MIB)
        self.queue = Queue()
        self.desk = CacheDesk(self.cache, self.l1, store.versions, clock, purge=Purge(self.queue, surrogate_keys))
        checker = Checker(
            self.l1, lambda count: ["user:1"][:count], clock, source=store.versions, options=CheckOptions(pause_s=0.0)
        )
        self.check_desk = CheckDesk(checker)
        self.loads = 0
        checker.knows("user", self.source)

    async def source(self, key: str, organization: str | None) -> Any:
        return {"name": "Ann"}

    async def read(self, key: str, organization: str | None = None) -> Any:
        async def load() -> Any:
            self.loads += 1
            return {"name": "Ann"}

        return await self.cache.get_or_load(key, load, ttl="hot", tags=("people",), organization=organization)


async def asked(desk: ASGIApp, query: str = "", method: str = "GET", **more: Any) -> Any:
    return await call(desk, CACHE_PATH, method, query=query.encode(), **more)


class TestTheEndpoint:
    async def test_it_says_what_is_known_of_a_key_and_never_its_value(self) -> None:
        world = World()
        await world.read("user:1", "7")
        reply = await asked(world.desk, "key=user:1&organization=7")
        entry = reply.json["key"]
        assert entry["tags"] == ["key user:1 of 7", "prefix user of 7", "organization 7", "people"]
        assert (entry["first"]["is_stale"], entry["first"]["value_bytes"], entry["second"]) == (False, 14, None)
        assert b"Ann" not in reply.body
        assert (await asked(world.desk, "key=user:1")).json["key"]["first"] is None

    async def test_it_counts_the_invalidations_of_a_tag(self) -> None:
        world = World()
        for query in ("tag=people", "tag=people", "tag=people&soft=1"):
            assert (await asked(world.desk, query, "DELETE")).status == 200
        tag = (await asked(world.desk, "tag=people")).json["tag"]
        assert (tag["hard"], tag["soft"], tag["is_exact"]) == (2, 1, True)

    @pytest.mark.parametrize(
        ("query", "is_reached"),
        [("key=user:1&organization=7", True), ("prefix=user&organization=7", True), ("tag=people", True),
         ("organization=7", True), ("all=1", True), ("key=user:2&organization=7", False), ("key=user:1", False),
         ("organization=8", False), ("key=user:9&key=user:1&organization=7", True)],
    )  # fmt: skip
    async def test_what_is_named_is_loaded_anew_and_nothing_else(self, query: str, is_reached: bool) -> None:
        world = World()
        await world.read("user:1", "7")
        assert (await asked(world.desk, query, "DELETE")).status == 200
        await world.read("user:1", "7")
        assert world.loads == (2 if is_reached else 1)

    async def test_the_cdn_is_told_by_the_keys_that_the_answers_have(self) -> None:
        world = World()
        await asked(world.desk, "tag=people&soft=1", "DELETE")
        await asked(world.desk, "all=1", "DELETE")
        assert world.queue.told[0][1] is True
        assert "people" in world.queue.told[0][0]
        assert world.queue.told[1] == (["everything"], False)

    @pytest.mark.parametrize(
        ("query", "method"),
        [("", "GET"), ("organization=7", "GET"), ("who=1", "GET"), ("key=a&key=b", "GET"), ("key=%00", "GET"),
         ("", "DELETE"), ("soft=1", "DELETE"), ("all=1&tag=a", "DELETE"), ("all=1&soft=1", "DELETE"),
         ("prefix=a:b:c:d", "DELETE"), ("tag=*", "DELETE"), ("tag=" + "x" * 300, "DELETE"),
         ("tag=a&organization=7", "DELETE"), ("key=&organization=7", "DELETE"), ("tag=&key=a", "DELETE"),
         ("organization=", "DELETE"), ("tag=a&soft=perhaps", "DELETE"), ("tag=a&soft=", "DELETE"), ("all=2", "DELETE"),
         ("key=a&organization=", "GET"), ("tag=&key=a", "GET")],
    )  # fmt: skip
    async def test_a_question_that_makes_no_sense_is_400(self, query: str, method: str) -> None:
        assert (await asked(World().desk, query, method)).code == "MALFORMED_REQUEST"

    async def test_a_page_cannot_invalidate_or_check(self) -> None:
        world, page = World(), [(b"origin", b"http://localhost")]
        assert (await asked(world.desk, "all=1", "DELETE", headers=page)).status == 403
        assert (await asked(world.check_desk, "run=1", headers=page)).status == 403

    async def test_the_last_check_is_shown_and_a_new_one_made_on_demand(self) -> None:
        world = World()
        assert (await call(world.check_desk, CHECK_PATH)).json == {"check": None}
        await world.read("user:1")
        made = (await call(world.check_desk, CHECK_PATH, query=b"run=1&sample=5")).json["check"]
        assert (made["is_clean"], made["checked"], made["compared_source"]) == (True, 1, 1)
        assert (await call(world.check_desk, CHECK_PATH)).json["check"] == made
        for query in (b"sample=0", b"sample=x", b"sample=", b"depth=1", b"run=maybe"):
            assert (await call(world.check_desk, CHECK_PATH, query=query)).code == "MALFORMED_REQUEST"


Worker = Callable[[ASGIApp], tuple[str, list[str]]]


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Serve a desk on a port of its own, as a running service would, and remember what was asked."""
    running: list[HTTPServer] = []

    def start(desk: ASGIApp) -> tuple[str, list[str]]:
        seen: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(f"{self.command} {self.path} {self.headers.get('authorization')}")
                parts = urlsplit(self.path)
                reply = asyncio.run(call(desk, parts.path, self.command, query=parts.query.encode()))
                self.send_response(reply.status)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_DELETE = do_GET

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", seen

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def cache_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


class TestTheCommand:
    def test_inspect_asks_for_the_name_as_key_and_as_tag(
        self, worker: Worker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        world = World()
        url, seen = worker(world.desk)
        assert cache_command("inspect", "user:1", "--organization", "7", "--url", url) == 0
        assert parse_qs(urlsplit(seen[0].split()[1]).query) == {
            "key": ["user:1"],
            "tag": ["user:1"],
            "organization": ["7"],
        }
        assert capsys.readouterr().out.splitlines() == [
            "key user:1 of 7: never invalidated",
            "  here: nothing",
            "  tags: key user:1 of 7, prefix user of 7, organization 7",
            "tag user:1: never invalidated",
        ]

    def test_inspect_of_an_answers_path_says_where_it_does_not_look(
        self, worker: Worker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url, _ = worker(World().desk)
        assert cache_command("inspect", "http:/v1/finance/summary", "--organization", "1", "--url", url) == 0
        assert "kept by caller and query and not listed" in capsys.readouterr().out

    def test_a_key_that_is_longer_than_a_tag_is_looked_up_as_a_key_alone(
        self, worker: Worker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url, seen = worker(World().desk)
        for name in ("k" * 300, "*"):
            assert cache_command("inspect", name, "--url", url) == 0
        assert ["tag" in parse_qs(urlsplit(line.split()[1]).query) for line in seen] == [False, False]
        assert "tag " not in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("hard", "soft", "said"),
        [
            (0, 0, "never invalidated"),
            (1, 0, "invalidated once"),
            (3, 1, "invalidated 3 times, once softly since"),
            (0, 2, "never invalidated, 2 times softly since"),
            (0x80_0004, 0x87, "invalidated here; Redis has not confirmed it yet"),
            (2, 0x81, "invalidated here; Redis has not confirmed it yet"),
        ],
    )
    def test_counts_are_said_as_people_say_them(self, hard: int, soft: int, said: str) -> None:
        entry = {"key": "a", "organization": None, "tags": ["key a"], "versions": {"hard": hard, "soft": soft},
                 "first": None, "second": {"state": "none", "is_loading": True}}  # fmt: skip
        tag = {"tag": "a", "hard": hard, "soft": soft, "is_exact": False}
        assert command.as_text({"key": entry, "tag": tag}) == [
            f"key a: {said}",
            "  here: nothing",
            "  in Redis: nothing, somebody loads it",
            "  tags: key a",
            f"tag a: {said} (as far as this process knows)",
        ]

    def test_invalidate_sends_what_was_named_with_the_admin_token(
        self, worker: Worker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ADMIN_TOKEN", "a-token-of-some-length-0123456789")
        world = World()
        url, seen = worker(world.desk)
        assert cache_command("invalidate", "--tag", "a", "--tag", "b", "--soft", "--url", url) == 0
        assert seen == [f"DELETE {CACHE_PATH}?tag=a&tag=b&soft=1 Bearer a-token-of-some-length-0123456789"]
        assert capsys.readouterr().out == "stale (softly): a, b\nthe CDN is told\n"

    def test_json_is_what_the_worker_said(self, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
        url, _ = worker(World().desk)
        assert cache_command("invalidate", "--all", "--json", "--url", url) == 0
        assert json.loads(capsys.readouterr().out)["invalidated"] == "everything"

    def test_check_ends_with_3_when_it_found_something(
        self, worker: Worker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        world = World()
        asyncio.run(world.read("user:1"))
        url, seen = worker(world.check_desk)
        assert cache_command("check", "--last", "--url", url) == 0
        assert cache_command("check", "--sample", "5", "--url", url) == 0

        async def other(key: str, organization: str | None) -> Any:
            return {"name": "Bob"}

        world.check_desk._checker.knows("user", other)
        assert cache_command("check", "--url", url) == command.EXIT_DRIFT == 3
        assert "  stale: user:1" in capsys.readouterr().out.splitlines()
        assert [line.split()[1] for line in seen] == [CHECK_PATH, f"{CHECK_PATH}?run=1&sample=5", f"{CHECK_PATH}?run=1"]

    @pytest.mark.parametrize(
        "words",
        [
            ("invalidate",),
            ("invalidate", "--soft"),
            ("invalidate", "--all", "--tag", "a"),
            ("invalidate", "--all", "--soft"),
            ("invalidate", "--tag", "*"),
            ("invalidate", "--tag", ""),
            ("invalidate", "--prefix", "a:b:c:d"),
            ("invalidate", "--organization", "1", "--tag", "a"),
            ("inspect", ""),
            ("inspect", "a\nb"),
            ("check", "--sample", "0"),
            ("check", "--sample", "5", "--last"),
        ],
    )
    def test_what_makes_no_sense_is_found_before_anybody_is_asked(self, words: tuple[str, ...]) -> None:
        with pytest.raises(ConfigurationError):
            cache_command(*words)
        assert main(["cache", *words]) == 2

    def test_a_refusal_and_silence_are_1_and_say_why(self, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
        url, _ = worker(World().check_desk)  # which knows nothing of keys
        assert cache_command("inspect", "a", "--url", url) == 1
        assert "unknown parameters" in capsys.readouterr().err
        assert cache_command("inspect", "a", "--url", "http://127.0.0.1:9") == 1
        assert "is it running?" in capsys.readouterr().err

    def test_the_command_loads_no_framework(self) -> None:
        import subprocess

        heavy = "('fastapi', 'starlette', 'redis', 'asyncpg')"
        program = f"import sys, b1.cli.cache; print([name for name in {heavy} if name in sys.modules])"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
        )
        assert done.stdout == "[]\n"
