"""Which line of a stack blocked the loop: the innermost one of the application, not of what it called.

Frames that only wait for an inner coroutine did not block; the search ends at the first of them. Without that, every slow
validation inside the framework would be blamed on the middleware around it.
"""

from __future__ import annotations

import dis
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import NamedTuple

_RESUME = dis.opmap["RESUME"]
_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE

# A stack deeper than this is a runaway recursion; its innermost frames tell enough.
DEPTH_LIMIT = 400


class Line(NamedTuple):
    """One frame of a stack. `awaits`: it only waits for the frame inside it."""

    file: str
    number: int
    function: str
    awaits: bool = False

    def __str__(self) -> str:
        return f"{short_path(self.file)}:{self.number} {self.function}"


class Kind(Enum):
    """Whose code a file is."""

    APPLICATION = "application"
    PROFILE = "profile"  # b1 itself
    PACKAGE = "package"
    LIBRARY = "standard library"


_STANDARD = tuple(f"{folder}/" for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")} if folder)
_PACKAGES = ("/site-packages/", "/dist-packages/")
_OURS = f"{Path(__file__).parents[1]}/"


def kind_of(file: str) -> Kind:
    """Say whose code this file is; generated code (``<string>``) belongs to the library that made it."""
    if file.startswith(_OURS):
        return Kind.PROFILE
    if file.startswith("<"):
        return Kind.LIBRARY
    if any(part in file for part in _PACKAGES):
        return Kind.PACKAGE
    return Kind.LIBRARY if file.startswith(_STANDARD) else Kind.APPLICATION


def short_path(file: str) -> str:
    """Return the file's path below the import path it was found on: ``app/routes.py``."""
    folders = [folder for folder in sys.path if folder and file.startswith(f"{folder.rstrip('/')}/")]
    return file[len(max(folders, key=len).rstrip("/")) + 1 :] if folders else file


def frames_of(innermost: FrameType | None) -> list[FrameType]:
    """Return the stack, innermost first."""
    frames: list[FrameType] = []
    while innermost is not None and len(frames) < DEPTH_LIMIT:
        frames.append(innermost)
        innermost = innermost.f_back
    return frames


def depth_of(frame: FrameType | None) -> int:
    """Return how many frames the stack has."""
    depth = 0
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


def lines_of(frames: Sequence[FrameType]) -> tuple[Line, ...]:
    """Describe frames, innermost first.

    A frame that stands at its very entrance has done nothing: the interpreter gave way there because something before the
    call had held it (`del big_list` gives way at the next call). It is left out, and its caller is what was running.
    """
    lines, is_coroutine = [], False
    for frame in frames[1:] if len(frames) > 1 and _is_at_its_entrance(frames[0]) else frames:
        code = frame.f_code
        lines.append(Line(code.co_filename, frame.f_lineno or 0, code.co_qualname, is_coroutine))
        is_coroutine = bool(code.co_flags & _COROUTINE)
    return tuple(lines)


def _is_at_its_entrance(frame: FrameType) -> bool:
    return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] == _RESUME


def blamed(lines: Sequence[Line]) -> Line | None:
    """Return the line that blocks, or None when there is no code to blame.

    Looked at is only what runs without a pause: the innermost coroutine and what it called. Of it, in this order: the
    application's innermost line, b1's innermost line, the outermost line of a package (the coroutine that called
    something that blocks). Else the application's innermost line anywhere, else the innermost line of all.
    """
    running = _without_waiting(lines)
    kinds = [kind_of(line.file) for line in running]
    for kind, ordered in (
        (Kind.APPLICATION, running),
        (Kind.PROFILE, running),
        (Kind.PACKAGE, running[::-1]),
    ):
        if kind in kinds:
            return next(line for line in ordered if kind_of(line.file) is kind)
    outside = next((line for line in lines if kind_of(line.file) is Kind.APPLICATION), None)
    return outside or next(iter(lines), None)


def _without_waiting(lines: Sequence[Line]) -> Sequence[Line]:
    for index, line in enumerate(lines):
        if line.awaits:
            return lines[:index]
    return lines


def told(lines: Iterable[Line], limit: int) -> tuple[str, ...]:
    """Return the stack in words, innermost first, at most `limit` lines."""
    words = [str(line) for line in lines]
    if len(words) <= limit:
        return tuple(words)
    return (*words[: limit - 1], f"… {len(words) - limit + 1} more")
