"""`unwatched`, and a request that asks for the level gets a constant: what is left of the governor costs nothing."""

from __future__ import annotations

from b1.governor import Governor, Level
from contenders.unwatched import app

Governor.level = Level.NORMAL  # type: ignore[assignment,misc]

__all__ = ["app"]
