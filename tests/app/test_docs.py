"""The reference page and the application name the same routes, codes and people."""

from __future__ import annotations

import re
from pathlib import Path

import app
from app import errors
from app.main import app as pantry
from b1 import RequestError
from tests.app.conftest import MIGRATIONS

PAGE = (Path(app.__file__).parents[1] / "docs" / "reference" / "app.md").read_text()


def test_the_page_lists_every_route_and_no_other() -> None:
    documented = set(re.findall(r"^\| `([A-Z]+) (/[^`?]*)", PAGE, re.MULTILINE))

    assert documented == {
        (method.upper(), path) for path, methods in pantry.openapi()["paths"].items() for method in methods
    }


def test_the_page_lists_every_code_of_pantry_with_its_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d{3}) \|", PAGE, re.MULTILINE))

    assert documented == {kind.code: str(kind.status) for kind in kinds if issubclass(kind, RequestError)}


def test_the_demos_note_names_everybody_whom_the_demo_seeds() -> None:
    note, seed = ((MIGRATIONS / name).read_text() for name in ("demo.txt", "demo.sql"))
    addresses = re.compile(r"\w+@example\.com")

    assert set(addresses.findall(note)) == set(addresses.findall(seed))
