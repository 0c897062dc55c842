"""Who calls every contender: 200 signed-in callers of 10 organisations, in turn, with tokens that b1 verifies."""

from __future__ import annotations

from b1.clock import SystemClock
from b1.identity import Tokens
from b1.settings import Secret

CALLERS = 200
ORGANIZATIONS = 10
_SECRET = "a secret of the benchmark, good for nothing else"

# The quotas are scaled so that the full path is measured without being refused.
OUR_ENVIRONMENT = {"AUTH_JWT_SECRET": _SECRET, "B1_LIMIT_SCALE": "1000", "LOG_LEVEL": "warning"}


def callers() -> list[dict[str, str]]:
    """Return each caller's headers, such as a client library sends."""
    tokens = Tokens(Secret(_SECRET), SystemClock())
    return [
        {
            "authorization": "Bearer " + tokens.issue(str(number), _claims(number), ttl_s=3600),
            "accept": "application/json",
            "accept-encoding": "gzip, deflate",
            "user-agent": "benchmark/1.0",
        }
        for number in range(1, CALLERS + 1)
    ]


def _claims(number: int) -> dict[str, str]:
    return {"org": str(number % ORGANIZATIONS + 1), "role": "MEMBER", "tier": "pro"}
