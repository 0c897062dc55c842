"""Idempotency keys: one effect per key, and its answer as often as it is asked for."""

from __future__ import annotations

from b1.idempotency.attempt import Attempt, Concluded, Proceed, Refuse, Replay, Verdict
from b1.idempotency.capacity import Capacity, capacity
from b1.idempotency.errors import IdempotencyOutcomeNotStored
from b1.idempotency.fingerprint import Keyed
from b1.idempotency.headers import STORED_HEADERS
from b1.idempotency.options import IdempotencyOptions, ServiceOptions
from b1.idempotency.outcome import Answer
from b1.idempotency.plain import plain_transaction
from b1.idempotency.purging import Purged
from b1.idempotency.record import Record
from b1.idempotency.service import Idempotency, IdempotencySnapshot
from b1.idempotency.spool import SpoolOptions
from b1.idempotency.transactional import Transaction, TransactionOver
from b1.idempotency.usage import Usage, UsageWarning, warnings_of

__all__ = [
    "STORED_HEADERS",
    "Answer",
    "Attempt",
    "Capacity",
    "Concluded",
    "Idempotency",
    "IdempotencyOptions",
    "IdempotencyOutcomeNotStored",
    "IdempotencySnapshot",
    "Keyed",
    "Proceed",
    "Purged",
    "Record",
    "Refuse",
    "Replay",
    "ServiceOptions",
    "SpoolOptions",
    "Transaction",
    "TransactionOver",
    "Usage",
    "UsageWarning",
    "Verdict",
    "capacity",
    "plain_transaction",
    "warnings_of",
]
