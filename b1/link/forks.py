"""What becomes of a link in a forked child: it is told to forget its connection, which stays the parent's.

The sockets themselves are taken from the child by the slots that they belong to; see `b1.slots`.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something with a connection that a child must not use."""

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there."""
        ...


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()
_is_guarded = False


def when_forked(owner: Forkable) -> None:
    """Have `owner` told in each child, for as long as it lives."""
    global _is_guarded
    _known.add(owner)
    if not _is_guarded:  # on first use, so that importing has no effects
        _is_guarded = True
        os.register_at_fork(after_in_child=_tell)


def _tell() -> None:
    for owner in list(_known):
        owner.after_fork()
