"""What `b1 dev` says when the application is ready: where it is, how to get in, and the budget it lives in."""

from __future__ import annotations

from collections.abc import Iterator

from b1.cli.target import Target
from b1.host import read_host
from b1.plan import make_plan
from b1.settings import Settings
from b1.units import format_bytes

# Beside the seed: what a person has to know about the demo, printed word for word after it was seeded.
DEMO_NOTE = "demo.txt"


def greeting(settings: Settings, target: Target, *, address: str, postgres: str) -> str:
    """Return the lines to print once `/ready` says yes.

    Args:
        address: the URL that a browser on this machine uses.
        postgres: in words, which Postgres it is.
    """
    rows = [("ready", address), *_links(settings, address), *_budget(settings, postgres)]
    lines = [f"  {label:<10} {text}" for label, text in rows]
    return "\n".join(["", *lines, *_demo(settings, target), "  Ctrl-C stops everything", ""])


def _links(settings: Settings, address: str) -> Iterator[tuple[str, str]]:
    if settings.enable_api_docs:
        yield "docs", f"{address}/api-docs"
    if settings.enable_dashboard:
        yield "dashboard", f"{address}/dashboard"
    if settings.admin_token is not None and not settings.is_production:
        yield "admin", f"token {settings.admin_token.reveal()}"


def _budget(settings: Settings, postgres: str) -> Iterator[tuple[str, str]]:
    plan = make_plan(read_host({}), settings)
    redis = "REDIS_URL" if settings.redis_url is not None else "unused: the state lives in memory"
    yield "budget", f"{plan.db_connections} Postgres connections ({postgres})"
    yield "", f"{plan.redis_connections} Redis connections ({redis})"
    yield "", f"{format_bytes(plan.memory_limit_bytes)} memory ({plan.reasons['memory_limit_bytes']})"


def _demo(settings: Settings, target: Target) -> list[str]:
    note = target.migrations / DEMO_NOTE
    if not settings.demo or not note.exists():
        return []
    lines = note.read_text(encoding="utf-8").splitlines()
    return [f"  {label:<10} {line}".rstrip() for label, line in zip(["demo"] + [""] * len(lines), lines, strict=False)]
