"""What an APP argument means: `module:attribute`, found in the folder where the command is given, never imported here.

The supervisor and the migrations need the application's folder, and importing an application costs 60 MiB and may have
effects.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from b1.errors import ConfigurationError

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class Target:
    """An application by name.

    Attributes:
        name: ``module:attribute``.
        module_file: the file of the module.
    """

    name: str
    module_file: Path

    @property
    def folder(self) -> Path:
        """Where the module's own files are: its migrations, and what to watch."""
        return self.module_file.parent

    @property
    def top_folder(self) -> Path:
        """The folder of the outermost package; that of the module when it is in none."""
        depth = self.name.partition(":")[0].count(".")
        is_package = self.module_file.name == "__init__.py"
        return self.module_file.parents[max(0, depth if is_package else depth - 1)]

    @property
    def migrations(self) -> Path:
        return self.folder / "migrations"

    @property
    def package(self) -> str:
        """The name under which its migrations are recorded: the module's package, or the module itself."""
        module = self.name.partition(":")[0]
        return module.rpartition(".")[0] or module


def add_app_argument(parser: ArgumentParser) -> None:
    """Declare APP; its default comes from the settings."""
    parser.add_argument("app", metavar="APP", nargs="?", help="module:attribute (default: B1_APP, else app.main:app)")


def find_target(name: str, *, path: Sequence[str] | None = None) -> Target:
    """Return where the module of `name` lies, without importing anything of it.

    Args:
        path: folders to look in; the current one and `sys.path` when it is None.

    Raises:
        ConfigurationError: not of the form, or no such module.
    """
    if not _FORM.fullmatch(name):
        raise ConfigurationError(f"APP {name!r} is not of the form module:attribute", remedy="such as app.main:app")
    module = name.partition(":")[0]
    places: Sequence[str] = [os.getcwd(), *sys.path] if path is None else path
    spec = None
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:number]), places)
        if spec is None:
            break
        places = list(spec.submodule_search_locations or ())
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"no module {module!r} for APP {name!r}", remedy="give the command in the folder that holds the module"
        )
    return Target(name, Path(spec.origin))
