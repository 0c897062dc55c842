"""What outlives the worker: firing alerts, cool-downs and undelivered messages, in one small file of the state folder.

One worker owns the file at a time, by a lock that the kernel drops with its process. The lock is on a file of its own,
because the journal itself is replaced with each write: a reader sees the old state or the new one, never half of it. It
is not synced to the disk: it has to survive a killed process, and a machine that lost power has a new memory anyway.
All methods block and belong into a thread.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("b1.alerts")

VERSION = 1
SIZE_LIMIT = 4 * 1024 * 1024
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Journal:
    """The file of one instance.

    Args:
        folder: made when it is missing, with mode 0700.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "alerts.json"
        self._lock_fd = -1

    def __repr__(self) -> str:
        return f"<Journal {self._path} {'owned' if self.is_owned else 'not owned'}>"

    @property
    def is_owned(self) -> bool:
        """Whether this process may write."""
        return self._lock_fd >= 0

    def try_own(self) -> bool:
        """Become the owner if nobody is.

        Raises:
            OSError: the folder cannot be used.
        """
        if self.is_owned:
            return True
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._folder / "alerts.lock", _FLAGS, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            os.close(fd)
            raise
        self._lock_fd = fd
        return True

    def read(self) -> Mapping[str, Any]:
        """Return what the last owner wrote; nothing when there is no file or it cannot be understood."""
        try:
            found = json.loads(self._content())
            if not isinstance(found, dict) or found.get("version") != VERSION:
                raise ValueError("it is of another version")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("alert journal is not readable, starting without", extra={"cause": str(error)})
            return {}
        return found

    def write(self, records: Mapping[str, Any]) -> None:
        """Replace what is there.

        Raises:
            OSError: it could not be written; what was there is still there.
        """
        fresh = self._path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, _FLAGS | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(json.dumps({"version": VERSION, **records}, separators=(",", ":")).encode())
        fresh.replace(self._path)

    def _content(self) -> bytes:
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            # Anybody may make a folder in /tmp before us; what lies in it would be signed and sent in our name.
            if found.st_uid != os.geteuid():
                raise ValueError("it belongs to another user")
            if found.st_size > SIZE_LIMIT:
                raise ValueError("it is too large")
            return file.read()

    def close(self) -> None:
        """Let the next worker have it."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)
