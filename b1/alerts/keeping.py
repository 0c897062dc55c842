"""The journal from the loop's side: ownership that a successor waits for, and writes that never hold anybody up.

The disk gets one call at a time and a deadline. While it hangs (a host that swaps does that), alerts are sent all the
same: a message that is repeated after a crash is better than one that waits for a file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from b1.alerts.disk import Disk
from b1.alerts.journal import Journal

log = logging.getLogger("b1.alerts")


class Keeping:
    """Owns the journal of one folder, or none."""

    def __init__(self, folder: Path | None) -> None:
        self.errors = 0
        self._journal = None if folder is None else Journal(folder)
        self._disk = Disk()

    def __repr__(self) -> str:
        return f"<Keeping {self._journal!r} errors={self.errors}>"

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to wait for: the journal is ours, or there is none."""
        return self._journal is None or self._journal.is_owned

    async def take_over(self) -> Mapping[str, Any] | None:
        """Try to become the owner; return what the predecessor left, None while it lives or the disk does not answer."""
        journal = self._journal
        if journal is None or journal.is_owned:
            return {}
        try:
            return await self._disk.run(lambda: journal.read() if journal.try_own() else None)
        except TimeoutError as late:
            self._note_error("alert journal does not answer", late)
            return None
        except OSError as error:
            self._note_error("alert journal cannot be used, going on without", error)
            self._journal = None
            return {}

    async def save(self, records: Mapping[str, Any]) -> bool:
        """Write the state; say whether there is nothing left to do about it."""
        journal = self._journal
        if journal is None or not journal.is_owned:
            return True
        try:
            await self._disk.run(lambda: journal.write(records))
        except OSError as error:
            self._note_error("alert journal cannot be written", error)
            return False
        return True

    async def aclose(self) -> None:
        """Let the successor have it."""
        if self._journal is not None:
            self._journal.close()

    def _note_error(self, phrase: str, error: OSError) -> None:
        self.errors += 1
        if self.errors == 1:
            log.warning(phrase, extra={"cause": str(error) or type(error).__name__})
