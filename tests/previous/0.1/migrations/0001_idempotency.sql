-- Outcomes of requests that carried an Idempotency-Key, written by the transaction that made their effect.
-- A row is visible to others only together with that effect. record IS NULL: the effect is there, its answer was not kept.
CREATE TABLE IF NOT EXISTS b1_idempotency (
    scope_digest bytea PRIMARY KEY,            -- organisation, actor, method, route, path values and key, hashed
    organization text NOT NULL,                -- '' where the request names none
    fingerprint  bytea NOT NULL,               -- what was asked
    status       smallint,                     -- of the answer; NULL while its transaction runs, so never seen by others
    record       bytea,                        -- b1/idempotency/record.py
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
) WITH (fillfactor = 70);                      -- room for the one update that each row gets, on its own page

-- Bodies over 1 KiB are compressed already; a second try would only cost time.
ALTER TABLE b1_idempotency ALTER COLUMN record SET STORAGE EXTERNAL;

CREATE INDEX IF NOT EXISTS b1_idempotency_expires_at ON b1_idempotency (expires_at);
