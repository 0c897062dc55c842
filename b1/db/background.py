"""The one place for background work on the whole host, whatever process it runs in: a locked file beside the slots."""

from __future__ import annotations

from pathlib import Path

from b1.slots import Slot, Slots


class BackgroundPlace:
    """The host's place as one pool sees it.

    Args:
        directory: of the slots.
    """

    def __init__(self, directory: Path) -> None:
        self._slots = Slots(directory, "pg-background", 1)
        self._taken: Slot | None = None

    def __repr__(self) -> str:
        return f"<BackgroundPlace {'taken' if self.is_taken else 'not ours'}>"

    @property
    def is_taken(self) -> bool:
        """Whether this process has it."""
        return self._taken is not None

    def open(self) -> None:
        """Open the file; raises as `Slots.open`."""
        self._slots.open()

    def close(self) -> None:
        """Let go of it."""
        self._taken = None
        self._slots.close()

    def take(self) -> bool:
        """Take it; False when anybody has it."""
        if self._taken is not None:
            return False
        self._taken = self._slots.take()
        return self._taken is not None

    def free(self) -> None:
        """Give it back; harmless when it is not ours."""
        if self._taken is not None:
            self._taken.free()
            self._taken = None
