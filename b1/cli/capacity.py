"""``b1 plan --idempotency 100000orgs``: what the idempotency keys of so many organisations need."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from b1.idempotency.capacity import PEAK, Capacity
from b1.units import MIB, format_bytes

REFERENCE_BYTES = 30 * MIB


def as_json(table: Capacity) -> dict[str, object]:
    """Return the whole table."""
    return dataclasses.asdict(table)


def as_table(table: Capacity) -> Iterable[str]:
    """Yield the lines of the table."""
    yield (
        f"Idempotency keys of {table.organizations:,} organisations: "
        f"answers of {table.body_bytes} B kept for {table.ttl_s / 3600:g} h"
    )
    yield ""
    heads = (
        ("keys/org/day", 12),
        ("records", 13),
        ("Redis", 10),
        ("memory", 10),
        ("Postgres", 10),
        ("commands/s", 11),
        ("of one", 7),
    )
    yield " ".join(f"{head:>{width}}" for head, width in heads)
    for row in table.rows:
        yield (
            f"{row.per_day:>12g} {row.records:>13,} {format_bytes(row.redis_bytes):>10} "
            f"{format_bytes(row.memory_bytes):>10} {format_bytes(row.postgres_bytes):>10} "
            f"{row.commands_per_s:>11,.0f} {row.connection_share:>7.1%}"
        )
    yield ""
    yield f"commands/s: in a second that is {PEAK} times as busy as the average; of one: of what one connection carries."
    yield f"Connections to Redis: {table.connections} at most per host, whatever the number of organisations."
    yield (
        f"{format_bytes(REFERENCE_BYTES)} of Redis hold {table.rate_that_fits(REFERENCE_BYTES):.2g} keys per organisation "
        f"and day."
    )
