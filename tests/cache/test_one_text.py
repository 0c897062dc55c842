"""One text where several names are meant is refused: taken letter by letter it would invalidate, or tag, something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from b1 import B1, Rule, Rules
from b1.asgi.caching.options import ResponseCacheOptions
from b1.asgi.caching.plan import RoutePlan
from b1.asgi.options import CacheOptions
from b1.asgi.routes import Route
from b1.cache.names import tags_of, tags_to_invalidate
from b1.cache.reading.many import distinct
from b1.cache.warming.declared import entry_names
from b1.errors import ConfigurationError


@pytest.mark.parametrize(
    "call",
    [
        lambda: tags_of("a:1", "ledger"),
        lambda: tags_to_invalidate("ledger"),
        lambda: tags_to_invalidate(keys="ledger:1"),
        lambda: tags_to_invalidate(prefixes="ledger"),
        lambda: distinct("ledger"),
        lambda: entry_names("menu:1"),
    ],
)
def test_the_data_cache_refuses_it(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="expected several names"):
        call()


@pytest.mark.parametrize("name", ["tags", "query", "vary_headers", "pass_headers"])
def test_a_route_that_declares_it_is_refused(name: str) -> None:
    options: dict[str, Any] = {name: "ledger"}
    with pytest.raises(ConfigurationError, match=f"{name} is the text 'ledger'"):
        B1().cached(ttl_s=60, **options)


@pytest.mark.parametrize("name", ["keys", "tags", "then"])
def test_a_rule_that_declares_it_is_refused(name: str) -> None:
    options: dict[str, Any] = {name: "ledger"}
    with pytest.raises(ConfigurationError, match=f"{name} of the rule of entity.updated is the text"):
        Rules(Rule("entity.updated", **options))


@pytest.mark.parametrize("tag", ["", "*", "x:{", "x" * 300])
def test_a_tag_that_is_none_stops_the_start(tag: str) -> None:
    with pytest.raises(ConfigurationError, match="of /items is none"):
        RoutePlan(Route("/items"), CacheOptions(ttl_s=60, tags=(tag,)), ResponseCacheOptions())
