"""A decision as header fields: the conventional ``X-RateLimit-*``, and the IETF draft's two in a chosen revision.

Deviation: on an answer that passes, only the policy nearest to exhaustion is written (the draft allows it); a refusal
writes all. Fields are lower case, as ASGI wants them. This runs for every request, so what repeats is kept.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Literal, NamedTuple

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
_ITEM = {"draft-11": b";r=%d;t=%d", "pr166": b";a=%d;w=%d"}
_NO_TOKEN = re.compile(r"[^A-Za-z0-9._-]")
_LOCAL = (b"x-ratelimit-mode", b"local")
# Most numbers that are written are small, and looking one up costs a third of writing it.
_NUMBERS = tuple(b"%d" % number for number in range(1025))
_MOST = len(_NUMBERS)


class _Fixed(NamedTuple):
    """What is the same in every answer about one policy and quota.

    Attributes:
        item: the policy's name as an item of ``RateLimit``.
        policy: the item of ``RateLimit-Policy``.
    """

    limit: tuple[bytes, bytes]
    window: tuple[bytes, bytes]
    item: bytes
    policy: bytes
    policy_field: tuple[bytes, bytes]


def decision_headers(decision: Decision, dialect: Dialect = "draft-11") -> Headers:
    """Return the fields that tell a client where it stands; none when no policy applied."""
    nearest = decision.nearest
    headers: Headers = []
    if nearest is not None and dialect != "off":
        name, quota, remaining, used, reset_s, window_s = nearest
        fixed = _fixed(name, quota, window_s)
        headers = [
            fixed.limit,
            (b"x-ratelimit-remaining", _NUMBERS[remaining] if remaining < _MOST else b"%d" % remaining),
            (b"x-ratelimit-used", _NUMBERS[used] if used < _MOST else b"%d" % used),
            _reset(decision.now_s + reset_s),
            fixed.window,
            _tier(decision.tier),
        ]
        if decision.mode == "local":
            headers.append(_LOCAL)
        item = _ITEM.get(dialect)
        if item is not None:
            if decision.allowed:
                headers.append(fixed.policy_field)
                headers.append((b"ratelimit", fixed.item + item % (remaining, reset_s)))
            else:
                headers += _draft_headers(decision.states, item)
    if decision.retry_after_s and not decision.is_denied:
        headers.append((b"retry-after", b"%d" % decision.retry_after_s))
    return headers


def decision_lines(decision: Decision, dialect: Dialect = "draft-11") -> bytes:
    """Return `decision_headers` as they are written in an answer, each with its line end."""
    nearest = decision.nearest
    if nearest is None or not decision.allowed or decision.mode == "local" or dialect not in _ITEM:
        return b"".join([b"%b: %b\r\n" % pair for pair in decision_headers(decision, dialect)])
    name, quota, remaining, used, reset_s, window_s = nearest
    reset = _reset(decision.now_s + reset_s)[1]
    return _lines(name, quota, window_s, decision.tier, dialect) % (remaining, used, reset, remaining, reset_s)


@lru_cache(maxsize=1024)
def _lines(name: str, quota: int, window_s: int, tier: str, dialect: Dialect) -> bytes:
    """Return the lines of an answer that passes, with five places left open."""
    fixed = _fixed(name, quota, window_s)
    lines = (
        fixed.limit,
        (b"x-ratelimit-remaining", b"\0"),
        (b"x-ratelimit-used", b"\0"),
        (b"x-ratelimit-reset", b"\1"),
        fixed.window,
        _tier(tier),
        fixed.policy_field,
    )
    text = b"".join([b"%b: %b\r\n" % pair for pair in lines]).replace(b"%", b"%%")
    text = text.replace(b"\0", b"%d").replace(b"\1", b"%b")
    return text + b"ratelimit: " + fixed.item.replace(b"%", b"%%") + _ITEM[dialect] + b"\r\n"


def _draft_headers(states: tuple[PolicyState, ...], item: bytes) -> Headers:
    fixed = [_fixed(state.name, state.limit, state.window_s) for state in states]
    limits = [one.item + item % (state.remaining, state.reset_s) for one, state in zip(fixed, states, strict=True)]
    policies = b", ".join([one.policy for one in fixed])
    return [(b"ratelimit-policy", policies), (b"ratelimit", b", ".join(limits))]


@lru_cache(maxsize=1024)
def _fixed(name: str, limit: int, window_s: int) -> _Fixed:
    # Policy names are checked to need no escaping in a structured field.
    item = b'"%b"' % name.encode()
    policy = b"%b;q=%d;%b" % (item, limit, b"w=%d" % window_s if window_s else b'qu="concurrent-requests"')
    return _Fixed(
        (b"x-ratelimit-limit", b"%d" % limit),
        (b"x-ratelimit-window", b"%d" % window_s),
        item,
        policy,
        (b"ratelimit-policy", policy),
    )


@lru_cache(maxsize=4096)
def _reset(second: int) -> tuple[bytes, bytes]:
    return b"x-ratelimit-reset", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second)).encode()


@lru_cache(maxsize=64)
def _tier(text: str) -> tuple[bytes, bytes]:
    # A tier comes from a token's claims; it must not be able to end the field.
    return b"x-ratelimit-tier", _NO_TOKEN.sub("_", text)[:64].encode()
