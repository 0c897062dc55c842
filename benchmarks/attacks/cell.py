"""One cell of the table: a contender in a box, attacked, with innocent traffic beside it, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring.peers_venv import peers_python
from measuring.tokens import OUR_ENVIRONMENT, callers

from attacks.boxed import Boxed, Sample, boxed
from attacks.catalog import ATTACKS, PROFILES, Target
from attacks.client import Client, Lost
from attacks.innocents import Seen, be_innocent
from attacks.receiver import SECRET, Receiver, receiving
from attacks.story import Story

CONTENDERS = ("b1", "peers")
CALM_S = 2.0
LEAST_SETTLE_S = 4.0
SETTLE_LIMIT_S = 24.0
STEADY_S = 1.0
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """Which cell."""

    attack: str
    profile: str
    contender: str

    @property
    def names(self) -> tuple[str, str, str]:
        """All three, in the order of the command line."""
        return self.attack, self.profile, self.contender

    def box(self) -> list[str]:
        """Return the options of ``b1 box``."""
        return list(PROFILES[self.profile].box)


@dataclass(slots=True)
class Cell:
    """What came of it.

    Attributes:
        refused_in_vain: refusals that the contract does not allow: not at the critical level.
        answers: what the attacker was answered.
        broken: promises of the webhook that were not kept; None for who promises nothing.
    """

    asked: Asked
    begun_s: float
    ended_s: float
    oom_kills: int
    peak_bytes: int
    peak_working_set_bytes: int
    end_bytes: int
    seen: Seen
    answers: Counter[str]
    samples: list[Sample]
    limit_bytes: int
    attack_s: tuple[float, float] = (0.0, 0.0)
    refused_in_vain: int = 0
    story: Story = field(default_factory=Story)
    receiver: Receiver | None = None
    broken: list[str] | None = None
    log: str = ""

    @property
    def workers(self) -> int:
        """How many distinct workers answered an innocent request."""
        return len(self.seen.workers)

    @property
    def is_kept(self) -> bool:
        """Whether everything that b1 promises came true."""
        is_calm = self.story.level in ("normal", "elevated") or bool(self.story.replaced_s)
        return not (self.oom_kills or self.seen.bad() or self.refused_in_vain or self.broken) and is_calm

    def as_json(self) -> dict[str, Any]:
        """Return what a test asserts."""
        return {
            "asked": list(self.asked.names),
            "isKept": self.is_kept,
            "oomKills": self.oom_kills,
            "innocent": len(self.seen.notes),
            "bad": [f"{note.path} {note.outcome}: {note.detail}" for note in self.seen.bad()],
            "refused": self.seen.count("refused"),
            "refusedInVain": self.refused_in_vain,
            "workers": self.workers,
            "levels": [step.level for step in self.story.steps],
            "replaced": len(self.story.replaced_s),
            "broken": self.broken,
            "answers": dict(self.answers),
            "peakBytes": self.peak_bytes,
            "endBytes": self.end_bytes,
        }


def run_cell(asked: Asked, stores: dict[str, str] | None = None) -> Cell:
    """Run one cell, about half a minute."""
    if asked.contender == "b1":
        return asyncio.run(_against_b1(asked, stores or {}))
    return asyncio.run(_against_peers(asked))


async def _against_b1(asked: Asked, stores: dict[str, str]) -> Cell:
    async with receiving() as receiver:
        environment = {
            **OUR_ENVIRONMENT,
            **stores,
            "LOG_LEVEL": "info",
            "LOG_FORMAT": "json",
            "ALERT_WEBHOOK_URL": receiver.url,
            "ALERT_WEBHOOK_SECRET": SECRET,
            "B1_ALERT_ALLOW_PRIVATE": "1",
        }
        with boxed(_python("-m", "b1", "run", "attacks.ours:app"), asked.box(), environment) as server:

            def is_over() -> bool:
                return Story.of(server.log).level in ("normal", "elevated") and not receiver.open()

            run = await _attack(asked, server, is_over, has_stores=bool(stores))
            log = server.log  # without the lines of the stop
            broken = receiver.broken_promises(Story.of(log).reached(), is_over=is_over())
    cell = _cell(asked, server, *run)
    cell.story, cell.receiver, cell.broken, cell.log = Story.of(log), receiver, broken, log
    cell.refused_in_vain = sum(
        note.outcome == "refused" and not cell.story.was_critical(note.at_s) for note in cell.seen.notes
    )
    return cell


async def _against_peers(asked: Asked) -> Cell:
    command = [peers_python(), "-m", "gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "1"]
    with boxed([*command, "-b", "127.0.0.1:{port}", "attacks.peers:app"], asked.box(), {}) as server:
        run = await _attack(asked, server, lambda: True)
        log = server.log
    cell = _cell(asked, server, *run)
    cell.refused_in_vain = cell.seen.count("refused")
    cell.log = log
    return cell


Run = tuple[Seen, Target, tuple[float, float], int]


async def _attack(asked: Asked, server: Boxed, is_over: Any, *, has_stores: bool = False) -> Run:
    """Attack, wait until it is over, and return what was seen."""
    seen, headers = Seen(), callers()[0]
    target = Target(server.port, PROFILES[asked.profile], callers()[1])
    await _until_ready(server)
    async with _beside(server.watch()), _beside(be_innocent(server.port, headers, seen, has_stores=has_stores)):
        await asyncio.sleep(CALM_S)
        begun_s = time.time()
        await ATTACKS[asked.attack].run(target)
        ended_s = time.time()
        await _settle(is_over)
        end_bytes = server.sample().working_set_bytes
    return seen, target, (begun_s, ended_s), end_bytes


async def _settle(is_over: Any) -> None:
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < SETTLE_LIMIT_S:
        await asyncio.sleep(STEADY_S)
        if time.monotonic() - begun_s >= LEAST_SETTLE_S and is_over():
            return


async def _until_ready(server: Boxed) -> None:
    client = Client(server.port, is_kept=False)
    for _ in range(200):
        with contextlib.suppress(Lost):
            if (await client.ask("GET", "/ready")).status == 200:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"not ready:\n{server.log}")


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        if task.done():
            task.result()  # it was to go on until cancelled: say why it did not
        task.cancel()
        await asyncio.wait({task})


def _cell(asked: Asked, server: Boxed, seen: Seen, target: Target, attack_s: tuple[float, float], end: int) -> Cell:
    memory = server.report["memory"]
    return Cell(
        asked=asked,
        begun_s=server.samples[0].at_s,
        ended_s=server.samples[-1].at_s,
        oom_kills=memory["oomKills"] or 0,
        peak_bytes=memory["peakBytes"] or 0,
        peak_working_set_bytes=memory["peakWorkingSetBytes"],
        end_bytes=end,
        seen=seen,
        answers=target.answers,
        samples=server.samples,
        limit_bytes=server.report["limits"]["memoryBytes"],
        attack_s=attack_s,
    )


def _python(*words: str) -> list[str | Path]:
    return [sys.executable, *words]
