"""THE order of the request path. Nowhere else.

Outermost first. A layer that is off is not there at all. Read the reasons from the top: each layer may rely on everything
above it, and protects everything below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from b1.types import ASGIApp

# A layer takes the application below it and returns the application with the layer around it.
Layer = Callable[[ASGIApp], ASGIApp]

# The names in order; `build` takes the layers that are on, by name.
ORDER = (
    "observe",  # sees everything, refusals included: request id, timing, metrics, the last resort for errors
    "cors",  # browsers must be able to read a refusal, so its headers stand around every refusal below
    "probes",  # answered here, before anything can refuse them
    "guard",  # body cap and client address: what comes after may trust both
    "admission",  # the cheapest refusal: compares numbers, no I/O
    "identity",  # who is calling, from the cache; a bad token is charged to its address
    "limiter",  # spends before the body is read, so that refused work costs nothing
    "idempotency",  # claims after the limiter, so that a refused request never leaves a claim
    "cache",  # a hit ends here, with stored bytes, after the principal and its limits are known
    "deadline",  # the clock of the work starts when the work is admitted
)


def build(app: ASGIApp, layers: Sequence[tuple[str, Layer]]) -> ASGIApp:
    """Put the layers around `app` in the one order.

    Raises:
        ValueError: a layer's name is unknown or given twice.
    """
    by_name = dict(layers)
    if len(by_name) != len(layers) or not by_name.keys() <= set(ORDER):
        raise ValueError(f"layers must be distinct names of {ORDER}, got {[name for name, _ in layers]}")
    for name in reversed(ORDER):
        if name in by_name:
            app = by_name[name](app)
    return app
