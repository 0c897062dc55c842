"""A scope from systemd: how a user without rights gets a group of their own to make boxes in.

`systemd-run` puts itself into a fresh, delegated scope and becomes `b1 box` there, which then is alone in its group and
goes on as on any machine with version 2. No environment variable says so: an unknown `B1_*` name would stop the command.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path


def scope_command(
    words: Sequence[str], *, environ: Mapping[str, str], is_root: bool, root: Path = Path("/")
) -> list[str] | None:
    """Return the command that runs `words` in a scope of its own; None where systemd does not answer us."""
    program = shutil.which("systemd-run", path=environ.get("PATH"))
    if program is None or not _answers(environ, is_root, root):
        return None
    manager = [] if is_root else ["--user"]
    return [program, *manager, "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--", *words]


def _answers(environ: Mapping[str, str], is_root: bool, root: Path) -> bool:
    if not (root / "run/systemd/system").is_dir():
        return False
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return is_root or (bool(runtime) and (root / runtime.lstrip("/") / "systemd").is_dir())
