-- Outcomes of requests that carried an Idempotency-Key, inserted by the transaction that made their effect, as its last
-- statement. A row is never updated, and visible to others only together with that effect.
CREATE TABLE IF NOT EXISTS b1_idempotency (
    scope_digest bytea PRIMARY KEY,            -- organisation, actor, method, route, path values and key, hashed
    organization text NOT NULL,                -- '' where the request names none
    fingerprint  bytea NOT NULL,               -- what was asked; its first byte says by which definition
    status       smallint,                     -- of the answer; NULL with the record
    record       bytea,                        -- b1/idempotency/record.py; NULL: the effect is there, its answer was not kept
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
);

-- Bodies over 1 KiB are compressed already; a second try would only cost time.
ALTER TABLE b1_idempotency ALTER COLUMN record SET STORAGE EXTERNAL;

CREATE INDEX IF NOT EXISTS b1_idempotency_expires_at ON b1_idempotency (expires_at);
