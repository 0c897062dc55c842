"""What can be said of one read besides its key: written once, for every verb that takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from b1.cache.options import LoadOptions, Tier


class How(TypedDict, total=False):
    """Keywords of `get_or_load`, `get_many`, `set` and `cached`.

    Attributes:
        ttl: seconds, or the name of a lifetime: ``hot`` (5 min), ``warm`` (1 h, the default), ``cold`` (24 h), or one of
            the application's own.
        ttl_s: seconds, in place of `ttl`.
        tags: what the value depends on, besides its key, the key's prefixes and the organisation: 32 at most, and the
            same ones wherever the key is read.
        tier: where it lives; by default what the name says, and warm for seconds.
        options: what is better than nothing while it loads; by default the cache's.
    """

    ttl: float | str
    ttl_s: float
    tags: Sequence[str]
    tier: Tier
    options: LoadOptions
