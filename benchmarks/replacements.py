"""What does replacing the worker lose? Twenty replacements of each kind under load, with every lost request counted.

The load runs in a process of its own, below what the server can do: kept connections, fresh ones, pipelines of eight,
uploads of a megabyte, streams of two seconds, and connections that rest and then ask around the signal. Nobody sends a
request twice. The server has one core for all its processes, as on a B1; load, Postgres and Redis have the other.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from measuring.peers_venv import peers_python
from measuring.processes import HERE, Cores, clean_environment, running_redis
from measuring.table import machine, print_table
from replacing.census import Seen, census
from replacing.servers import Contender, Server, granian, gunicorn, ours, recycling, running
from replacing.tally import Tally
from replacing.ways import KILL, LEAK, NONE, OF_ITSELF, SIGHUP, Way, replace

from b1.embedded import process
from b1.embedded.postgres import EmbeddedPostgres
from b1.settings import known_names

MIB = 1024 * 1024
MIX = {"greedy": 2, "kept": 24, "fresh": 8, "pipelining": 2, "upload": 2, "stream": 2, "resting": 8}
OURS_TOO = {"query": 2, "endless": 1}
LONG = ("upload", "stream", "endless")
QUICK = ("greedy", "kept", "fresh", "resting", "query")  # what else there is takes its own time
WARM_S = 2.0
RUN_LIMIT_S = 180.0
MODE = "B1_REPLACEMENT"


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the table.

    Attributes:
        count: how many replacements are made at least.
        mode: what `B1_REPLACEMENT` is set to; None for unset.
        is_quick: without the clients whose requests last a second or two.
    """

    name: str
    contender: Contender
    way: Way
    count: int | None = None
    mode: str | None = None
    is_quick: bool = False


@dataclass(slots=True)
class Result:
    """What came of one line."""

    kind: Kind
    load: dict[str, Any]
    seen: Seen
    took_s: list[float]
    failed: int = 0
    left: list[int] = field(default_factory=list)
    log: str = ""

    @property
    def tallies(self) -> dict[str, Tally]:
        return {name: Tally.from_json(members) for name, members in self.load["tallies"].items()}


def kinds() -> list[Kind]:
    """Return everything that is measured, in the order of the table."""
    uvicorn, native = "uvicorn_worker.UvicornWorker", "asgi"
    recycled = {"GUNICORN_CMD_ARGS": " ".join(recycling())}
    handover, serial, auto = ({MODE: mode} for mode in ("handover", "serial", "auto"))
    small = {"B1_MEMORY_LIMIT": "280MiB", **auto}
    return [
        Kind("none", ours("b1, undisturbed"), NONE, 0),
        Kind("handover", ours("b1, SIGHUP, handover", **handover), SIGHUP, mode="handover"),
        Kind("serial", ours("b1, SIGHUP, serial", **serial), SIGHUP, mode="serial"),
        Kind(
            "serial-quick",
            ours("b1, SIGHUP, serial, only quick requests", **serial),
            SIGHUP,
            mode="serial",
            is_quick=True,
        ),
        Kind("max-requests", ours("b1, max_requests", **handover, **recycled), OF_ITSELF, mode="handover"),
        Kind("memory", ours("b1, memory", **small), LEAK, 3, mode="auto"),
        Kind("kill", ours("b1, kill -9"), KILL),
        Kind("uvicorn-sighup", gunicorn("gunicorn + uvicorn worker, SIGHUP", uvicorn), SIGHUP),
        Kind("uvicorn-max", gunicorn("gunicorn + uvicorn worker, max_requests", uvicorn, *recycling()), OF_ITSELF),
        Kind("asgi-sighup", gunicorn("gunicorn's asgi worker, SIGHUP", native), SIGHUP),
        Kind("asgi-max", gunicorn("gunicorn's asgi worker, max_requests", native, *recycling()), OF_ITSELF),
        Kind("granian-sighup", granian("granian, SIGHUP"), SIGHUP),
    ]


class RunningLoad:
    """The load's process."""

    def __init__(self, port: int, mix: Mapping[str, int]) -> None:
        self.answered = 0
        self.workers = 0
        self._last: dict[str, Any] = {}
        command = [sys.executable, "-m", "replacing.load", str(port), json.dumps(mix)]
        self._child = subprocess.Popen(
            command, cwd=HERE, env=clean_environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        os.sched_setaffinity(self._child.pid, Cores.of_this_process().load)
        self._reader = threading.Thread(target=self._read, name="load")
        self._reader.start()

    def mark(self, at_s: float) -> None:
        """Announce a signal."""
        self._tell(f"mark {at_s}")

    def end(self) -> dict[str, Any]:
        """Stop it and return what it saw."""
        self._tell("end")
        self._reader.join(60)
        self.kill()
        if "tallies" not in self._last:
            raise RuntimeError("the load ended without a result")
        return self._last

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        self._reader.join()

    def _tell(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._last = json.loads(line)
            self.answered = self._last["answered"]
            found = self._last["workers"]
            self.workers = found if isinstance(found, int) else len(found)


def measure(kind: Kind, stores: Mapping[str, str], count: int, requests: int) -> Result:
    """Run one line."""
    wanted = count if kind.count is None else kind.count
    mine = kind.contender.is_ours
    mix = {name: n for name, n in (MIX | OURS_TOO if mine else MIX).items() if not (kind.is_quick and name in LONG)}
    with running(kind.contender, stores) as server:
        where = (stores.get("DATABASE_URL"), stores.get("REDIS_URL")) if mine else (None, None)
        with census(*where, server.pss_bytes) as seen:
            load = RunningLoad(server.port, mix)
            try:
                took_s, failed = _replacements(kind.way, server, load, wanted, requests)
                result = Result(kind, load.end(), seen, took_s, failed)
            finally:
                load.kill()
        result.left = server.children() if mine else []
        result.log = server.log
    return result


def _replacements(way: Way, server: Server, load: RunningLoad, wanted: int, requests: int) -> tuple[list[float], int]:
    """Replace `wanted` times over at least `requests` answers; return how long each took and how many did not happen."""
    end_s = time.monotonic() + RUN_LIMIT_S
    took_s: list[float] = []
    failed = 0
    time.sleep(WARM_S)
    if way.ask is not None:
        for number in range(wanted):
            _until(lambda number=number: load.answered >= requests * number // (wanted + 1), end_s)
            took = replace(server, way, load)
            if took is None:
                failed += 1
            else:
                took_s.append(took)
            if failed > 2 or time.monotonic() > end_s:
                break
    elif way is OF_ITSELF:
        _until(lambda: load.workers > wanted, end_s)
    _until(lambda: load.answered >= requests, end_s)
    time.sleep(1.0)
    return took_s, failed


def _until(condition: Any, end_s: float) -> None:
    process.wait_until(condition, limit_s=max(0.0, end_s - time.monotonic()), every_s=0.05)


@contextmanager
def all_stores() -> Iterator[dict[str, str]]:
    """Run a migrated Postgres and a Redis beside the load."""
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder, running_redis(Cores.of_this_process()) as redis:
        postgres = EmbeddedPostgres(Path(folder), say=lambda _: None)
        environment = {"DATABASE_URL": postgres.start(), "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0"}
        try:
            migrate = [sys.executable, "-m", "b1", "migrate", "--quiet"]
            subprocess.run(migrate, cwd=HERE, env=clean_environment(environment), check=True, stdout=subprocess.DEVNULL)
            yield environment
        finally:
            postgres.stop()


def print_results(results: list[Result]) -> None:
    """Print the table, and below it what it does not say.

    "Told" are the lost ones that stood behind an answer with ``Connection: close`` in a pipeline: the client knows that it
    may send them again.
    """
    print_table(
        (
            "replacement",
            "workers",
            "requests",
            "lost",
            "wrong status",
            "longest pause ms",
            "longest wait ms",
            "each took s",
            "peak PSS MiB",
            "most Postgres, Redis",
        ),
        [_row(result) for result in results],
    )
    for result in results:
        _print_detail(result)


def _row(result: Result) -> tuple[str, ...]:
    load, seen = result.load, result.seen
    tallies = list(result.tallies.values())
    waits = [tally.longest_wait_s for name, tally in result.tallies.items() if name in QUICK]
    took = f"{sorted(result.took_s)[len(result.took_s) // 2]:.1f}" if result.took_s else ""
    clients = f"{seen.postgres}, {seen.redis}" if seen.samples else ""
    return (
        result.kind.contender.name,
        str(len(load["workers"])),
        f"{load['answered']:,}",
        _lost(tallies),
        str(sum(sum(tally.wrong.values()) for tally in tallies)),
        f"{load['longest_pause_s'] * 1000:.0f}",
        f"{max(waits) * 1000:.0f}",
        took,
        f"{seen.pss_bytes / MIB:.0f} ({seen.idle_pss_bytes / MIB:.0f} before)",
        clients,
    )


def _lost(tallies: Sequence[Tally]) -> str:
    told = sum(tally.told for tally in tallies)
    return f"{sum(tally.missing for tally in tallies):,}" + f" ({told:,} told)" * bool(told)


def _print_detail(result: Result) -> None:
    """Print by kind of client what was not a plain answer."""
    load = result.load
    print(f"{result.kind.contender.name}: {load['took_s']:.0f} s, {result.seen.samples} samples of the census", end="")
    print(f", {result.failed} replacements did not happen" * bool(result.failed), end="")
    print(f", clients that did not end: {load['hanging']}" * bool(load["hanging"]))
    for name, tally in result.tallies.items():
        counts = {
            "answered": tally.answered,
            "lost": tally.lost,
            "of them behind a Connection: close": tally.told,
            "cut": tally.cut,
            "refused": tally.refused,
            "late": tally.late,
            "wrong": dict(tally.wrong),
            "ended while idle": tally.closed,
            "ended early": tally.ended_early,
        }
        said = ", ".join(f"{what} {value}" for what, value in counts.items() if value)
        print(f"- {name}: {said}; longest wait {tally.longest_wait_s * 1000:.0f} ms")
    print()


def print_examples(result: Result) -> None:
    """Print some failures with their moment, to standard error."""
    for tally in result.tallies.values():
        for line in tally.examples:
            print(f"  {line}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [kind.name for kind in kinds()]
    parser.add_argument("--only", action="append", choices=names, help="this kind alone; may be given more than once")
    parser.add_argument("--count", type=int, default=20, help="replacements of each kind")
    parser.add_argument("--requests", type=int, default=100_000, help="answers over each kind, at least")
    parser.add_argument("--no-peers", action="store_true", help="measure b1 alone")
    parser.add_argument("--verbose", action="store_true", help="print the first failures and the servers' logs")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("Not measured: this benchmark reads what only Linux tells.")
        return 0
    print(machine() + "\n")
    chosen = [kind for kind in kinds() if not arguments.only or kind.name in arguments.only]
    if any(not kind.contender.is_ours for kind in chosen) and (arguments.no_peers or not _have_peers()):
        chosen = [kind for kind in chosen if kind.contender.is_ours]
    results = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with all_stores() as stores:
        os.sched_setaffinity(0, Cores.of_this_process().load | {Cores.of_this_process().server})
        for kind in chosen:
            if kind.mode is not None and MODE not in known_names():
                kind.contender.environment.pop(MODE)  # type: ignore[attr-defined]
            print(f"{kind.name}: {kind.contender.name}", file=sys.stderr)
            results.append(measure(kind, stores, arguments.count, arguments.requests))
            print_examples(results[-1])
            if arguments.verbose:
                print(results[-1].log, file=sys.stderr)
    print_results(results)
    return 0


def _have_peers() -> bool:
    try:
        peers_python()
    except CalledProcessError:
        print("The peers could not be installed and are not in the table.\n")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
