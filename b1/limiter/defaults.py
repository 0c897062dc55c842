"""The table of docs/reference/limiter.md: what an application gets that says nothing about limits."""

from __future__ import annotations

from b1.limiter.policy import Policy, PolicyTable

_MINUTE = 60
_HOUR = 3600

DEFAULT_POLICIES = PolicyTable(
    (
        Policy("general", 20, _MINUTE, tiers={"pro": 100, "enterprise": 500}),
        Policy("entities", 100, _MINUTE, tiers={"free": 20}, role_scaled=True),
        Policy("transactions", 150, _MINUTE, role_scaled=True),
        Policy("membership", 200, _MINUTE, scope="actor"),
        Policy("read", 100, _MINUTE),
        Policy("write", 20, _MINUTE),
        Policy("delete", 5, _MINUTE),
        Policy("search", 60, _MINUTE, scope="actor", anonymous_quota=18),
        Policy("public", 15, _MINUTE, scope="address"),
        Policy("analysis", 10, _HOUR, tiers={"pro": 100, "enterprise": 1000}),
        # Failed log-ins. The actor is the account that was tried, whether it exists or not.
        Policy("authentication", 5, _HOUR, scope="actor+address"),
        Policy("authentication-known", 15, _HOUR, scope="actor+address", counter="authentication"),
        Policy("authentication-address", 50, _HOUR, scope="address"),
        Policy("authentication-account", 100, _HOUR, scope="actor"),
        Policy("health", 1000, _MINUTE, scope="address"),
    )
)
