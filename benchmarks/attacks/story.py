"""What b1's own log says about a run: levels, reclaims, replacements; the moment of each. Down-steps are logged, too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime

LEVELS = ("normal", "elevated", "high", "severe", "critical", "emergency")
_MARGIN_S = 1.5  # a refusal is noted when its answer has come


@dataclass(frozen=True, slots=True)
class Step:
    """A worker has reached a level (wall time)."""

    at_s: float
    level: str
    used_bytes: int
    limit_bytes: int


@dataclass(slots=True)
class Story:
    """One server's run."""

    steps: list[Step] = field(default_factory=list)
    replaced_s: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    reclaims: list[str] = field(default_factory=list)
    is_tripped: bool = False
    errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, log: str) -> Story:
        """Read a log of JSON lines; other lines are passed over."""
        story = cls()
        for line in log.splitlines():
            try:
                members = json.loads(line)
                event, at_s = members["event"], datetime.fromisoformat(members["timestamp"]).timestamp()
            except (ValueError, KeyError, TypeError):
                continue
            story._take(event, at_s, members)
        return story

    @property
    def level(self) -> str:
        """The last level, of the last worker: a new one begins at normal and says nothing about it."""
        last = self.steps[-1] if self.steps else None
        if last is None or any(at_s > last.at_s for at_s in self.ready_s[1:]):
            return "normal"
        return last.level

    def reached(self) -> set[str]:
        """Return every level that was logged."""
        return {step.level for step in self.steps}

    def highest(self) -> str:
        """Return the highest level that was logged."""
        return max(self.reached() | {"normal"}, key=LEVELS.index)

    def was_critical(self, at_s: float) -> bool:
        """Say whether some worker was at critical or above around that moment."""
        marks = [*self.steps, *(Step(ready_s, "normal", 0, 0) for ready_s in self.ready_s)]
        level = "normal"
        for step in sorted(marks, key=lambda one: one.at_s):
            if step.at_s > at_s + _MARGIN_S:
                break
            if step.at_s > at_s - _MARGIN_S and LEVELS.index(step.level) >= LEVELS.index("critical"):
                return True
            if step.at_s > at_s - _MARGIN_S and LEVELS.index(level) >= LEVELS.index("critical"):
                return True
            level = step.level
        return LEVELS.index(level) >= LEVELS.index("critical")

    def _take(self, event: str, at_s: float, members: dict[str, object]) -> None:
        if event == "memory level changed":
            used, limit = int(str(members["usedBytes"])), int(str(members["limitBytes"]))
            # gunicorn's records have a level of their own, which an extra field of that name replaces
            self.steps.append(Step(at_s, str(members["level"]), used, limit))
        elif event == "worker is being replaced":
            self.replaced_s.append(at_s)
        elif event == "ready":
            self.ready_s.append(at_s)
        elif event == "memory reclaimed":
            numbers = {name: size for name, size in members.items() if name.endswith("Bytes")}
            self.reclaims.append(f"{str(members['timestamp'])[17:23]} {members.get('level')} {numbers}")
        elif event == "no further replacement":
            self.is_tripped = True
        elif members.get("level") in ("error", "critical") or "exception" in members:
            self.errors.append(f"{event} {str(members.get('exception', ''))[-300:]}".strip())
