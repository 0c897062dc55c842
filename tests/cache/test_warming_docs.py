"""What the reference says of warming is what it does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from b1.cache.warming import WarmingOptions, WarmingSnapshot, Warmups

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference/warming.md").read_text()
GUIDE = (DOCS / "how-to/warm-the-cache.md").read_text()


def test_the_example_declares_what_the_page_says() -> None:
    names: dict[str, Any] = {}
    block = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    exec(block[1], names)  # noqa: S102 - our own page
    warming: Warmups = names["warming"]
    assert "<Warmups critical=1 principal=2 namespaces=['report']>" == repr(warming)


def test_every_member_and_option_is_on_the_page() -> None:
    members = [*WarmingSnapshot.__slots__, *WarmingOptions.__slots__]
    assert [] == [name for name in members if f"`{name}`" not in PAGE]
    verbs = [name for name in vars(Warmups) if not name.startswith("_")]
    assert [] == [name for name in verbs if not re.search(rf"[`.]{name}\(", PAGE)]


def test_the_defaults_are_those_of_the_page() -> None:
    defaults = WarmingOptions()
    options = PAGE.split("## `WarmingOptions`")[1].split("## ")[0]
    for line in re.findall(r"^\| (`\w+`(?: · `\w+`)*) \| ([^|]+) \|", options, re.MULTILINE):
        for name, value in zip(re.findall(r"\w+", line[0]), line[1].split("·"), strict=False):
            if hasattr(defaults, name):
                shown = value.strip()
                expected = float(shown.split()[0]) * (1024 if shown.endswith("KiB") else 1)
                assert (name, expected) == (name, getattr(defaults, name))


def test_the_guide_s_declarations_are_taken() -> None:
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)), names)  # noqa: S102 - our own page
    assert "<Warmups critical=1 principal=2 namespaces=['report']>" == repr(names["b1"].warming)
