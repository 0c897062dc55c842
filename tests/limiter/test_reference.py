"""The reference page's timeline, table and example, run."""

from __future__ import annotations

from pathlib import Path

from b1.clock import ManualClock
from b1.limiter import DEFAULT_POLICIES, Caller, Limiter, error_of
from b1.store.memory import MemoryStore

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "limiter.md").read_text()
NINE_S = 1_795_251_600.0  # 2026-11-21T09:00:00Z


def _seconds(text: str) -> float:
    hours, minutes, seconds = text.split(":")
    return (int(hours) - 9) * 3600 + int(minutes) * 60 + float(seconds)


async def test_the_timeline_happens_as_written() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| 09:0")]
    clock = ManualClock(monotonic=NINE_S, wall=NINE_S)
    limiter = Limiter(MemoryStore(2**20, clock), DEFAULT_POLICIES)
    told = []
    for time, requests, *_ in rows:
        clock.advance(NINE_S + _seconds(time) - clock.wall())
        for _ in range(int(requests)):
            decision = await limiter.check(("delete",), Caller("1.2.3.4", "7", "1"))
        assert decision.nearest is not None
        status = 200 if decision.allowed else 429
        told.append([str(number) for number in (status, decision.nearest.remaining, decision.nearest.reset_s)])
    assert told == [row[2:5] for row in rows]
    assert len(rows) == 7


async def test_the_penalty_happens_as_written() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| 10:0")]
    clock = ManualClock(monotonic=NINE_S, wall=NINE_S)
    limiter = Limiter(MemoryStore(2**20, clock), DEFAULT_POLICIES)
    sent = 0
    for begins, requests, allowed, answer in rows:
        assert round(_seconds(begins) - 3600, 3) == sent / 5
        passed = 0
        for _ in range(int(requests)):
            decision = await limiter.check(("public",), Caller("203.0.113.9"))
            passed += decision.allowed
            sent += 1
            clock.advance(NINE_S + sent / 5 - clock.wall())
        code = "200" if decision.allowed else f"`{error_of(decision).code}`, `Retry-After: {decision.retry_after_s}`"
        assert (passed, answer.startswith(code)) == (int(allowed), True), (begins, code)
    assert len(rows) == 5


def test_every_policy_is_in_the_table() -> None:
    assert [name for name in DEFAULT_POLICIES if f"`{name}`" not in PAGE] == []


def test_the_example_makes_a_table() -> None:
    example = PAGE.split("```python\n")[1].split("b1 = B1(")[0]
    names: dict[str, object] = {}
    exec(example, names)  # noqa: S102  # the page's own text
    assert {"downloads", "read", "health"} <= set(names["policies"])  # type: ignore[call-overload]
