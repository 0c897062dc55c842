"""Each setting, metric, error code and endpoint has its line in the reference."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import b1
from b1 import errors
from b1.metrics.names import CATALOGUE
from b1.settings import known_names

DOCS = Path(__file__).parents[2] / "docs"


def page(name: str) -> str:
    return (DOCS / "reference" / name).read_text()


def test_every_setting_is_documented() -> None:
    text = page("settings.md")
    assert [] == [name for name in known_names() if f"`{name}`" not in text]


def test_every_metric_is_documented() -> None:
    text = page("metrics.md")
    assert [] == [metric.name for metric in CATALOGUE if f"`{metric.name}`" not in text]


def all_kinds(kind: type[errors.B1Error]) -> list[type[errors.B1Error]]:
    return [kind, *(one for child in kind.__subclasses__() for one in all_kinds(child))]


def test_every_error_code_has_a_section() -> None:
    for found in pkgutil.walk_packages(b1.__path__, "b1."):
        if found.name not in {"b1.__main__", "b1.server.gunicorn"}:
            importlib.import_module(found.name)
    ours = [kind for kind in all_kinds(errors.B1Error)[1:] if kind.__module__.startswith("b1.")]
    text = page("errors.md")
    assert [] == sorted({kind.code for kind in ours if f"`{kind.code}`" not in text})


@pytest.mark.parametrize("link_source", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_links_between_pages_lead_somewhere(link_source: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", link_source.read_text())
    assert [] == [target for target in targets if not (link_source.parent / target).exists()]


def test_no_page_names_a_machine_or_a_registry() -> None:
    words = ("/work/", "/root/", "pypi.org", "files.pythonhosted")
    guilty = [str(path) for path in DOCS.rglob("*.md") if any(word in path.read_text() for word in words)]
    assert [] == guilty
