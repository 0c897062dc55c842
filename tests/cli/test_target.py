"""What an APP argument names, found without importing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from b1.cli.target import find_target
from b1.errors import ConfigurationError

POISON = "raise SystemExit('this must not be imported')"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("plain_one.py", "shop/__init__.py", "shop/web/__init__.py", "shop/web/main.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(POISON)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "module_file", "package", "top"),
    [
        ("plain_one:app", "plain_one.py", "plain_one", "."),
        ("shop:app", "shop/__init__.py", "shop", "shop"),
        ("shop.web:make.app", "shop/web/__init__.py", "shop", "shop"),
        ("shop.web.main:app", "shop/web/main.py", "shop.web", "shop"),
    ],
)
def test_an_app_is_found_in_the_current_folder(
    folder: Path, name: str, module_file: str, package: str, top: str
) -> None:
    found = find_target(name)
    assert (found.module_file, found.package, found.top_folder) == (folder / module_file, package, (folder / top))
    assert found.migrations == (folder / module_file).parent / "migrations"
    assert "shop" not in sys.modules


@pytest.mark.parametrize("name", ["app", "app.main", "app/main.py:app", ":app", "app:", "a b:app", "app.main:app()"])
def test_what_is_not_module_and_attribute_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="module:attribute"):
        find_target(name)


@pytest.mark.parametrize("name", ["absent_one:app", "shop.absent:app", "plain_one.inner:app"])
def test_a_module_that_does_not_exist_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="no module"):
        find_target(name)
