"""``b1 cache inspect|invalidate|check``: what is known of a key or tag, making things stale, and holding copies together.

All of it goes through the running worker: only it has this host's first copies, and its connection to Redis is the host's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from b1.cli.worker import ask_worker
from b1.errors import ConfigurationError
from b1.settings import Settings

CACHE_PATH = "/internal/cache"
CHECK_PATH = "/internal/cache-check"
# A check takes half a minute at most.
CHECK_PATIENCE_S = 40.0
EXIT_DRIFT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``b1 cache`` takes."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="cache_verb", required=True)
    inspect = verbs.add_parser("inspect", help="what is cached under a key, and how often a tag was invalidated")
    inspect.add_argument("name", metavar="KEY|TAG")
    inspect.add_argument("--organization", help="whose key it is")
    stale = verbs.add_parser("invalidate", help="make entries stale, in every process and at the CDN")
    stale.add_argument("--key", action="append", metavar="KEY", help="this key; may be repeated")
    stale.add_argument("--tag", action="append", metavar="TAG", help="all that carries this tag; may be repeated")
    stale.add_argument("--prefix", action="append", metavar="PREFIX", help="all keys that begin so, up to a colon")
    stale.add_argument("--organization", help="whose keys and prefixes these are; alone: all that it has")
    stale.add_argument("--all", action="store_true", help="everything")
    stale.add_argument("--soft", action="store_true", help="it may be served as stale while it is loaded anew")
    check = verbs.add_parser("check", help="hold a sample of this host's copies against Redis and the source")
    check.add_argument("--sample", type=int, metavar="N", help="entries (default: 100)")
    check.add_argument("--last", action="store_true", help="show the last report instead of making one")
    for verb in (inspect, stale, check):
        verb.add_argument("--url", help="of the running service (default: http://127.0.0.1:$PORT)")
        verb.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says; 3: the check found something."""
    try:
        answer = _VERBS[arguments.cache_verb](arguments, Settings.from_env(os.environ))
    except ConnectionError as failed:
        print(f"b1 cache: {failed}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2) if arguments.json else "\n".join(as_text(answer)))
    return EXIT_DRIFT if "check" in answer and not (answer["check"] or {"is_clean": True})["is_clean"] else 0


def as_text(answer: dict[str, Any]) -> list[str]:
    """Return the lines of an answer of the worker."""
    if "check" in answer:
        return _check_as_text(answer["check"])
    if "invalidated" in answer:
        return _invalidated_as_text(answer)
    return [*_entry_as_text(answer["key"]), *_tag_as_text(answer["tag"])]


def _inspect(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    asked = {"key": arguments.name, "tag": arguments.name}
    if arguments.organization is not None:
        asked["organization"] = arguments.organization
    return ask_worker(arguments.url, "GET", CACHE_PATH, asked, settings)


def _invalidate(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    asked: dict[str, Any] = {name: given for name in ("key", "tag", "prefix") if (given := getattr(arguments, name))}
    if arguments.organization is not None:
        asked["organization"] = arguments.organization
    if arguments.all:
        if asked:
            raise ConfigurationError("--all is everything", remedy="name nothing beside it")
        asked["all"] = "1"
    if not asked:
        raise ConfigurationError("nothing was named", remedy="use --key, --tag, --prefix, --organization, or --all")
    if arguments.soft:
        asked["soft"] = "1"
    return ask_worker(arguments.url, "DELETE", CACHE_PATH, asked, settings)


def _check(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    if arguments.sample is not None and arguments.sample < 1:
        raise ConfigurationError(f"--sample is {arguments.sample}", remedy="use 1 or more")
    asked = {} if arguments.last else {"run": "1"}
    if arguments.sample is not None and not arguments.last:
        asked["sample"] = str(arguments.sample)
    return ask_worker(arguments.url, "GET", CHECK_PATH, asked, settings, patience_s=CHECK_PATIENCE_S)


_VERBS = {"inspect": _inspect, "invalidate": _invalidate, "check": _check}


def _entry_as_text(entry: dict[str, Any]) -> list[str]:
    first, second, versions = entry["first"], entry["second"], entry["versions"]
    whose = f" of {entry['organization']}" if entry["organization"] is not None else ""
    lines = [f"key {entry['key']}{whose}: invalidated {versions['hard']} times, {versions['soft']} of late softly"]
    if first is None:
        lines.append("  here: nothing")
    else:
        state = "stale" if first["is_stale"] else f"fresh for {first['expires_in_s']:.0f} s"
        lines.append(f"  here: {state}, {_size(first['value_bytes'])}, {first['reads'] or 0} reads")
    if second is not None:
        lines.append(f"  in Redis: {second['state']}, {_size(second['value_bytes'])}, {second['left_s']:.0f} s left")
    lines.append(f"  tags: {', '.join(entry['tags'])}")
    return lines


def _tag_as_text(tag: dict[str, Any]) -> list[str]:
    exact = "" if tag["is_exact"] else " (as far as this process knows)"
    return [f"tag {tag['tag']}: invalidated {tag['hard']} times, {tag['soft']} of late softly{exact}"]


def _invalidated_as_text(answer: dict[str, Any]) -> list[str]:
    what = answer["invalidated"]
    lines = [f"stale{' (softly)' if answer['soft'] else ''}: {what if isinstance(what, str) else ', '.join(what)}"]
    if not answer["reached_all"]:
        lines.append("Redis is away: other processes hear of it when it is back")
    if answer["purged"]:
        lines.append("the CDN is told")
    return lines


def _check_as_text(check: dict[str, Any] | None) -> list[str]:
    if check is None:
        return ["no check was made since the start"]
    lines = [
        f"{check['checked']} of {check['entries']} entries in {check['took_s']:.1f} s"
        + ("" if check["is_complete"] else ", not all that were asked for")
    ]
    lines.append(f"  invalidated and still served here: {check['missed']}")
    lines.append(f"  unlike the copy in Redis: {check['l1_l2_differs']} of {check['compared_l2']}")
    lines.append(
        f"  unlike the source: {check['stale']} of {check['compared_source']}; {check['unknown']} without a known source"
    )
    lines.append(f"  changed while it was looked at: {check['moved']}; failed: {check['errors']}")
    if check["resident_bytes"] is not None and check["segments_bytes"]:
        share = check["resident_bytes"] / check["segments_bytes"]
        lines.append(
            f"  accounted {_size(check['segments_bytes'])}, in memory {_size(check['resident_bytes'])} ({share:.0%})"
        )
    for one in check["findings"]:
        whose = f" of {one['organization']}" if one["organization"] is not None else ""
        lines.append(f"  {one['kind']}: {one['key']}{whose}")
    return lines


def _size(count: int | None) -> str:
    return "an object" if count is None else f"{count:,} bytes"
