"""The SQL of idempotency; all of it. Times are those of Postgres."""

from __future__ import annotations


def begin(lock_timeout_ms: int) -> str:
    """Open the transaction. The lock timeout is for the claim alone; `CLAIMED` gives the session's own back.

    set_config and not SET: a lease that sees the status SET resets its session, prepared statements included.
    """
    return f"BEGIN; SELECT set_config('lock_timeout', '{lock_timeout_ms:d}', true)"


# Waits for a rival's open transaction, then takes the key if it is new or has expired. No row: somebody else has it.
CLAIM = """
INSERT INTO b1_idempotency AS held (scope_digest, organization, fingerprint, expires_at)
VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))
ON CONFLICT (scope_digest) DO UPDATE
    SET organization = EXCLUDED.organization, fingerprint = EXCLUDED.fingerprint, status = NULL, record = NULL,
        created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
    WHERE held.expires_at <= clock_timestamp()
RETURNING true
"""

CLAIMED = "SET LOCAL lock_timeout TO DEFAULT; SAVEPOINT b1_effect"

READ = """
SELECT fingerprint, record, extract(epoch FROM created_at)::float8 AS created_s,
       extract(epoch FROM expires_at - clock_timestamp())::float8 AS ttl_s
FROM b1_idempotency WHERE scope_digest = $1
"""

UNDO_EFFECT = "ROLLBACK TO SAVEPOINT b1_effect"

WRITE = "UPDATE b1_idempotency SET status = $2, record = $3 WHERE scope_digest = $1 RETURNING true"

COMMIT = "COMMIT"

ROLLBACK = "ROLLBACK"

# = ANY(ARRAY(…)) and not IN (…): the latter joins against a scan of the whole table.
PURGE = """
WITH gone AS (
    DELETE FROM b1_idempotency WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM b1_idempotency WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )) RETURNING 1
)
SELECT count(*) FROM gone
"""
