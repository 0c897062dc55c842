"""Refusals that only this feature knows; the rest of its tree is in `b1.errors`."""

from __future__ import annotations

from b1.errors import IdempotencyError


class IdempotencyOutcomeNotStored(IdempotencyError):
    """The key's effect was committed, its answer could not be stored: neither a repeat nor a replay would be right."""

    code, status, title = (
        "IDEMPOTENCY_OUTCOME_NOT_STORED",
        409,
        "The request with this Idempotency-Key succeeded and its answer was not stored",
    )
