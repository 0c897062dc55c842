"""`b1 box -- CMD`: run a command inside the limits of a B1, without Docker, and report what it used (Linux).

Its exit status is the command's, 137 when the kernel killed it for memory; the report goes to standard error or a file,
so that standard output stays the command's own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from b1.box import PROFILES, NotStarted, Report, choose_limits, run_in_box
from b1.box.groups import Unavailable
from b1.box.scope import scope_command
from b1.errors import ConfigurationError
from b1.units import parse_bytes

REMEDY = (
    "run it as root where control groups can be written, in a session with systemd "
    "(log in again, or: loginctl enable-linger), or with Docker: docker run --memory 1750m --cpus 1"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``b1 box`` takes."""
    parser.add_argument(
        "--profile",
        choices=sorted(PROFILES),
        default="docker",
        help="docker: 1750 MiB, no swap, 1 cpu; app-service: 640 MiB, 2 GiB swap if there is any (default: docker)",
    )
    parser.add_argument("--memory", type=_size, metavar="SIZE", help="instead of the profile's, such as 512MiB")
    parser.add_argument("--swap", type=_size, metavar="SIZE", help="swap on top of the memory; 0 for none")
    parser.add_argument("--cpus", type=float, metavar="N", help="cores' worth of time, such as 0.5")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report there, as JSON, instead of printing it"
    )
    parser.add_argument("--in-scope", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD …", help="what to run")


def run(arguments: argparse.Namespace) -> int:
    """Run the command in its box and return its exit status."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise ConfigurationError("no command was given", remedy="b1 box -- python -m b1 run")
    if not sys.platform.startswith("linux"):
        raise ConfigurationError(f"{sys.platform} has no control groups", remedy="use Docker or a Linux machine")
    limits = choose_limits(
        arguments.profile,
        machine_swap_bytes=machine_swap_bytes(),
        memory_bytes=arguments.memory,
        swap_bytes=arguments.swap,
        cpus=arguments.cpus,
    )
    try:
        report = run_in_box(command, limits)
    except NotStarted as failed:
        print(f"b1 box: {failed}", file=sys.stderr)
        return failed.exit_status
    except Unavailable as reason:
        if not arguments.in_scope:
            _become_scope(arguments, command)
        raise ConfigurationError(f"no way to limit a command on this machine ({reason})", remedy=REMEDY) from None
    _tell(report, arguments.json)
    return report.exit_status


def machine_swap_bytes(root: Path = Path("/")) -> int:
    """Return how much swap the machine has."""
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "SwapTotal":
            return int(value.split()[0]) * 1024
    return 0


def scope_words(arguments: argparse.Namespace, command: Sequence[str]) -> list[str]:
    """Return this command again, to be run inside a scope."""
    words = [sys.executable, "-m", "b1", "box", "--in-scope", "--profile", arguments.profile]
    for name in ("memory", "swap", "cpus", "json"):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name}", str(value)]
    return [*words, "--", *command]


def _become_scope(arguments: argparse.Namespace, command: Sequence[str]) -> None:
    words = scope_command(scope_words(arguments, command), environ=os.environ, is_root=os.geteuid() == 0)
    if words is not None:
        sys.stderr.flush()
        os.execv(words[0], words)


def _tell(report: Report, file: Path | None) -> None:
    if file is None:
        print(report.as_text(), file=sys.stderr)
    else:
        file.write_text(json.dumps(report.as_json(), indent=2) + "\n")


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
