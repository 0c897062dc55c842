"""What is left of a server at five times its capacity, are its probes answered, and how soon is it itself again?

``python benchmarks/overload.py [--only CELL…] [--rounds N] [--plot FILE.svg] [--json FILE]``; a cell is
``CONTENDER:GROUP:MULTIPLE`` or the beginning of one (``--list`` shows all). The load is open: arrivals are fixed
beforehand (Poisson), a client waits one second from the intended time and hangs up. Each server has one core for all its
processes; the load and the probes are other processes on the other cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from measuring.processes import Cores
from measuring.table import machine, print_table
from overloading.cells import IDLE, SLOW_BODIES, SLOW_HEADS, Cell, capacity, measure, measure_beside_slow_clients
from overloading.figures import Figures, middle
from overloading.plot import write_plot
from overloading.servers import Contender, Server, contenders, of_this_environment, running

from b1.embedded.postgres import EmbeddedPostgres

ALL_MULTIPLES = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
TELLING = 3  # rounds
PEERS = ("uvicorn", "uvicorn-limited", "gunicorn", "granian")
TITLES = {
    "fresh/cpu": "A route that computes 10 ms, a new connection for each request",
    "kept/cpu": "The same route, kept connections",
    "fresh/wait": "A route that waits 20 ms for one of three connections",
    "fresh/query": "A route that asks Postgres for something that takes 20 ms, three connections",
    "fresh/mixed": "A route that computes 3 ms, waits as above, computes 3 ms",
    "storm/cpu": "A retry storm: whoever is refused or not answered comes back at once, three times",
    "slow/cpu": f"Beside {IDLE} idle connections and {SLOW_HEADS + SLOW_BODIES} slow clients",
    "slow/wait": f"The waiting route beside {IDLE} idle connections and {SLOW_HEADS + SLOW_BODIES} slow clients",
}


def all_cells() -> Iterator[Cell]:
    """Yield what a full run measures, in the order of the tables: the cells that tell, under 20 minutes."""
    for multiple in ALL_MULTIPLES:
        for contender in ("b1", "uvicorn"):
            is_telling = contender == "b1" and multiple >= 2.0
            yield Cell(contender, "/cpu", multiple, rounds=TELLING if is_telling else 1)
    for contender in PEERS[1:]:
        yield from (Cell(contender, "/cpu", multiple) for multiple in (1.0, 3.0, 5.0))
    for route, is_fresh in (("/cpu", False), ("/wait", True), ("/mixed", True)):
        for contender in ("b1", *PEERS):
            for multiple in (3.0, 5.0) if contender in ("b1", "uvicorn") else (5.0,):
                yield Cell(contender, route, multiple, is_fresh=is_fresh)
    for contender in ("b1-db", "asyncpg"):
        yield from (Cell(contender, "/query", multiple) for multiple in (1.0, 3.0, 5.0))
    for contender in ("b1", "uvicorn", "granian"):
        yield from (Cell(contender, "/cpu", multiple, is_storm=True) for multiple in (2.0, 3.0))
    for contender, route, multiple in (
        ("b1", "/cpu", 1.0),
        ("b1", "/cpu", 3.0),
        ("b1", "/wait", 3.0),
        ("uvicorn", "/cpu", 3.0),
    ):
        yield Cell(contender, route, multiple, has_slow=True)


@dataclass(slots=True)
class Results:
    """What was measured, by contender and route, and by cell."""

    capacities: dict[tuple[str, str], float] = field(default_factory=dict)
    rounds: dict[Cell, list[Figures]] = field(default_factory=dict)
    beside: dict[Cell, Figures] = field(default_factory=dict)  # of cells with slow clients: the same without them
    fates: dict[Cell, dict[str, Any]] = field(default_factory=dict)

    def peak(self, contender: str, group: str) -> float:
        """Return the best goodput of a contender in a group."""
        return max(
            middle(rounds).good
            for cell, rounds in self.rounds.items()
            if (cell.contender, cell.group) == (contender, group)
        )


def measure_all(cells: Sequence[Cell], by_key: dict[str, Contender], cores: Cores, database_url: str) -> Results:
    """Measure cell by cell, one running server at a time."""
    results = Results()
    for key in dict.fromkeys(cell.contender for cell in cells):
        mine = [cell for cell in cells if cell.contender == key]
        plain = [cell for cell in mine if not cell.has_slow]
        with running(by_key[key], cores, database_url) as server:
            for route in dict.fromkeys(cell.route for cell in mine):
                results.capacities[key, route] = capacity(server, route)
            if by_key[key].is_ours:  # one worker for all: whatever a burst leaves behind is in the next one's figures
                for cell in plain:
                    results.rounds[cell] = [_round(server, cell, results, number) for number in range(cell.rounds)]
        for cell in plain if not by_key[key].is_ours else ():  # a peer may need half a minute to be itself again
            with running(by_key[key], cores, database_url) as server:
                results.rounds[cell] = [_round(server, cell, results, number) for number in range(cell.rounds)]
        for _, of_group in groupby((cell for cell in mine if cell.has_slow), lambda cell: cell.group):
            with running(by_key[key], cores) as server:
                _beside_slow_clients(server, list(of_group), results)
    return results


def _round(server: Server, cell: Cell, results: Results, number: int) -> Figures:
    print(f"{cell.name}, round {number + 1}", file=sys.stderr)
    return measure(server, cell, results.capacities[cell.contender, cell.route], seed=number + 1)


def _beside_slow_clients(server: Server, cells: Sequence[Cell], results: Results) -> None:
    """Measure each cell without and then with the slow clients, on one server."""
    capacity(server, cells[0].route)  # warms up
    for cell in cells:
        results.beside[cell] = _round(server, replace(cell, has_slow=False), results, 0)
        print(f"{cell.name}, beside slow clients", file=sys.stderr)
        capacity_per_s = results.capacities[cell.contender, cell.route]
        seen, fate = measure_beside_slow_clients(server, cell, capacity_per_s, seed=1)
        results.rounds[cell] = [seen]
        results.fates[cell] = {**fate, "b1's reasons so far": dict(_reasons(server))}


def _reasons(server: Server) -> Iterator[tuple[str, int]]:
    """Read b1's own count of connections that it ended, by reason."""
    import urllib.request

    if not server.contender.is_ours:
        return
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    for reason, count in re.findall(r'^b1_protocol_refusals_total\{reason="(\w+)"\} (\d+)', text, re.MULTILINE):
        yield reason, int(count)


def print_results(results: Results, names: dict[str, str]) -> None:
    """Print a table per group."""
    for group in TITLES:
        cells = [cell for cell in results.rounds if cell.group == group]
        if not cells:
            continue
        print(f"### {TITLES[group]}\n")
        header = [
            "contender",
            "×",
            "offered/s",
            "good/s",
            "of its peak",
            "refused/s",
            "no answer/s",
            "p50 ms",
            "p99 ms",
        ]
        header += ["probes ≤ 50 ms", "slowest ms", "normal after s", "longest gap ms", "core, robbed"]
        rows = []
        for cell in cells:
            if cell in results.beside:
                rows.append(_row(cell, f"{names[cell.contender]}, alone", results.beside[cell], results))
            rows.append(_row(cell, names[cell.contender], middle(results.rounds[cell]), results))
        print_table(header, rows)
        for cell in cells:
            if cell in results.fates:
                fate = json.dumps(results.fates[cell])
                print(f"{names[cell.contender]} at {cell.multiple:g} ×, what became of the slow clients: `{fate}`\n")
    late_ms = max((one.late_ms for rounds in results.rounds.values() for one in rounds), default=0.0)
    capacities = ", ".join(f"{names[key]} {route} {rate:.0f}" for (key, route), rate in results.capacities.items())
    print(f"Capacities, closed loop, per second: {capacities}.")
    print("*core, robbed*: for how much of the burst the server ran, and for how much others had its core.")
    print(f"The load was at most {late_ms:.0f} ms late, which counts against the servers.\n")


def _row(cell: Cell, name: str, seen: Figures, results: Results) -> list[str]:
    peak = results.peak(cell.contender, cell.group)
    return [
        name,
        f"{cell.multiple:g}",
        f"{seen.offered:.0f}",
        f"{seen.good:.0f}",
        f"{seen.good / peak:.0%}" if peak else "-",
        f"{seen.refused:.0f}",
        f"{seen.timeouts + seen.errors:.0f}",
        _number(seen.p50_ms, 0),
        _number(seen.p99_ms, 0),
        f"{seen.probes_ok:.0f} of {seen.probes_asked:.0f}",
        _number(seen.probe_max_ms, 0),
        _number(seen.recovery_s, 1) if seen.recovery_s is not None else "not in time",
        f"{seen.gap_ms:.0f}",
        f"{seen.ran:.0%}, {seen.robbed:.0%}",
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def plot(results: Results, names: dict[str, str], path: Path) -> None:
    """Draw the computing route on new connections."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for cell, rounds in results.rounds.items():
        if cell.group == "fresh/cpu":
            lines.setdefault(names[cell.contender], []).append((cell.multiple, middle(rounds).good))
    capacity_per_s = results.capacities.get(("b1", "/cpu"), 0.0)
    write_plot(lines, capacity_per_s, path, "What each server still does under overload: a 10 ms handler on one core")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="CELL", help="beginnings of cells; --list shows them")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--rounds", type=int, help="of every cell; default: 3 of the telling ones, 1 of the others")
    parser.add_argument("--plot", type=Path, help="write the plot there")
    parser.add_argument("--json", type=Path, help="write all figures there")
    arguments = parser.parse_args()
    cells = [cell for cell in all_cells() if not arguments.only or cell.name.startswith(tuple(arguments.only))]
    if arguments.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    if sys.platform != "linux":
        print("Not measured: this benchmark reads what only Linux tells.")
        return 0
    if arguments.rounds:
        cells = [replace(cell, rounds=arguments.rounds) for cell in cells]
    cores = Cores.of_this_process()
    by_key = _contenders(cells)
    print(machine() + "\n")
    os.sched_setaffinity(0, cores.load)
    cells = [cell for cell in cells if cell.contender in by_key]
    with _postgres(is_needed=any(by_key[cell.contender].needs_postgres for cell in cells)) as database_url:
        results = measure_all(cells, by_key, cores, database_url)
    names = {key: one.name for key, one in by_key.items()}
    print_results(results, names)
    print(f"Load average after the run {os.getloadavg()[0]:.1f}. Medians where there were several rounds.")
    if arguments.plot is not None:
        plot(results, names, arguments.plot)
    if arguments.json is not None:
        rounds = {cell.name: [asdict(one) for one in rounds] for cell, rounds in results.rounds.items()}
        arguments.json.write_text(json.dumps(rounds, indent=1) + "\n")
    return 0


@contextmanager
def _postgres(*, is_needed: bool) -> Iterator[str]:
    """Run a Postgres on the load's cores and yield its URL."""
    if not is_needed:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="b1-bench-") as folder:
        server = EmbeddedPostgres(Path(folder), say=lambda _: None)
        try:
            yield server.start()
        finally:
            server.stop()


def _contenders(cells: Sequence[Cell]) -> dict[str, Contender]:
    without_peers = {one.key: one for one in of_this_environment()}
    if all(cell.contender in without_peers for cell in cells):
        return without_peers
    try:
        return contenders()
    except CalledProcessError:
        print("The peers could not be installed and are not in the tables.\n")
        return without_peers


if __name__ == "__main__":
    sys.exit(main())
