"""The webhook's URL and secret where they live in files: read again, so that a rotation needs no restart.

They are read every 30 s and before news are sent, in a thread with a deadline. A file that is empty, unreadable or holds
nonsense changes nothing: whoever rotates a secret may truncate the file before it is written.
"""

from __future__ import annotations

import logging
from pathlib import Path

from b1.alerts.disk import Disk
from b1.alerts.options import AlertOptions
from b1.clock import Clock

log = logging.getLogger("b1.alerts")

LOOK_EVERY_S = 30.0
SIZE_LIMIT = 8192

Pair = tuple[str, str | None]


class Rotation:
    """What the files say, beside what is in use.

    Attributes:
        is_watched: there is a file to look at.
    """

    def __init__(self, options: AlertOptions, clock: Clock) -> None:
        self.is_watched = options.url is not None and not (options.url_file is None and options.secret_file is None)
        self._url_file = options.url_file
        self._secret_file = options.secret_file
        self._seen: Pair = (options.url or "", options.secret)
        self._clock = clock
        self._disk = Disk()
        self._due_s = clock.monotonic() + LOOK_EVERY_S
        self._complained_of: str | None = None

    def __repr__(self) -> str:
        return f"<Rotation {'watched' if self.is_watched else 'off'}>"

    def due_in_s(self) -> float | None:
        """Return when to look again, None for never."""
        return max(0.0, self._due_s - self._clock.monotonic()) if self.is_watched else None

    async def news(self) -> Pair | None:
        """Look at the files; return URL and secret when one of them changed since the last look."""
        self._due_s = self._clock.monotonic() + LOOK_EVERY_S
        try:
            found = await self._disk.run(self._read)
        except (OSError, ValueError) as error:
            self._complain(f"{type(error).__name__}: {getattr(error, 'strerror', None) or 'not readable'}")
            return None
        self._complained_of = None
        if found == self._seen:
            return None
        self._seen = found
        return found

    def _read(self) -> Pair:
        url, secret = self._seen
        if self._url_file is not None:
            url = _content(self._url_file) or url
        if self._secret_file is not None:
            secret = _content(self._secret_file) or secret
        return url, secret

    def _complain(self, cause: str) -> None:
        if cause != self._complained_of:
            self._complained_of = cause
            log.warning("the webhook's files cannot be read, going on with what they said", extra={"cause": cause})


def _content(path: Path) -> str:
    with path.open() as file:
        return file.read(SIZE_LIMIT).strip()
