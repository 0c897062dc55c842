"""The tree of commands: finds the verb, imports its module alone, and turns a wrong configuration into exit code 2."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from b1.errors import ConfigurationError

VERBS = {
    "run": "start the application for production: gunicorn with the profile, one worker",
    "dev": "start it for development: private Postgres, demo data, restart on change",
    "box": "run a command inside the memory and CPU limits of a B1, without Docker",
    "plan": "print every derived number with its reason",
    "limits": "show or reset a caller's limits, or simulate what a traffic log would get",
    "cache": "inspect, invalidate or check what is cached",
    "migrate": "bring the database's schema up to date",
}
EXIT_CONFIGURATION = 2
EXIT_INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 asked for wrongly."""
    given = list(sys.argv[1:] if words is None else words)
    # Only the named verb's arguments are declared, because declaring them imports its module.
    parser = _parser(given[0] if given and given[0] in VERBS else None)
    arguments = parser.parse_args(given)
    try:
        return int(arguments.run(arguments))
    except ConfigurationError as wrong:
        print(f"b1 {given[0]}: {wrong}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser(verb: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="b1", description="Keep a FastAPI service alive, fast and honest on one core and 1.75 GB."
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, sentence in VERBS.items():
        command = commands.add_parser(name, help=sentence, description=sentence[0].upper() + sentence[1:] + ".")
        if name == verb:
            module = importlib.import_module(f"b1.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _version() -> str:
    from b1 import __version__

    return f"b1 {__version__}"
