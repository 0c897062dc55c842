"""What the reference says of rules is what they do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from b1.asgi.endpoints.caches import CACHE_PATH, CHECK_PATH
from b1.cache.checking import Drift
from b1.cache.intents.options import IntentOptions, IntentsSnapshot
from b1.cache.names import key_tag, organization_tag, prefix_tag
from b1.cli import cache
from b1.purge import PurgeOptions, PurgeSnapshot

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference/invalidation.md").read_text()
GUIDE = (DOCS / "how-to/purge-a-cdn.md").read_text()


def ran(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    exec(block[1], names)  # noqa: S102 - our own page
    return names


def test_the_example_does_what_the_page_says() -> None:
    rules = ran(PAGE)["RULES"]
    renamed = rules.tags_for("entity.updated", {"id": 7, "organization": 3})
    assert set(renamed.hard) == {
        key_tag("cache:entity:7"), key_tag("cache:entity:7", "3"), prefix_tag("report"), prefix_tag("report", "3"),
    }  # fmt: skip
    assert renamed.soft == ("search:3",)
    moved = rules.tags_for("organization.updated", {"organization": 3})
    assert set(moved.hard) == {organization_tag("3"), "contacts:3", "opportunities:3"}
    assert rules.tags_for("person.merged", {"person": 7, "organization": 3}) == renamed


def test_the_guide_s_example_runs() -> None:
    assert "fastly" in repr(ran(GUIDE)["queue"])


def test_every_member_and_option_is_on_the_page() -> None:
    members = [*Drift.__slots__, *IntentsSnapshot.__slots__]
    shown = {"at_s", "took_s"}
    assert [] == [name for name in members if f"`{name}`" not in PAGE and name not in shown]
    options = [name for name in IntentOptions.__slots__ if name not in ("instance", "retry_s")]
    assert [] == [name for name in options if f"`{name}`" not in PAGE]
    counted = [name for name in PurgeSnapshot.__slots__ if name not in ("adapter", "oldest_s")]
    assert [] == [name for name in counted if f"`{name}`" not in GUIDE]
    assert PurgeOptions().queue_limit == 5000


def test_the_command_and_the_endpoints_agree_about_their_paths() -> None:
    assert (cache.CACHE_PATH, cache.CHECK_PATH) == (CACHE_PATH, CHECK_PATH)
    assert CACHE_PATH in PAGE
    assert CHECK_PATH in PAGE
