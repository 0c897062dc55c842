"""What the pages say of the cache is what it does: examples run, tables name every option with its default."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from b1.cache import CacheOptions, CacheSnapshot, LoadOptions
from b1.cache.how import How
from tests.asgi.raw import lifespan

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "reference/cache.md").read_text()
GUIDE = (DOCS / "how-to/cache-a-read.md").read_text()


def names(page: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, made)  # noqa: S102 - our own page
    return made


def rows(heading: str) -> str:
    return REFERENCE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


async def test_the_references_example_runs() -> None:
    assert await names(REFERENCE)["main"]() == {"id": 7, "balanceCents": 1200}


async def test_the_guides_examples_run() -> None:
    made = names(GUIDE)
    async with lifespan(made["app"]):
        cache = made["b1"].cache
        assert [await made["accounts"]() for _ in range(2)] == [[{"number": 1000, "name": "Cash"}]] * 2
        assert [await made["report"](7) for _ in range(2)] == [{"id": 7}] * 2
        assert await made["users"]() == {"user:1": {"id": 1}, "user:2": {"id": 2}}
        assert cache.snapshot().loads == 3


@pytest.mark.parametrize(("options", "heading"), [(LoadOptions(), "LoadOptions"), (CacheOptions(), "CacheOptions")])
def test_every_option_is_in_its_table(options: Any, heading: str) -> None:
    listed = set(
        re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in rows(heading).splitlines() if "|" in line))
    )
    assert listed == {field.name for field in dataclasses.fields(options)}


def test_every_keyword_and_number_is_named() -> None:
    assert all(f"`{name}`" in rows("Verbs") for name in How.__annotations__)
    missing = [field.name for field in dataclasses.fields(CacheSnapshot) if f"`{field.name}`" not in rows("Numbers")]
    assert missing == ["enabled"]
