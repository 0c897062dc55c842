"""Postgres within the host's budget of connections (contract §8): slots, leases, deadlines. Never more than the limit.

`docs/explanation/database-budget.md` tells the design and what happens in each failure.
"""

from b1.db.counters import Counters, DatabaseSnapshot, Holder
from b1.db.database import Database
from b1.db.lease import Lease, holds_lease
from b1.db.options import DatabaseOptions, Priority, slots_directory
from b1.db.priority import in_background

__all__ = [
    "Counters",
    "Database",
    "DatabaseOptions",
    "DatabaseSnapshot",
    "Holder",
    "Lease",
    "Priority",
    "holds_lease",
    "in_background",
    "slots_directory",
]
