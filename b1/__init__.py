"""b1: the deployment profile that keeps a FastAPI service alive, fast and honest on one core and 1.75 GB.

Names are loaded on first use, so that ``import b1`` in the gunicorn master or in a command costs no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from b1.cache import Cascade, LoadOptions, Rule, Rules
    from b1.errors import (
        B1Error,
        ConfigurationError,
        DatabaseBusy,
        DatabaseUnavailable,
        Forbidden,
        LeaseHeld,
        MalformedRequest,
        Overloaded,
        RateLimited,
        RequestError,
        Unauthenticated,
    )
    from b1.identity import Credentials
    from b1.limiter import Caller, Policy, PolicyTable
    from b1.profile import B1
    from b1.settings import Settings
    from b1.types import Principal

__version__ = "0.1.0"

_HOME = {
    "B1": "b1.profile",
    "B1Error": "b1.errors",
    "Caller": "b1.limiter",
    "Cascade": "b1.cache",
    "ConfigurationError": "b1.errors",
    "Credentials": "b1.identity",
    "DatabaseBusy": "b1.errors",
    "DatabaseUnavailable": "b1.errors",
    "Forbidden": "b1.errors",
    "LeaseHeld": "b1.errors",
    "LoadOptions": "b1.cache",
    "MalformedRequest": "b1.errors",
    "Overloaded": "b1.errors",
    "Policy": "b1.limiter",
    "PolicyTable": "b1.limiter",
    "Principal": "b1.types",
    "RateLimited": "b1.errors",
    "RequestError": "b1.errors",
    "Rule": "b1.cache",
    "Rules": "b1.cache",
    "Settings": "b1.settings",
    "Unauthenticated": "b1.errors",
}

__all__ = [
    "B1",
    "B1Error",
    "Caller",
    "Cascade",
    "ConfigurationError",
    "Credentials",
    "DatabaseBusy",
    "DatabaseUnavailable",
    "Forbidden",
    "LeaseHeld",
    "LoadOptions",
    "MalformedRequest",
    "Overloaded",
    "Policy",
    "PolicyTable",
    "Principal",
    "RateLimited",
    "RequestError",
    "Rule",
    "Rules",
    "Settings",
    "Unauthenticated",
    "__version__",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'b1' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
