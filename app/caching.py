"""What cached answers depend on, and which writes make them stale.

An answer carries tags; a write names an event, in its own transaction; the rules lead from the one to the other. The names
are kept together here, because a tag that only one side knows is an answer that nobody ever invalidates.
"""

from __future__ import annotations

from typing import Final

from b1 import Rule, Rules

# How long an answer may be cached at most. Writes make it stale at once; this bounds what is changed past the application.
TTL_S: Final = 60.0
# For what changes with a release or by an administrator's hand.
REFERENCE_TTL_S: Final = 300.0

# On routes, which fill in the caller's organisation and the path's values.
LEDGER: Final = "ledger:{organization}"
ENTITIES: Final = "entities:{organization}"
ENTITY: Final = "entity:{organization}:{id}"
CHART: Final = "reference:accounts"

LEDGER_POSTED: Final = "ledger.posted"
ENTITY_CREATED: Final = "entity.created"
ENTITY_CHANGED: Final = "entity.changed"
MEMBERSHIP_CHANGED: Final = "membership.changed"

RULES: Final = Rules(
    Rule(LEDGER_POSTED, tags=("ledger:{{organization}}",)),
    Rule(ENTITY_CREATED, tags=("entities:{{organization}}",)),
    # Whatever shows a list shows the entity in it.
    Rule(ENTITY_CHANGED, tags=("entity:{{organization}}:{{id}}",), then=(ENTITY_CREATED,)),
    # b1 remembers principals under `actor:`. Pantry has no route that changes a membership; whoever adds one says this.
    Rule(MEMBERSHIP_CHANGED, tags=("membership:{{actor}}", "actor:{{actor}}")),
)


def membership_tag(actor: str) -> str:
    """Name what says where an actor belongs."""
    return f"membership:{actor}"


def entity_tag(organization: int, entity: int) -> str:
    """Name what shows one entity, outside of routes."""
    return ENTITY.format(organization=organization, id=entity)
