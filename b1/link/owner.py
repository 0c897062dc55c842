"""What a wire is told by its owner, and what it tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from b1.link.wire import Wire


@dataclass(frozen=True, slots=True)
class WireLimits:
    """The bounds of one connection.

    Attributes:
        deadline_s: for each call.
        calls, held_bytes: in flight; more fail at once.
        command_bytes: of one command.
        stall_s: without an answer to an overdue call, until `WireEvents.stall_lasts`.
    """

    deadline_s: float
    calls: int
    held_bytes: int
    command_bytes: int
    stall_s: float


class WireEvents:
    """What a wire tells its owner; the defaults do nothing."""

    def pushed(self, message: list[Any]) -> None:
        """A push came."""

    def stall_begins(self, wire: Wire) -> None:
        """A call was not answered in time, and nothing has come since it was sent."""

    def stall_lasts(self, wire: Wire) -> None:
        """It has stayed so for `stall_s`; told again after as long."""

    def stall_over(self, wire: Wire) -> None:
        """It has answered."""
