"""The SQL of cache intents; all of it. Times are those of Postgres."""

from __future__ import annotations

import re

HAS_TABLE = "SELECT to_regclass('b1_cache_intents') IS NOT NULL"

INSERT = "INSERT INTO b1_cache_intents (id, tags, soft, purge, instance) VALUES ($1, $2, $3, $4, $5)"
COLUMNS = 5

# One statement, so no lock outlives it: rows that another replay is about to take are skipped, and those that one took and
# did not delete come back after $4 seconds.
TAKE = """
UPDATE b1_cache_intents SET taken_at = clock_timestamp(), instance = $3
WHERE id = ANY (ARRAY(
    SELECT id FROM b1_cache_intents
    WHERE created_at <= clock_timestamp() - make_interval(secs => $1)
      AND (taken_at IS NULL OR taken_at < clock_timestamp() - make_interval(secs => $4))
    ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
))
RETURNING id, tags, soft, purge
"""

DELETE = "DELETE FROM b1_cache_intents WHERE id = ANY ($1)"

_BEGINNING = re.compile(r"\s*(?:(WITH)\s+(RECURSIVE\s+)?|(?=(?:INSERT|UPDATE|DELETE|SELECT)\b))", re.IGNORECASE)


def riding(query: str, arguments: int) -> str | None:
    """Return `query` with the intent's insert in front of it, whose values are the parameters behind its own.

    None for what is no such statement, or begins with a comment: then the insert travels by itself.
    """
    match = _BEGINNING.match(query)
    if match is None:
        return None
    at = arguments + 1
    values = f"${at}::uuid, ${at + 1}::text[], ${at + 2}::text[], ${at + 3}::text[], ${at + 4}::text"
    insert = f"b1_intent AS (INSERT INTO b1_cache_intents (id, tags, soft, purge, instance) VALUES ({values}))"
    if match[1] is None:
        return f"WITH {insert} {query}"
    return f"WITH {match[2] or ''}{insert}, {query[match.end() :]}"
