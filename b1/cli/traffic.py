"""Reads a log of requests, as CSV with a header line or as one JSON object per line: who asked for what, and when.

Only the time is needed. Logs come from many programs, so each field has a few names, and a line that cannot be read is
counted and skipped instead of ending the run.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from b1.errors import ConfigurationError

FIELDS: Mapping[str, tuple[str, ...]] = {
    "time": ("time", "timestamp", "ts", "at"),
    "address": ("address", "ip", "client", "client_ip", "remote_addr"),
    "actor": ("actor", "user", "sub"),
    "organization": ("organization", "organisation", "org", "tenant"),
    "tier": ("tier", "plan"),
    "role": ("role",),
    "method": ("method", "verb"),
    "path": ("path", "url", "route"),
    "policies": ("policies", "policy", "class"),
    "cost": ("cost",),
}
_MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138
_COST_DIGITS = 9
_LEAST_S, _MOST_S = 0.0, 1e11
_NOTHING = frozenset({"", "-", "null", "None"})


class Request(NamedTuple):
    """One line. `policies`: of the log's own, instead of those of the route."""

    at_s: float
    address: str = "unknown"
    actor: str | None = None
    organization: str | None = None
    tier: str = "free"
    role: str = "MEMBER"
    method: str = "GET"
    path: str = "/"
    policies: tuple[str, ...] | None = None
    cost: int = 1


class Unreadable(ValueError):
    """A line is no request; the message says why."""


def read(lines: Iterable[str]) -> Iterator[tuple[int, Request | Unreadable]]:
    """Yield line numbers with what they say.

    Raises:
        ConfigurationError: the log is empty, or its first line is neither a JSON object nor a header with a time.
    """
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        raise ConfigurationError("the log is empty", remedy="give CSV with a header line, or JSON lines")
    if first[1].lstrip().startswith("{"):
        for number, line in itertools.chain([first], numbered):
            yield number, _tried(_json_of, line)
        return
    names = [name.strip().lower() for name in next(csv.reader([first[1]]))]
    if not set(names) & set(FIELDS["time"]):
        raise ConfigurationError(
            f"the first line is {first[1].strip()[:80]!r}",
            remedy=f"begin with a header such as {','.join(FIELDS)}; time is needed",
        )
    for number, line in numbered:
        yield number, _tried(lambda line: dict(zip(names, next(csv.reader([line])), strict=False)), line)


def request_of(row: Mapping[str, Any]) -> Request:
    """Return what one row says.

    Raises:
        Unreadable: without a time, or with a value that is none.
    """
    found = {field: value for field, aliases in FIELDS.items() if (value := _first(row, aliases)) is not None}
    if "time" not in found:
        raise Unreadable("no time")
    at_s = _seconds(found.pop("time"))
    given: dict[str, Any] = {name: str(value) for name, value in found.items()}
    if "cost" in given:
        given["cost"] = _cost(given["cost"])
    if "method" in given:
        given["method"] = given["method"].upper()
    if "path" in given:
        given["path"] = given["path"].partition("?")[0]
    if "policies" in given:
        given["policies"] = tuple(given["policies"].replace("+", " ").replace(";", " ").replace(",", " ").split())
    return Request(at_s, **given)


def _tried(parse: Any, line: str) -> Request | Unreadable:
    try:
        return request_of(parse(line))
    except Unreadable as unreadable:
        return unreadable
    except (csv.Error, ValueError) as wrong:
        return Unreadable(str(wrong))


def _json_of(line: str) -> Mapping[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise Unreadable("no JSON object")
    return {str(name).lower(): one for name, one in value.items()}


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    for name in names:
        value = row.get(name)
        if value is not None and str(value).strip() not in _NOTHING:
            return value.strip() if isinstance(value, str) else value
    return None


def _seconds(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise Unreadable(f"{str(value)[:40]!r} is no time") from None
        number = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    if math.isfinite(number) and number >= _MILLISECONDS_FROM:
        number /= 1000
    if not (math.isfinite(number) and _LEAST_S <= number < _MOST_S):
        raise Unreadable(f"{str(value)[:40]!r} is no time")
    return number


def _cost(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _COST_DIGITS):
        raise Unreadable(f"cost {text[:20]!r} is no whole number of up to {_COST_DIGITS} digits")
    return int(text)
