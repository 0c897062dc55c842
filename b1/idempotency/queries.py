"""The SQL of idempotency; all of it. Times are those of Postgres."""

from __future__ import annotations


def begin(digest: bytes, lock_timeout_ms: int) -> str:
    """Begin, lock the key against rivals, and look for its row: one message, whose status is `UNKNOWN` for a new key.

    A rival waits here, for `lock_timeout_ms`, and has done nothing yet. set_config and not SET: a lease that sees the
    status SET resets its session. NULL gives the session's own lock timeout back, since the handler's statements follow.
    """
    return (
        f"BEGIN; SELECT set_config('lock_timeout', '{lock_timeout_ms:d}', true); "
        f"SELECT pg_advisory_xact_lock({_lock(digest):d}); "
        "SELECT set_config('lock_timeout', NULL, true); "
        f"{EFFECT_BEGINS}; SELECT FROM b1_idempotency WHERE scope_digest = {_bytes(digest)}"
    )


def _lock(digest: bytes) -> int:
    """Return the key's advisory lock: 64 bits of a SHA-256, so that two keys never wait for each other."""
    return int.from_bytes(digest[:8], "big", signed=True)


def _bytes(value: bytes) -> str:
    # Not '\x…': what a backslash means depends on standard_conforming_strings. Hexadecimal digits cannot end the literal.
    return f"decode('{value.hex()}', 'hex')"


BEGIN_LIKE = "BEGIN; SELECT pg_advisory_xact_lock(?); SELECT FROM b1_idempotency WHERE scope_digest = ?"

UNKNOWN = "SELECT 0"

EFFECT_BEGINS = "SAVEPOINT b1_effect"

READ = """
SELECT fingerprint, record, extract(epoch FROM created_at)::float8 AS created_s,
       extract(epoch FROM expires_at - clock_timestamp())::float8 AS ttl_s
FROM b1_idempotency WHERE scope_digest = $1
"""

UNDO_EFFECT = "ROLLBACK TO SAVEPOINT b1_effect"

DELETE_EXPIRED = "DELETE FROM b1_idempotency WHERE scope_digest = $1 AND expires_at <= clock_timestamp()"

# Fails when the handler ended the transaction itself, or swallowed an error of one of its statements.
EFFECT_ENDS = "RELEASE SAVEPOINT b1_effect"

# The primary key is the last guard: whoever inserts second loses its whole transaction.
INSERT = """
INSERT INTO b1_idempotency (scope_digest, organization, fingerprint, status, record, expires_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))
"""

PRIMARY_KEY = "b1_idempotency_pkey"


def conclude(
    digest: bytes, organization: str, fingerprint: bytes, status: int | None, record: bytes | None, ttl_s: float
) -> str:
    """Insert the record and commit it with the effect: one message, and no moment between the two.

    Every value is written as a number or in hexadecimal, so none can be anything but a value.
    """
    values = (
        _bytes(digest),
        f"convert_from({_bytes(organization.encode())}, 'UTF8')",
        _bytes(fingerprint),
        "NULL" if status is None else f"{status:d}",
        "NULL" if record is None else _bytes(record),
        f"clock_timestamp() + make_interval(secs => {ttl_s:f})",
    )
    return (
        f"{EFFECT_ENDS}; INSERT INTO b1_idempotency "
        f"(scope_digest, organization, fingerprint, status, record, expires_at) VALUES ({', '.join(values)}); {COMMIT}"
    )


CONCLUDE_LIKE = "INSERT INTO b1_idempotency VALUES (?); COMMIT"

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

# The next $2 rows of the primary key, of which those of the organisation go. `last` is NULL behind the last row.
PURGE_ORGANIZATION = """
WITH slice AS (
    SELECT scope_digest, organization FROM b1_idempotency WHERE scope_digest > $1 ORDER BY scope_digest LIMIT $2
), gone AS (
    DELETE FROM b1_idempotency WHERE scope_digest = ANY (ARRAY(SELECT scope_digest FROM slice WHERE organization = $3))
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone) AS gone, (SELECT scope_digest FROM slice ORDER BY scope_digest DESC LIMIT 1) AS last
"""
