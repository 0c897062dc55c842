"""A decision as header fields: the conventional ``X-RateLimit-*``, and the IETF draft's two in a chosen revision.

Deviation: on an answer that passes, only the policy nearest to exhaustion is written (the draft allows it); a refusal
writes all. Fields are lower case, as ASGI wants them. This runs for every request, so what repeats is kept.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Literal

from b1.limiter.decision import Decision, PolicyState

# draft-11: draft-ietf-httpapi-ratelimit-headers-11 (r, t). pr166: its proposed successor (a, w).
# legacy: only X-RateLimit-*. off: only Retry-After.
Dialect = Literal["draft-11", "pr166", "legacy", "off"]
DIALECTS: tuple[Dialect, ...] = ("draft-11", "pr166", "legacy", "off")

Headers = list[tuple[bytes, bytes]]

EXPOSED = (
    "Retry-After", "RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Used",
    "X-RateLimit-Reset", "X-RateLimit-Window", "X-RateLimit-Tier", "X-RateLimit-Mode",
)  # fmt: skip
"""What a script of another origin has to be allowed to read."""

OURS = frozenset(name.lower().encode() for name in EXPOSED)
_ITEM = {"draft-11": b'"%b";r=%d;t=%d', "pr166": b'"%b";a=%d;w=%d'}
_NO_TOKEN = re.compile(r"[^A-Za-z0-9._-]")


def decision_headers(decision: Decision, dialect: Dialect = "draft-11") -> Headers:
    """Return the fields that tell a client where it stands; none when no policy applied."""
    nearest = decision.nearest
    headers: Headers = []
    if nearest is not None and dialect != "off":
        limit, window, _, _ = _fixed(nearest.name, nearest.limit, nearest.window_s)
        headers = [
            (b"x-ratelimit-limit", limit),
            (b"x-ratelimit-remaining", b"%d" % nearest.remaining),
            (b"x-ratelimit-used", b"%d" % nearest.used),
            (b"x-ratelimit-reset", _iso(decision.now_s + nearest.reset_s)),
            (b"x-ratelimit-window", window),
            (b"x-ratelimit-tier", _token(decision.tier)),
        ]
        if decision.mode == "local":
            headers.append((b"x-ratelimit-mode", b"local"))
        item = _ITEM.get(dialect)
        if item is not None:
            headers += _draft_headers((nearest,) if decision.allowed else decision.states, item)
    if decision.retry_after_s and not decision.is_denied:
        headers.append((b"retry-after", b"%d" % decision.retry_after_s))
    return headers


def _draft_headers(states: tuple[PolicyState, ...], item: bytes) -> Headers:
    policies = []
    limits = []
    for state in states:
        _, _, policy, name = _fixed(state.name, state.limit, state.window_s)
        policies.append(policy)
        limits.append(item % (name, state.remaining, state.reset_s))
    return [(b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(limits))]


@lru_cache(maxsize=1024)
def _fixed(name: str, limit: int, window_s: int) -> tuple[bytes, bytes, bytes, bytes]:
    # Policy names are checked to need no escaping in a structured field.
    what = b"w=%d" % window_s if window_s else b'qu="concurrent-requests"'
    return b"%d" % limit, b"%d" % window_s, b'"%b";q=%d;%b' % (name.encode(), limit, what), name.encode()


@lru_cache(maxsize=4096)
def _iso(second: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second)).encode()


@lru_cache(maxsize=64)
def _token(text: str) -> bytes:
    # A tier comes from a token's claims; it must not be able to end the field.
    return _NO_TOKEN.sub("_", text)[:64].encode()
