"""The plan: every number that depends on the box, each with one sentence of reason. Pure, and light to import."""

from b1.plan.areas import (
    ALLOCATOR_ENVIRONMENT,
    B1_MEMORY_BYTES,
    IDEMPOTENCY_LEASE_S,
    IDEMPOTENCY_TTL_S,
    IDEMPOTENCY_WAIT_S,
    WATERMARKS,
    memory_wish,
    state_dir,
)
from b1.plan.plan import Plan, make_plan

__all__ = [
    "ALLOCATOR_ENVIRONMENT",
    "B1_MEMORY_BYTES",
    "IDEMPOTENCY_LEASE_S",
    "IDEMPOTENCY_TTL_S",
    "IDEMPOTENCY_WAIT_S",
    "WATERMARKS",
    "Plan",
    "make_plan",
    "memory_wish",
    "state_dir",
]
