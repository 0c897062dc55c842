"""The folder of memory reports: JSON files that only we may read, the newest five kept.

Written in a thread, and never to a network share: App Service's /home takes 62 to 155 ms for what local disk does in one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEPT = 5
_NETWORK_KINDS = frozenset({"cifs", "smb3", "smbfs", "nfs", "nfs4", "fuse.sshfs", "fuse.blobfuse2"})


class Reports:
    """Writes and keeps reports.

    Args:
        folder: made when the first report is written, for us alone.
        root: a fake file tree for tests; only the list of mounts is read there.
    """

    def __init__(self, folder: Path, *, root: Path = Path("/")) -> None:
        self._folder = folder
        self._root = root

    def __repr__(self) -> str:
        return f"<Reports {self._folder.name}>"

    def path_at(self, wall_s: float) -> Path:
        """Return the path of a report that is written for that moment."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(wall_s)) + f"{int(wall_s % 1 * 1000):03d}"
        return self._folder / f"memory-{stamp}-{os.getpid()}.json"

    def check(self) -> None:
        """See whether reports can be written; the folder need not exist yet.

        Raises:
            OSError: the folder is on a network share, belongs to somebody else, or may not be written to.
        """
        kind = mounted_as(self._folder, root=self._root)
        if kind in _NETWORK_KINDS:
            raise OSError(f"{self._folder} lies on a {kind} share; set B1_STATE_DIR to a local folder")
        nearest = next(folder for folder in (self._folder, *self._folder.parents) if folder.exists())
        if nearest == self._folder and nearest.stat().st_uid != os.geteuid():
            raise PermissionError(f"{self._folder} belongs to another user")
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise NotADirectoryError(f"{self._folder} cannot be written to")

    def write(self, report: Mapping[str, Any], path: Path) -> Path:
        """Write one report and drop the oldest past five; return its path.

        Raises:
            OSError: the folder is on a network share, belongs to somebody else, or cannot be written.
        """
        self.check()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(report, file, indent=1, default=str)
        part.replace(path)
        self._prune(path)
        return path

    def _prune(self, newest: Path) -> None:
        # By name, which is by time; the newest stays even when the clock was set back since the others.
        others = sorted(found for found in self._folder.glob("memory-*.json") if found != newest)
        for old in others[: -(KEPT - 1)]:
            old.unlink(missing_ok=True)


def mounted_as(folder: Path, *, root: Path = Path("/")) -> str:
    """Return the kind of file system below `folder`, such as ``ext4`` or ``cifs``; "" where that cannot be known."""
    try:
        lines = (root / "proc/self/mountinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    place, best, kind = folder.absolute(), -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, described = before.split(), after.split()
        if len(fields) >= 5 and described and place.is_relative_to(fields[4]) and len(fields[4]) >= best:
            best, kind = len(fields[4]), described[0]
    return kind
