-- What a write made stale in the caches, in the write's own transaction: visible together with its effect, gone when it
-- was applied. A row that stays belongs to a worker that died in between, and is applied by another one.
CREATE TABLE IF NOT EXISTS b1_cache_intents (
    id         uuid PRIMARY KEY,               -- made by the writer, so that the insert can ride on another statement
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tags       text[] NOT NULL,                -- may not be served any more
    soft       text[] NOT NULL DEFAULT '{}',   -- may be served as stale while they are loaded anew
    purge      text[] NOT NULL DEFAULT '{}',   -- surrogate keys, for the CDN in front
    instance   text NOT NULL,                  -- who wrote it, or who took it over
    taken_at   timestamptz                     -- since when somebody else applies it
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
-- No further index: there are as many rows as writes within a second, and after an outage each is read once.
