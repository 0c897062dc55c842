"""Whether an application that somebody wrapped has a profile inside: ``CORSMiddleware(app)``, Sentry's wrapper, a closure.

Such a one must not get a second profile around it: every request would be charged twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

# A wrapper refers to what it wraps directly; what lies deeper, or in a container, is somebody's own dispatching.
_DEPTH = 8
_LOOKED_AT = 256


def has_profile_inside(app: Any) -> bool:
    """Say whether `app` wraps, however often, an application in which `B1` is installed."""
    seen: set[int] = set()
    level = [app]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for one in level:
            if getattr(one, "__b1__", None) is not None:
                return True
            for inner in _held_by(one):
                if callable(inner) and id(inner) not in seen and len(seen) < _LOOKED_AT:
                    seen.add(id(inner))
                    below.append(inner)
        level = below
    return False


def _held_by(wrapper: Any) -> Iterator[Any]:
    """Yield what it refers to: attributes, what a function closes over, arguments of a partial, a method's object."""
    if isinstance(wrapper, type):
        return
    yield from getattr(wrapper, "__dict__", {}).values()
    for cell in getattr(wrapper, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    if isinstance(wrapper, partial):
        yield from (wrapper.func, *wrapper.args, *wrapper.keywords.values())
    if (owner := getattr(wrapper, "__self__", None)) is not None:
        yield owner
