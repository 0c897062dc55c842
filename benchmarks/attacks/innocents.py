"""Light traffic beside an attack: kept connections, a new one now and then, and the platform's probes.

Every request is noted with its moment and outcome. A refusal is told apart from a failure: 503 with Retry-After is what
the contract allows at the critical level, and whether it was allowed is judged later, against the levels in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field

from attacks.client import Answer, Client, Lost

KEPT = 4
KEPT_EVERY_S = 0.2  # four connections: 20 requests a second
NEW_EVERY_S = 1.0
PROBE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Note:
    """One request.

    Attributes:
        at_s: wall time at which its answer was whole, or it was lost.
        outcome: ``ok``, ``refused`` (503 with Retry-After), ``failed`` (any other status) or ``lost``.
    """

    at_s: float
    took_s: float
    path: str
    outcome: str
    detail: str = ""


@dataclass(slots=True)
class Seen:
    """What all innocent clients saw."""

    notes: list[Note] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)

    def count(self, outcome: str) -> int:
        """Count requests by outcome; probes included."""
        return sum(note.outcome == outcome for note in self.notes)

    def bad(self) -> list[Note]:
        """Return what failed or was lost."""
        return [note for note in self.notes if note.outcome in ("failed", "lost")]

    def details(self) -> Counter[str]:
        """Count the reasons of what was not answered well."""
        return Counter(f"{note.path} {note.outcome}: {note.detail}" for note in self.notes if note.outcome != "ok")

    def longest_s(self) -> float:
        """Return the longest time to an answer."""
        return max((note.took_s for note in self.notes if note.outcome == "ok"), default=0.0)

    def worker(self, pid: int) -> None:
        """Note who answered."""
        if pid not in self.workers:
            self.workers.append(pid)


async def be_innocent(port: int, headers: dict[str, str], seen: Seen, *, has_stores: bool = False) -> None:
    """Send until cancelled."""
    paths = ["/innocent/stored" if has_stores and number % 2 else "/innocent" for number in range(KEPT)]
    async with asyncio.TaskGroup() as group:
        for path in paths:
            group.create_task(_repeat(Client(port, headers=headers), path, KEPT_EVERY_S, seen))
        group.create_task(_repeat(Client(port, is_kept=False, headers=headers), "/innocent", NEW_EVERY_S, seen))
        for path in ("/live", "/ready"):
            group.create_task(_repeat(Client(port, is_kept=False), path, PROBE_EVERY_S, seen))


async def _repeat(client: Client, path: str, every_s: float, seen: Seen) -> None:
    with contextlib.closing(client):
        while True:
            begun_s = time.monotonic()
            outcome, detail = "lost", ""
            try:
                answer = await client.ask("GET", path)
                outcome, detail = _judge(answer)
                if path == "/innocent" and outcome == "ok":
                    seen.worker(json.loads(answer.body)["pid"])
            except Lost as lost:
                detail = str(lost)
            took_s = time.monotonic() - begun_s
            seen.notes.append(Note(time.time(), took_s, path, outcome, detail))
            await asyncio.sleep(max(0.02, every_s - took_s))


def _judge(answer: Answer) -> tuple[str, str]:
    if 200 <= answer.status < 300:
        return "ok", ""
    try:
        document = json.loads(answer.body)
        code = str(document.get("code") or document.get("reason") or "")
    except (ValueError, AttributeError):
        code = ""
    is_refusal = answer.status == 503 and ("retry-after" in answer.headers or code == "memory")
    return ("refused" if is_refusal else "failed"), f"{answer.status} {code}".strip()
