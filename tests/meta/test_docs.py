"""Each setting, metric, error code and endpoint has its line in the reference."""

import re
from pathlib import Path

import pytest

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


def all_codes(kind: type[errors.B1Error]) -> set[str]:
    return {kind.code}.union(*(all_codes(child) for child in kind.__subclasses__()))


def test_every_error_code_has_a_section() -> None:
    text = page("errors.md")
    shipped = all_codes(errors.B1Error) - {"B1_ERROR"}
    assert [] == sorted(code for code in shipped if f"`{code}`" not in text)


@pytest.mark.parametrize("link_source", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_links_between_pages_lead_somewhere(link_source: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", link_source.read_text())
    assert [] == [target for target in targets if not (link_source.parent / target).exists()]


def test_no_page_names_a_machine_or_a_registry() -> None:
    words = ("/work/", "/root/", "pypi.org", "files.pythonhosted")
    guilty = [str(path) for path in DOCS.rglob("*.md") if any(word in path.read_text() for word in words)]
    assert [] == guilty
