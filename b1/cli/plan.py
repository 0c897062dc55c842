"""``b1 plan``: every derived number with its reason, as a table or as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import textwrap
from collections.abc import Iterable

from b1.cli import capacity as capacity_table
from b1.host import Host, read_host
from b1.idempotency.capacity import capacity, parse_organizations
from b1.plan import WATERMARKS, Plan, make_plan
from b1.settings import Settings
from b1.units import format_bytes

REASON_WIDTH = 72


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``b1 plan`` takes."""
    parser.add_argument(
        "--idempotency",
        metavar="ORGS",
        type=parse_organizations,
        help="what the keys of so many organisations need, such as 100000orgs",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable: name, value, unit and reason")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan of this box and environment."""
    settings = Settings.from_env(os.environ)
    host = read_host(os.environ)
    plan = make_plan(host, settings)
    if arguments.idempotency is not None:
        needs = capacity(arguments.idempotency, ttl_s=plan.idempotency_ttl_s, connections=plan.redis_connections)
        lines = capacity_table.as_table(needs)
        print(json.dumps(capacity_table.as_json(needs), indent=2) if arguments.json else "\n".join(lines))
        return 0
    print(json.dumps(as_json(host, plan), indent=2) if arguments.json else "\n".join(as_table(host, plan)))
    return 0


def as_json(host: Host, plan: Plan) -> dict[str, object]:
    """Return host, watermarks and every number with its unit and reason."""
    return {
        "host": dataclasses.asdict(host),
        "watermarks": {level: plan.watermark_bytes(level) for level in WATERMARKS},
        "numbers": {
            field.name: {
                "value": getattr(plan, field.name),
                "unit": field.metadata["unit"],
                "area": field.metadata["area"],
                "reason": plan.reasons[field.name],
            }
            for field in dataclasses.fields(plan)
            if field.name != "reasons"
        },
    }


def as_table(host: Host, plan: Plan) -> Iterable[str]:
    """Yield the lines of the table."""
    memory = f"{format_bytes(host.memory.limit_bytes)} ({host.memory.source})"
    yield f"This box: {memory}, {host.cpus:g} cores, {host.open_files} open files, {host.platform}"
    area = None
    for row_area, name, value, reason in plan.rows():
        if row_area != area:
            area = row_area
            yield f"\n{area}"
        first, *rest = textwrap.wrap(reason, REASON_WIDTH)
        yield f"  {name:24} {value:>18}  {first}"
        yield from (f"  {'':24} {'':>18}  {line}" for line in rest)
    yield "\nwatermarks"
    for level, percent in WATERMARKS.items():
        yield f"  {level:24} {format_bytes(plan.watermark_bytes(level)):>18}  {percent} % of the limit"
