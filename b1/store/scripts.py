"""The Lua scripts: one file per verb, and the parts that several of them share.

A line ``-- include NAME`` in a script stands for ``lua/shared/NAME.lua``; Redis has no way to load one script from another.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "lua"
_INCLUDE = "-- include "


def _whole(path: Path) -> str:
    lines = []
    for line in path.read_text().splitlines():
        if line.startswith(_INCLUDE):
            lines.append((_FOLDER / "shared" / f"{line.removeprefix(_INCLUDE).strip()}.lua").read_text())
        else:
            lines.append(line)
    return "\n".join(lines)


# Read once, while importing, like the code they are.
SCRIPTS: dict[str, str] = {path.stem: _whole(path) for path in sorted(_FOLDER.glob("*.lua"))}
"""Source by name."""
