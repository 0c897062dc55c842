"""How long to wait after failures: doubling with jitter. Pure."""

from __future__ import annotations


def backoff_s(failures: int, *, first_s: float, max_s: float, chance: float) -> float:
    """Return the pause after so many failures in a row: doubling, and between half and all of it.

    Args:
        chance: 0 to 1; keeps instances that failed together from returning together.
    """
    full = min(max_s, first_s * 2.0 ** min(failures - 1, 60)) if failures > 0 else 0.0
    return full * (0.5 + chance / 2)
