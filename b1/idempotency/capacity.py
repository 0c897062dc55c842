"""How many organisations fit: the capacity table of ``b1 plan --idempotency 100000orgs``. Pure.

A key costs memory for its lifetime and three commands in its life; connections do not grow with organisations, since one
carries everything. So the table is one of memory and commands, over how often an organisation writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from b1.errors import InvalidSetting
from b1.plan import IDEMPOTENCY_TTL_S
from b1.units import KIB

# Beyond the body; benchmarks/idempotency.py measures them: the store's key, fingerprint, fence, times, the stored headers.
REDIS_RECORD_BYTES = 250
MEMORY_RECORD_BYTES = 540
POSTGRES_RECORD_BYTES = 380
# What the requirement calculates with: a small answer, a write or two a day.
TYPICAL_BODY_BYTES = 200
_RATES_PER_DAY = (1.0, 10.0, 100.0, 1000.0)
# The busiest second of a day against its average one; offices and cash desks have mornings.
PEAK = 10
# Claim and finish; a replay is one. Coalesced on one connection a server does well over this many in a second.
COMMANDS_PER_KEY = 2
COMMANDS_PER_S = 15_000
_DAY_S = 86_400
_MOST_BODY_BYTES = 64 * KIB
_ORGANIZATIONS = re.compile(r"([1-9][0-9]{0,8})([kM]?)(?:orgs?)?")


@dataclass(frozen=True, slots=True)
class Row:
    """What one rate of writing needs.

    Attributes:
        per_day: keyed requests per organisation and day.
        records: that live at the same time, at the end of one lifetime.
        redis_bytes, memory_bytes, postgres_bytes: what they hold there.
        commands_per_s: of the store, in the busiest second.
        connection_share: of what one Redis connection carries, then; over 1 it takes more than one host.
    """

    per_day: float
    records: int
    redis_bytes: int
    memory_bytes: int
    postgres_bytes: int
    commands_per_s: float
    connection_share: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """The table. `connections`: to Redis, however many organisations there are."""

    organizations: int
    body_bytes: int
    ttl_s: float
    connections: int
    rows: tuple[Row, ...]

    def rate_that_fits(self, limit_bytes: int) -> float:
        """Return how many keyed requests per organisation and day fit into a Redis of `limit_bytes`."""
        records = limit_bytes / (REDIS_RECORD_BYTES + self.body_bytes)
        return records / self.organizations * _DAY_S / self.ttl_s


def capacity(
    organizations: int,
    *,
    body_bytes: int = TYPICAL_BODY_BYTES,
    ttl_s: float = IDEMPOTENCY_TTL_S,
    connections: int = 2,
    rates_per_day: Iterable[float] = _RATES_PER_DAY,
) -> Capacity:
    """Work out the table.

    Args:
        body_bytes: of a stored answer, as stored: over 1 KiB it is compressed.

    Raises:
        InvalidSetting: a number is out of range.
    """
    if organizations < 1 or ttl_s <= 0 or not 0 <= body_bytes <= _MOST_BODY_BYTES:
        raise InvalidSetting(
            f"capacity of {organizations} organisations, {ttl_s} s, bodies of {body_bytes} bytes",
            remedy="expected 1 or more organisations, more than 0 s, 0 to 65536 bytes",
        )
    rows = tuple(_row(organizations, rate, body_bytes, ttl_s) for rate in rates_per_day)
    return Capacity(organizations, body_bytes, ttl_s, connections, rows)


def _row(organizations: int, per_day: float, body_bytes: int, ttl_s: float) -> Row:
    records = round(organizations * per_day * ttl_s / _DAY_S)
    commands_per_s = organizations * per_day / _DAY_S * COMMANDS_PER_KEY * PEAK
    return Row(
        per_day=per_day,
        records=records,
        redis_bytes=records * (REDIS_RECORD_BYTES + body_bytes),
        memory_bytes=records * (MEMORY_RECORD_BYTES + body_bytes),
        postgres_bytes=records * (POSTGRES_RECORD_BYTES + body_bytes),
        commands_per_s=commands_per_s,
        connection_share=commands_per_s / COMMANDS_PER_S,
    )


def parse_organizations(text: str) -> int:
    """Return the number in ``100000orgs``, ``100k`` or ``100000``.

    Raises:
        ValueError: it is none of them.
    """
    match = _ORGANIZATIONS.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no number of organisations, expected such as 100000orgs or 100k")
    return int(match[1]) * {"": 1, "k": 1000, "M": 1_000_000}[match[2]]
