"""``b1 limits show|reset|simulate``: where a caller stands, a fresh start for it, and what a traffic log would get.

`show` and `reset` ask the running worker over HTTP, with the admin token: a command may not open a connection to Redis of
its own. `simulate` asks nobody; it runs the log through the real limiter in memory, on a clock that the log moves.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from b1.cli.worker import ask_worker
from b1.errors import ConfigurationError
from b1.settings import Settings

PATH = "/internal/limits"
_WHOM = ("actor", "organization", "address", "key", "policy", "tier", "role")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``b1 limits`` takes."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="limits_verb", required=True)
    show = verbs.add_parser("show", help="the policies, and where a caller stands")
    reset = verbs.add_parser("reset", help="give a caller back what it has spent, and end its penalty")
    for asking in (show, reset):
        asking.add_argument("--actor", help="of this actor; with --organization in that organisation")
        asking.add_argument("--organization", help="of this organisation")
        asking.add_argument("--address", help="of this network address, as a stranger")
        asking.add_argument("--key", help="of this text, which --policy counts because a `by` or a `take` said so")
        asking.add_argument("--policy", help="of this policy alone")
        asking.add_argument("--tier", help="the caller's, for its quotas (default: free)")
        asking.add_argument("--role", help="the caller's, for its quotas (default: MEMBER)")
        asking.add_argument("--url", help="of the running service (default: http://127.0.0.1:$PORT)")
        asking.add_argument("--json", action="store_true", help="machine-readable")
    simulate = verbs.add_parser("simulate", help="what a log of requests would get")
    simulate.add_argument("log", metavar="TRAFFIC.log", help="CSV with a header or JSON lines; - for standard input")
    simulate.add_argument(
        "--app", metavar="MODULE:ATTRIBUTE", help="an application with b1, or a PolicyTable (default: b1's own table)"
    )
    simulate.add_argument("--top", type=int, default=10, metavar="N", help="callers and refusals shown (default: 10)")
    simulate.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    if arguments.limits_verb == "simulate":
        return _simulate(arguments)
    asked = {name: value for name in _WHOM if (value := getattr(arguments, name)) is not None}
    is_reset = arguments.limits_verb == "reset"
    if is_reset and not asked.keys() & {"actor", "organization", "address", "key"}:
        raise ConfigurationError("nobody was named", remedy="use --actor, --organization, --address, or --key")
    try:
        answer = ask_worker(arguments.url, "DELETE" if is_reset else "GET", PATH, asked, Settings.from_env(os.environ))
    except ConnectionError as failed:
        print(f"b1 limits: {failed}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2) if arguments.json else "\n".join(as_text(answer)))
    return 0


def as_text(answer: dict[str, Any]) -> list[str]:
    """Return the lines of an answer of the worker."""
    if "states" not in answer:
        limiter = answer["limiter"]
        head = (
            f"counted in {limiter['mode']}: {limiter['checks']} checks, {limiter['refusals']} refusals since the start"
        )
        rows = [
            (one["name"], f"{one['quota']}/{one['window_s']} s", one["scope"], _rest(one)) for one in answer["policies"]
        ]
        return [head, *columns(("policy", "quota", "counted per", ""), rows)]
    lines = [", ".join(f"{name} {value}" for name, value in answer["caller"].items())]
    if "given_back" in answer:
        given = [f"{units} of {name}" for name, units in answer["given_back"].items()]
        lines.append(f"given back: {', '.join(given) or 'nothing was spent'}")
    states = [
        (one["policy"], str(one["used"]), str(one["remaining"]), str(one["limit"]), f"{one['reset_s']} s")
        for one in answer["states"]
    ]
    if not states:
        return [*lines, "no policy counts that"]
    return [*lines, *columns(("policy", "used", "remaining", "limit", "reset"), states)]


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with the cells under each other."""
    table = [header, *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _rest(policy: dict[str, Any]) -> str:
    shown = {"name", "quota", "window_s", "scope"}
    return ", ".join(f"{name}={value}" for name, value in policy.items() if name not in shown)


def _simulate(arguments: argparse.Namespace) -> int:
    # The limiter's adapter weighs as much as the framework; `show` and `reset` do without.
    from b1.cli import simulation

    if arguments.top < 1:
        raise ConfigurationError(f"--top is {arguments.top}", remedy="use 1 or more")
    rules = simulation.load_rules(arguments.app)
    if arguments.log == "-":
        report = simulation.simulate(sys.stdin, rules, shown=arguments.top)
    else:
        try:
            with Path(arguments.log).open(encoding="utf-8-sig", errors="replace", newline="") as lines:
                report = simulation.simulate(lines, rules, shown=arguments.top)
        except OSError as failed:
            raise ConfigurationError(f"{arguments.log} cannot be read: {failed.strerror}") from None
    print(json.dumps(report.as_json(), indent=2) if arguments.json else "\n".join(report.as_text()))
    return 0
