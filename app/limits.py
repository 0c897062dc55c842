"""Which limits apply to a route that names none. The quotas themselves are b1's table."""

from __future__ import annotations

from typing import Final

from b1 import Principal

_BY_METHOD: Final = {"GET": "read", "HEAD": "read", "OPTIONS": "read", "DELETE": "delete"}


def policies_of_undeclared(principal: Principal | None, method: str) -> tuple[str, ...]:
    """Name the policies: strangers share one small quota per address, members have one per action besides the general."""
    if principal is None:
        return ("public",)
    return "general", _BY_METHOD.get(method, "write")
