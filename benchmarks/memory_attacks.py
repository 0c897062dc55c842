"""Does a server survive attacks on its memory, and do innocent requests notice?

Each contender runs in `b1 box`, the profile's memory and one core, and is attacked in six ways for 22 s each, with light
innocent traffic beside it: four kept connections (20 requests a second), a new one every second, and the probes.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from subprocess import CalledProcessError

from attacks.catalog import ATTACKS, PROFILES, TABLE_PROFILES, title_of
from attacks.cell import CONTENDERS, MIB, Asked, Cell, run_cell
from attacks.census import counted_stores
from attacks.plot import write_plot
from measuring.peers_venv import peers_python
from measuring.table import machine, print_table

HEADER = (
    "attack", "OOM kills", "innocent requests lost or failed", "refused", "workers", "peak MiB", "at the end MiB",
    "level, webhook",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one cell, or a column of them: attack,profile,contender; empty words for all")
    parser.add_argument("--plot", type=Path, help="write the plot of b1's first cell there")
    parser.add_argument("--json", type=Path, help="write every cell there")
    parser.add_argument("--stores", action="store_true", help="b1 alone, with a Postgres and a Redis that are counted")
    parser.add_argument("--no-peers", action="store_true", help="run without the peers, which need a network once")
    parser.add_argument("--log", action="store_true", help="print the servers' logs to standard error")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("Not measured: control groups are Linux's.")
        return 0
    print(machine() + "\n")
    cells = []
    with_peers = not arguments.no_peers and not arguments.stores and _have_peers()
    with counted_stores() if arguments.stores else nullcontext() as census:
        for asked in chosen(arguments.only or "", with_peers=with_peers):
            print(f"{asked.attack} in {asked.profile}: {asked.contender}", file=sys.stderr)
            try:
                cell = run_cell(asked, census.environment if census is not None else None)
            except RuntimeError as error:
                print(f"  did not run: {error}", file=sys.stderr)
                continue
            tell(cell, with_log=arguments.log)
            cells.append(cell)
    print_cells(cells)
    if census is not None:
        print(f"Connections, counted at the servers every 20 ms: {census}.\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([cell.as_json() for cell in cells], indent=2) + "\n")
    first = next((cell for cell in cells if cell.asked.contender == "b1"), None)
    if arguments.plot is not None and first is not None:
        title = title_of(ATTACKS[first.asked.attack], first.asked.profile)
        write_plot(first, arguments.plot, f"b1: {title}, in b1 box --profile {first.asked.profile}")
    return 0 if cells else 1


def chosen(only: str, *, with_peers: bool) -> list[Asked]:
    """Return the cells that `only` names; contenders of one attack one after the other.

    Raises:
        SystemExit: there is none.
    """
    words = [*only.split(","), "", "", ""][:3]
    contenders = CONTENDERS if with_peers else CONTENDERS[:1]
    profiles = [words[1]] if words[1] in PROFILES else TABLE_PROFILES
    found = [Asked(*names) for names in product(ATTACKS, profiles, contenders)]
    matching = [
        asked for asked in found if all(word in ("", name) for word, name in zip(words, asked.names, strict=True))
    ]
    if not matching:
        raise SystemExit(f"no cell is called {only!r}")
    return matching


def print_cells(cells: list[Cell]) -> None:
    """Print a table for each box, contenders side by side."""
    for profile in PROFILES:
        rows = []
        for attack in ATTACKS.values():
            pair = [one for one in cells if (one.asked.attack, one.asked.profile) == (attack.name, profile)]
            if pair:
                rows.append(_row(title_of(attack, profile), pair))
        if rows:
            contenders = " · ".join(dict.fromkeys(cell.asked.contender for cell in cells))
            print(f"`b1 box --profile {profile}`, {contenders}:\n")
            print_table(HEADER, rows)


def _row(title: str, pair: list[Cell]) -> tuple[str, ...]:
    b1 = next((cell for cell in pair if cell.asked.contender == "b1"), None)
    said = "" if b1 is None else f"{b1.story.highest()} → {b1.story.level}, {_webhook(b1)}"
    columns = (
        [str(cell.oom_kills) for cell in pair],
        [f"{len(cell.seen.bad())} of {len(cell.seen.notes)}" for cell in pair],
        [_refused(cell) for cell in pair],
        [str(cell.workers) for cell in pair],
        [f"{cell.peak_bytes / MIB:.0f}" for cell in pair],
        [f"{cell.end_bytes / MIB:.0f}" for cell in pair],
    )
    return (title, *(" · ".join(column) for column in columns), said)


def _refused(cell: Cell) -> str:
    refused = cell.seen.count("refused")
    return f"{refused} ({cell.refused_in_vain} not allowed)" if cell.refused_in_vain else str(refused)


def _webhook(cell: Cell) -> str:
    if cell.broken:
        return "webhook: " + "; ".join(cell.broken)
    return f"{len(cell.receiver.messages) if cell.receiver else 0} messages as promised"


def tell(cell: Cell, *, with_log: bool) -> None:
    """Print everything about a cell to standard error."""
    story = cell.story
    lines = [
        f"  {'kept' if cell.is_kept else 'NOT kept'}; attacker: {dict(cell.answers)}",
        f"  innocent: {len(cell.seen.notes)}, not well: {dict(cell.seen.details().most_common(8))}; "
        f"longest {cell.seen.longest_s():.2f} s",
        f"  oom kills {cell.oom_kills}, peak {cell.peak_bytes / MIB:.0f} MiB "
        f"(working set {cell.peak_working_set_bytes / MIB:.0f}), end {cell.end_bytes / MIB:.0f}, workers {cell.workers}",
    ]
    if cell.receiver is not None:
        steps = [f"{step.at_s - cell.begun_s:.1f} {step.level} {step.used_bytes / MIB:.0f}" for step in story.steps]
        replaced = [round(at_s - cell.begun_s, 1) for at_s in story.replaced_s]
        told = [f"{one.at_s - cell.begun_s:.1f} {one.name} {one.status}" for one in cell.receiver.messages.values()]
        lines += [
            f"  levels {steps}",
            f"  reclaims {story.reclaims}",
            f"  replaced {replaced}, tripped {story.is_tripped}",
        ]
        lines += [f"  webhook {told}, broken {cell.broken}", f"  errors {story.errors[:6]}"]
    moments = [f"{note.at_s - cell.begun_s:.1f} {note.outcome}" for note in cell.seen.notes if note.outcome != "ok"]
    lines.append(f"  moments {moments[:12]}")
    if with_log:
        lines.append(cell.log)
    print("\n".join(lines), file=sys.stderr)


def _have_peers() -> bool:
    try:
        peers_python()
    except CalledProcessError:
        print("The peers could not be installed and are not in the table.\n")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
