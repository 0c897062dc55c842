"""The plot of one run, as an SVG: memory against the limit with the bands of the levels, and the requests under it.

Written by hand and without a style sheet from outside, so that a page may show it as an image. Colours come in two sets,
chosen by what the reader's system prefers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from attacks.cell import MIB, Cell

WIDTH, LEFT, RIGHT = 900, 56, 112
MEMORY_TOP, MEMORY_HEIGHT = 44, 250
REQUESTS_TOP, REQUESTS_HEIGHT = 344, 80
HEIGHT = 452
MARKS = {"elevated": 70, "high": 80, "severe": 85, "critical": 90, "emergency": 95}
MOST_PER_S = 40

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 } .title { font-size: 14px; font-weight: 600 }
.axis { stroke: #999; stroke-width: 1 } .grid { stroke: #ddd; stroke-width: 1 } .limit { stroke: #b00020; stroke-width: 2 }
.memory { fill: none; stroke: #1f6feb; stroke-width: 2 } .area { fill: #1f6feb; opacity: .12 }
.elevated { fill: #f2c744; opacity: .18 } .high { fill: #f29d44; opacity: .24 } .severe { fill: #ee7744; opacity: .30 }
.critical { fill: #e0483e; opacity: .34 } .emergency { fill: #a81e2d; opacity: .40 }
.attack { stroke: #6f42c1; stroke-width: 4; opacity: .6 }
.step { fill: #6f42c1 } .replaced { stroke: #1a7f37; stroke-width: 2; stroke-dasharray: 5 4 }
.replaced-text { fill: #1a7f37 }
.ok { fill: #4c9a6a } .refused { fill: #f29d44 } .bad { fill: #d1242f } .kill { stroke: #d1242f; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .axis { stroke: #888 } .grid { stroke: #3a3a3a } .memory { stroke: #6cb6ff } .area { fill: #6cb6ff }
  .limit { stroke: #ff7b72 } .attack { stroke: #6f42c1; stroke-width: 4; opacity: .6 }
.step { fill: #c297ff } .replaced { stroke: #57d17c } .replaced-text { fill: #57d17c }
  .kill { stroke: #ff7b72 } .bad { fill: #ff7b72 }
}
"""


@dataclass(frozen=True, slots=True)
class _Scale:
    """From seconds and bytes to points."""

    begun_s: float
    length_s: float
    limit_bytes: int

    def x(self, at_s: float) -> float:
        return LEFT + (at_s - self.begun_s) / self.length_s * (WIDTH - LEFT - RIGHT)

    def y(self, held_bytes: float) -> float:
        return MEMORY_TOP + MEMORY_HEIGHT * (1 - min(1.05, held_bytes / self.limit_bytes) / 1.05)


def write_plot(cell: Cell, path: Path, title: str) -> None:
    """Write the plot of a cell."""
    scale = _Scale(cell.begun_s, max(1.0, cell.ended_s - cell.begun_s), cell.limit_bytes)
    parts = [
        *_bands(scale),
        *_memory(cell, scale),
        *_steps(cell, scale),
        *_marks(cell, scale),
        *_requests(cell, scale),
        *_seconds(scale),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{_STYLE}</style>'
    )
    caption = f'<text x="{LEFT}" y="20" class="title">{escape(title)}</text>'
    path.write_text("\n".join([head, caption, *parts, "</svg>"]) + "\n")


def _bands(scale: _Scale) -> Iterator[str]:
    names = list(MARKS)
    ends = [*(MARKS[name] for name in names[1:]), 100]
    for name, end in zip(names, ends, strict=True):
        low, high = (scale.y(scale.limit_bytes * share / 100) for share in (MARKS[name], end))
        yield _rect(LEFT, high, WIDTH - LEFT - RIGHT, low - high, name)
        yield f'<text x="{WIDTH - RIGHT + 6}" y="{low - 2:.1f}">{MARKS[name]} % {name}</text>'
    top = scale.y(scale.limit_bytes)
    yield _line(LEFT, top, WIDTH - RIGHT, top, "limit")
    yield f'<text x="{WIDTH - RIGHT + 6}" y="{top - 4:.1f}">{scale.limit_bytes / MIB:.0f} MiB</text>'
    for share in (0, 25, 50, 75):
        y = scale.y(scale.limit_bytes * share / 100)
        yield _line(LEFT, y, WIDTH - RIGHT, y, "grid")
        yield _right(LEFT - 6, y + 4, f"{scale.limit_bytes * share / 100 / MIB:.0f}")
    yield _right(LEFT - 6, MEMORY_TOP - 6, "MiB")


def _memory(cell: Cell, scale: _Scale) -> Iterator[str]:
    points = [f"{scale.x(one.at_s):.1f},{scale.y(one.working_set_bytes):.1f}" for one in cell.samples]
    floor = f"{scale.y(0):.1f}"
    first, last = (f"{scale.x(at_s):.1f}" for at_s in (cell.samples[0].at_s, cell.samples[-1].at_s))
    yield f'<polygon class="area" points="{first},{floor} {" ".join(points)} {last},{floor}"/>'
    yield f'<polyline class="memory" points="{" ".join(points)}"/>'


def _steps(cell: Cell, scale: _Scale) -> Iterator[str]:
    for step in cell.story.steps:
        x, y = scale.x(step.at_s), scale.y(step.used_bytes)
        yield f'<circle class="step" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{step.level}</title></circle>'
        yield _right(x - 7, y + 4, step.level)


def _marks(cell: Cell, scale: _Scale) -> Iterator[str]:
    begun_s, ended_s = cell.attack_s
    y = scale.y(0) + 12
    yield _line(scale.x(begun_s), y, scale.x(ended_s), y, "attack")
    yield f'<text x="{scale.x(ended_s) + 6:.1f}" y="{y + 4:.1f}">attack</text>'
    for at_s in cell.story.replaced_s:
        x = scale.x(at_s)
        yield _line(x, MEMORY_TOP - 8, x, REQUESTS_TOP + REQUESTS_HEIGHT, "replaced")
        yield f'<text class="replaced-text" x="{x + 5:.1f}" y="{MEMORY_TOP - 2}">worker replaced</text>'
    for before, after in zip(cell.samples, cell.samples[1:], strict=False):
        if after.oom_kills > before.oom_kills:
            x = scale.x(after.at_s)
            yield _line(x, MEMORY_TOP - 8, x, REQUESTS_TOP + REQUESTS_HEIGHT, "kill")
            yield f'<text x="{x + 5:.1f}" y="{MEMORY_TOP - 2}">killed by the kernel</text>'


def _requests(cell: Cell, scale: _Scale) -> Iterator[str]:
    yield f'<text x="{LEFT}" y="{REQUESTS_TOP - 6}">innocent requests per second: answered, refused, lost or failed</text>'
    seconds = int(scale.length_s)
    counts = [[0, 0, 0] for _ in range(seconds + 1)]
    for note in cell.seen.notes:
        second = int(note.at_s - scale.begun_s)
        if 0 <= second <= seconds:
            counts[second][0 if note.outcome == "ok" else 1 if note.outcome == "refused" else 2] += 1
    floor = REQUESTS_TOP + REQUESTS_HEIGHT
    width = (WIDTH - LEFT - RIGHT) / scale.length_s - 1.5
    for second, by_outcome in enumerate(counts[:seconds]):
        y = float(floor)
        for count, name in zip(by_outcome, ("ok", "refused", "bad"), strict=True):
            height = min(count, MOST_PER_S) / MOST_PER_S * REQUESTS_HEIGHT
            y -= height
            if height:
                yield _rect(scale.x(scale.begun_s + second), y, width, height, name)
    for share in (0, 20, 40):
        yield _right(LEFT - 6, floor - share / MOST_PER_S * REQUESTS_HEIGHT + 4, str(share))
    yield _line(LEFT, floor, WIDTH - RIGHT, floor, "axis")


def _seconds(scale: _Scale) -> Iterator[str]:
    for second in range(0, int(scale.length_s) + 1, 5):
        x = scale.x(scale.begun_s + second)
        yield f'<text x="{x:.1f}" y="{REQUESTS_TOP + REQUESTS_HEIGHT + 18}" text-anchor="middle">{second}</text>'
    yield f'<text x="{WIDTH - RIGHT + 6}" y="{REQUESTS_TOP + REQUESTS_HEIGHT + 18}">seconds</text>'


def _rect(x: float, y: float, width: float, height: float, name: str) -> str:
    return f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _right(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="end">{escape(text)}</text>'
