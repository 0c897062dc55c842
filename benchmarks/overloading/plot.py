"""Goodput against offered load as an SVG, a line per contender.

Written by hand and without a style sheet from outside, so that a page may show it as an image. Colours come in two sets,
chosen by what the reader's system prefers; each line has its name at its end and a dash of its own, for readers who see
no colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 920, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 250, 52, 52
LINE_PX = 16

# Of each line in order: its colour by day and by night, and its dash.
_LOOKS = (
    ("#1a7f37", "#57d17c", ""),
    ("#d1242f", "#ff7b72", "7 4"),
    ("#9a6700", "#e3b341", "2 4"),
    ("#6f42c1", "#c297ff", "12 4 2 4"),
    ("#1f6feb", "#6cb6ff", "4 3"),
)
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 } .title { font-size: 14px; font-weight: 600 }
.axis { stroke: #999 } .grid { stroke: #ddd } .ideal { fill: none; stroke: #888; stroke-dasharray: 1 4 }
.line { fill: none; stroke-width: 2.5 }
"""
_DARK = "text { fill: #ddd } .axis { stroke: #888 } .grid { stroke: #3a3a3a } .ideal { stroke: #777 }"

# Pairs of the multiple of the capacity and good answers per second.
Points = Sequence[tuple[float, float]]


def write_plot(lines: Mapping[str, Points], capacity_per_s: float, path: Path, title: str) -> None:
    """Write the plot; `lines` by name, the first one is drawn on top."""
    most_x = max(x for points in lines.values() for x, _ in points)
    most_y = 1.1 * max(capacity_per_s, *(y for points in lines.values() for _, y in points))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}{_colours(0)}\n@media (prefers-color-scheme: dark) {{ {_DARK}{_colours(1)} }}</style>",
        f'<text x="{LEFT}" y="20" class="title">{escape(title)}</text>',
        *_grid(most_x, most_y),
        *_ideal(most_x, most_y, capacity_per_s),
        *_lines(lines, most_x, most_y),
        "</svg>",
    ]
    path.write_text("\n".join(parts) + "\n")


def _colours(which: int) -> str:
    return " ".join(f".l{number} {{ stroke: {look[which]} }}" for number, look in enumerate(_LOOKS))


def _x(multiple: float, most_x: float) -> float:
    return LEFT + multiple / most_x * (WIDTH - LEFT - RIGHT)


def _y(per_s: float, most_y: float) -> float:
    return TOP + (1 - per_s / most_y) * (HEIGHT - TOP - BOTTOM)


def _grid(most_x: float, most_y: float) -> Iterator[str]:
    floor = _y(0, most_y)
    yield f'<text x="{LEFT}" y="{TOP - 10}">good answers per second (status 200 within a second)</text>'
    for per_s in range(0, int(most_y) + 1, 20):
        y = _y(per_s, most_y)
        yield f'<line class="{"grid" if per_s else "axis"}" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{per_s}</text>'
    for multiple in range(int(most_x) + 1):
        x = _x(multiple, most_x)
        yield f'<line class="axis" x1="{x:.1f}" y1="{floor:.1f}" x2="{x:.1f}" y2="{floor + 4:.1f}"/>'
        yield f'<text x="{x:.1f}" y="{floor + 18:.1f}" text-anchor="middle">{multiple}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{floor + 38:.1f}" text-anchor="middle">offered load, in multiples of the capacity</text>'


def _ideal(most_x: float, most_y: float, capacity_per_s: float) -> Iterator[str]:
    """What a server would do that loses nothing: all that comes, up to its capacity."""
    corners = ((0.0, 0.0), (1.0, capacity_per_s), (most_x, capacity_per_s))
    points = " ".join(f"{_x(x, most_x):.1f},{_y(y, most_y):.1f}" for x, y in corners)
    yield f'<polyline class="ideal" points="{points}"/>'
    yield f'<text x="{WIDTH - RIGHT + 8}" y="{_y(capacity_per_s, most_y) + 4 - LINE_PX:.1f}">capacity, closed loop</text>'


def _lines(lines: Mapping[str, Points], most_x: float, most_y: float) -> Iterator[str]:
    ends: dict[str, float] = {}
    for number, (name, points) in reversed(list(enumerate(lines.items()))):
        dash = _LOOKS[number][2]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        places = " ".join(f"{_x(x, most_x):.1f},{_y(y, most_y):.1f}" for x, y in points)
        yield f'<polyline class="line l{number}"{dashes} points="{places}"/>'
        for x, y in points:
            yield (
                f'<circle class="line l{number}" cx="{_x(x, most_x):.1f}" cy="{_y(y, most_y):.1f}" r="3">'
                f"<title>{escape(name)}: {y:.0f}/s at {x:g} x</title></circle>"
            )
        ends[name] = _y(points[-1][1], most_y)
    yield from _names(lines, ends)


def _names(lines: Mapping[str, Points], ends: Mapping[str, float]) -> Iterator[str]:
    """Put the names at the lines' heights, pushed apart where they would cover each other."""
    ordered = sorted(ends, key=lambda name: ends[name])
    heights = [ends[name] for name in ordered]
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + LINE_PX)
    lift = max(0.0, heights[-1] - (HEIGHT - BOTTOM))
    for name, y in zip(ordered, heights, strict=True):
        number = list(lines).index(name)
        x, at_y = WIDTH - RIGHT + 8, y - lift
        dash = _LOOKS[number][2]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        yield f'<line class="line l{number}"{dashes} x1="{x}" y1="{at_y:.1f}" x2="{x + 24}" y2="{at_y:.1f}"/>'
        yield f'<text x="{x + 30}" y="{at_y + 4:.1f}">{escape(name)}</text>'
