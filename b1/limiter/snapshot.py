"""What the limiter says about itself, for health, metrics and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LimiterSnapshot:
    """What the limiter says about itself; counts since the start.

    Attributes:
        penalties: blocks that began in an answer to this process.
        denied: requests refused from the table of those who are shut out.
        denied_callers: who is in it.
        refused_by, shadowed_by: by policy.
    """

    mode: str
    policies: int
    checks: int
    refusals: int
    shadow_refusals: int
    callers_kept: int
    penalties: int = 0
    denied: int = 0
    denied_callers: int = 0
    refused_by: Mapping[str, int] = field(default_factory=dict)
    shadowed_by: Mapping[str, int] = field(default_factory=dict)
