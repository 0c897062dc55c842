"""Idempotency keys: one effect per key, and its answer as often as it is asked for."""

from __future__ import annotations

from b1.idempotency.attempt import Attempt, Concluded, Proceed, Refuse, Replay, Verdict
from b1.idempotency.errors import IdempotencyOutcomeNotStored
from b1.idempotency.fingerprint import Keyed
from b1.idempotency.options import IdempotencyOptions, ServiceOptions
from b1.idempotency.outcome import Answer
from b1.idempotency.plain import plain_transaction
from b1.idempotency.record import Record
from b1.idempotency.service import Idempotency, IdempotencySnapshot
from b1.idempotency.transactional import Transaction, TransactionOver

__all__ = [
    "Answer",
    "Attempt",
    "Concluded",
    "Idempotency",
    "IdempotencyOptions",
    "IdempotencyOutcomeNotStored",
    "IdempotencySnapshot",
    "Keyed",
    "Proceed",
    "Record",
    "Refuse",
    "Replay",
    "ServiceOptions",
    "Transaction",
    "TransactionOver",
    "Verdict",
    "plain_transaction",
]
