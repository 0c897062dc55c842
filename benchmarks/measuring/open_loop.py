"""Open-loop load: arrival times are fixed beforehand, and latency counts from the intended time, not from the sending.

A closed loop sends less when the server slows down, and reports a latency that no visitor ever sees ("coordinated
omission"). Here a request that is due goes out on a kept connection that is free, or on a new one, however many still wait.
Run as a process of its own, so that its work is not the server's: ``python -m measuring.open_loop PORT RATE SECONDS
[PATH=WEIGHT ...]`` prints one line of JSON, and ``--spec`` reads any `Load` as JSON from standard input and prints every
request too. A probe, if named, is asked on a new connection each time, as a platform does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any

PROBE_LIMIT_S = 2.0
GOOD_S = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent.

    Attributes:
        rate: requests per second, at even distances.
        phases: pairs of a rate and seconds, one after the other; replaces `rate` and `seconds`.
        is_poisson: at random distances with the same mean, as independent visitors come.
        begin_s: when it begins, on the system's monotonic clock, so that several processes begin together; 0: at once.
        paths: with weights; which one is sent when is fixed by `seed`.
        is_fresh: a new connection for each request, as many different clients would open.
        timeout_s: a client gives up this long after the intended time and hangs up.
        probe_every_s: distance of the probes.
        retries: how often a refused client comes back at once (a retry storm).
        is_stubborn: a client that got nothing in time comes back too, and waits `timeout_s` again.
    """

    port: int
    rate: float
    seconds: float
    paths: Sequence[tuple[str, float]] = (("/", 1.0),)
    is_fresh: bool = False
    timeout_s: float = 1.0
    max_connections: int = 4000
    probes: Sequence[str] = ()
    probe_every_s: float = 0.2
    retries: int = 0
    headers: Sequence[str] = ()
    seed: int = 1
    phases: Sequence[tuple[float, float]] = ()
    is_poisson: bool = False
    begin_s: float = 0.0
    is_stubborn: bool = False

    def due(self) -> Iterator[float]:
        """Yield the intended times, in seconds from the beginning."""
        random = Random(self.seed + 1)
        phase_s = 0.0
        for rate, seconds in self.phases or ((self.rate, self.seconds),):
            at_s = 0.0
            while rate and (at_s := at_s + (random.expovariate(rate) if self.is_poisson else 1 / rate)) <= seconds:
                yield phase_s + at_s
            phase_s += seconds

    @property
    def length_s(self) -> float:
        """From the beginning to the last intended time."""
        return sum(seconds for _, seconds in self.phases) or self.seconds


@dataclass(slots=True)
class Outcome:
    """What came back. Latencies are in milliseconds, of answers with status 200, from the intended time.

    Attributes:
        notes: of each request when it was due and how long it took, from the beginning, in seconds; how it ended ("200",
            "timeout", …), and how often it was sent.
        probe_notes: of each probe its path, when it was sent, how long it took, and its status.
    """

    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    good: int = 0
    latencies: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    probes_failed: int = 0
    late_ms: float = 0.0
    connections: int = 0
    good_by_second: Counter[int] = field(default_factory=Counter)
    notes: list[tuple[float, float, str, int]] = field(default_factory=list)
    probe_notes: list[tuple[str, float, float, int]] = field(default_factory=list)

    def summary(self, load: Load) -> dict[str, Any]:
        """Return the figures: goodput is what came with 200 within a second, per second."""
        latencies, probes = sorted(self.latencies), sorted(self.probes)
        return {
            "offered": load.rate if not load.phases else round(self.sent / load.length_s, 1),
            "sent": self.sent,
            "goodput": round(self.good / load.length_s, 1),
            "statuses": dict(sorted(self.statuses.items())),
            "ms": {"p50": _at(latencies, 0.5), "p99": _at(latencies, 0.99), "max": _at(latencies, 1.0)},
            "probes": {
                "asked": len(probes) + self.probes_failed,
                "failed": self.probes_failed,
                "late": sum(one > 50.0 for one in probes),
                "max_ms": _at(probes, 1.0),
            },
            "generator_late_ms": round(self.late_ms, 1),
            "connections": self.connections,
            "good_by_second": [self.good_by_second[second] for second in range(int(load.length_s) + 1)],
        }


class Client(asyncio.Protocol):
    """One connection: sends a request, reads one answer of known length."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bool]] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    async def ask(self, request: bytes) -> tuple[int, bool]:
        """Send it; return the status, and whether the connection can be used again."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        lowered = head.lower()
        _, found, rest = lowered.partition(b"\r\ncontent-length:")
        if len(body) < (int(rest.partition(b"\r\n")[0]) if found else 0):
            return
        self._received = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), b"\r\nconnection: close" not in lowered))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the connection ended"))


class OpenLoop:
    """One run."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._idle: list[Client] = []
        self._begin_s = 0.0
        self._open = 0
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Send everything, wait for the last answer, and return what came back."""
        load = self._load
        names, weights = zip(*load.paths, strict=True)
        choose = Random(load.seed)
        requests = {name: self._request(name) for name in {*names, *load.probes}}
        self._begin_s = begin_s = load.begin_s or monotonic() + 0.05
        async with asyncio.TaskGroup() as group:
            for path in load.probes:
                group.create_task(self._probe(path, requests[path], begin_s))
            for after_s in load.due():
                due_s = begin_s + after_s
                if (wait_s := due_s - monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                self.outcome.late_ms = max(self.outcome.late_ms, (monotonic() - due_s) * 1000)
                self.outcome.sent += 1
                group.create_task(self._one(requests[choose.choices(names, weights)[0]], due_s))
        for client in self._idle:
            client.close()
        return self.outcome

    def _request(self, path: str) -> bytes:
        lines = [f"GET {path} HTTP/1.1", "host: 127.0.0.1", *self._load.headers]
        return "\r\n".join([*lines, "", ""]).encode()

    async def _one(self, request: bytes, due_s: float) -> None:
        load, outcome = self._load, self.outcome
        until_s = due_s + load.timeout_s
        sent, status = 0, ""
        while sent <= load.retries and status != "200":
            sent += 1
            status = await self._ask(request, until_s)
            outcome.statuses[status] += 1
            if status != "503" and not load.is_stubborn:
                break
            if load.is_stubborn:
                until_s = monotonic() + load.timeout_s
        took_s = monotonic() - due_s
        outcome.notes.append((due_s - self._begin_s, took_s, status, sent))
        if status == "200":
            outcome.latencies.append(took_s * 1000)
            if took_s <= GOOD_S:
                outcome.good += 1
                outcome.good_by_second[int(due_s - self._begin_s)] += 1

    async def _ask(self, request: bytes, until_s: float) -> str:
        client: Client | None = None
        loop = asyncio.get_running_loop()
        try:
            # The loop's own clock may stand still during a turn.
            async with asyncio.timeout_at(loop.time() + until_s - monotonic()):
                client = await self._connection()
                if client is None:
                    return "no connection"
                status, is_kept = await client.ask(request)
        except TimeoutError:
            self._close(client)
            return "timeout"
        except OSError as error:
            self._close(client)
            return type(error).__name__
        if is_kept and not self._load.is_fresh:
            self._idle.append(client)
        else:
            self._close(client)
        return str(status)

    async def _connection(self) -> Client | None:
        while self._idle:
            client = self._idle.pop()
            if client.is_open:
                return client
            self._open -= 1
        if self._open >= self._load.max_connections:
            return None
        self._open += 1
        self.outcome.connections += 1
        try:
            _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", self._load.port)
        except BaseException:
            self._open -= 1
            raise
        return client

    def _close(self, client: Client | None) -> None:
        if client is not None:
            client.close()
            self._open -= 1

    async def _probe(self, path: str, request: bytes, begin_s: float) -> None:
        """Ask at fixed times, on a new connection each, however long an earlier one takes."""
        load = self._load
        async with asyncio.TaskGroup() as group:
            for number in range(int(load.length_s / load.probe_every_s)):
                await asyncio.sleep(max(0.0, begin_s + number * load.probe_every_s - monotonic()))
                group.create_task(self._probe_once(path, request))

    async def _probe_once(self, path: str, request: bytes) -> None:
        client: Client | None = None
        began_s = monotonic()  # a late generator is not a late probe
        status = 0
        try:
            async with asyncio.timeout(PROBE_LIMIT_S):
                _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", self._load.port)
                status, _ = await client.ask(request)
        except OSError:
            pass  # counted as failed
        if client is not None:
            client.close()
        took_s = monotonic() - began_s
        self.outcome.probe_notes.append((path, began_s - self._begin_s, took_s, status))
        if status == 200:
            self.outcome.probes.append(took_s * 1000)
        else:
            self.outcome.probes_failed += 1


def _at(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None


def run(load: Load) -> Outcome:
    """Send a load and return what came back."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(OpenLoop(load).run())


def main() -> int:
    if sys.argv[1:] == ["--spec"]:
        load = Load(**json.load(sys.stdin))
        outcome = run(load)
        seen = {"notes": outcome.notes, "probe_notes": outcome.probe_notes}
        print(json.dumps(outcome.summary(load) | seen))
        return 0
    load = _asked()
    print(json.dumps(run(load).summary(load)))
    return 0


def _asked() -> Load:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("paths", nargs="*", default=["/"], help="PATH or PATH=WEIGHT")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--poisson", action="store_true")
    parser.add_argument("--timeout", type=float, default=1.0)
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--probe", action="append", default=[])
    arguments = parser.parse_args()
    pairs = [(path, float(weight or 1)) for path, _, weight in (one.partition("=") for one in arguments.paths)]
    return Load(
        port=arguments.port,
        rate=arguments.rate,
        seconds=arguments.seconds,
        paths=pairs,
        is_fresh=arguments.fresh,
        timeout_s=arguments.timeout,
        retries=arguments.retries,
        probes=arguments.probe,
        is_poisson=arguments.poisson,
    )


if __name__ == "__main__":
    sys.exit(main())
