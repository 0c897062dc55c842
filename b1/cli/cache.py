"""``b1 cache inspect|invalidate|check``: what is known of a key or tag, making things stale, and holding copies together.

All of it goes through the running worker: only it has this host's first copies, and its connection to Redis is the host's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from b1.cli.worker import ask_worker
from b1.errors import ConfigurationError
from b1.settings import Settings

CACHE_PATH = "/internal/cache"
CHECK_PATH = "/internal/cache-check"
# A check takes half a minute at most.
CHECK_PATIENCE_S = 40.0
EXIT_DRIFT = 3
_EXITS = "exit code: 0 done; 1 nobody answers, or the worker refused; 2 asked for wrongly; 3 the check found something"
# Added to the count of what Redis has not confirmed yet (b1.store.versions.HARD_END), and to that of softly.
_UNCONFIRMED_HARD, _UNCONFIRMED_SOFT = 0x80_0000, 0x80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``b1 cache`` takes."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="cache_verb", required=True)
    inspect = _verb(verbs, "inspect", "what is cached under a key, and how often a key or tag was invalidated")
    inspect.add_argument("name", metavar="KEY|TAG", help='such as "user:7"; looked up as both')
    inspect.add_argument("--organization", metavar="ORG", help="whose key it is")
    stale = _verb(verbs, "invalidate", "make entries stale, in every process and at the CDN")
    stale.add_argument("--key", action="append", metavar="KEY", help="this key; may be repeated")
    stale.add_argument("--tag", action="append", metavar="TAG", help="all that carries this tag; may be repeated")
    stale.add_argument(
        "--prefix", action="append", metavar="PREFIX", help="all keys that begin so, up to a colon; may be repeated"
    )
    stale.add_argument(
        "--organization", metavar="ORG", help="whose keys and prefixes these are; alone: all that it has"
    )
    stale.add_argument("--all", action="store_true", help="everything; what was declared is warmed again")
    stale.add_argument("--soft", action="store_true", help="it may be served as stale while it is loaded anew")
    check = _verb(verbs, "check", "hold a sample of this host's copies against Redis and the source")
    check.add_argument("--sample", type=int, metavar="N", help="entries (default: 100, 2000 at most)")
    check.add_argument("--last", action="store_true", help="show the last report instead of making one")
    for verb in (inspect, stale, check):
        verb.add_argument("--url", help="of the running service (default: http://127.0.0.1:$PORT)")
        verb.add_argument("--json", action="store_true", help="what the worker said, machine-readable")


def _verb(verbs: Any, name: str, does: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}. Needs ADMIN_TOKEN where the service has one.",
        epilog=_EXITS,
    )
    return parser


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
    return [*_entry_as_text(answer["key"]), *(_tag_as_text(answer["tag"]) if "tag" in answer else ())]


def _inspect(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    _check_names((), keys=(arguments.name,), organization=arguments.organization)
    asked = {"key": arguments.name}
    with suppress(ConfigurationError):  # a key may be longer than a tag
        _check_names((arguments.name,))
        asked["tag"] = arguments.name
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
    if arguments.all and arguments.soft:
        raise ConfigurationError("everything is invalidated hard", remedy="name tags or prefixes to do it softly")
    if arguments.organization is not None and arguments.tag and not (arguments.key or arguments.prefix):
        raise ConfigurationError(
            "a tag is no organisation's", remedy="leave --organization out, or invalidate it by itself"
        )
    _check_names(
        arguments.tag or (),
        keys=arguments.key or (),
        prefixes=arguments.prefix or (),
        organization=arguments.organization,
    )
    if arguments.soft:
        asked["soft"] = "1"
    return ask_worker(arguments.url, "DELETE", CACHE_PATH, asked, settings)


def _check(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    if arguments.sample is not None and arguments.sample < 1:
        raise ConfigurationError(f"--sample is {arguments.sample}", remedy="use 1 or more")
    if arguments.sample is not None and arguments.last:
        raise ConfigurationError("--last shows a report that is there", remedy="leave --sample out")
    asked = {} if arguments.last else {"run": "1"}
    if arguments.sample is not None:
        asked["sample"] = str(arguments.sample)
    return ask_worker(arguments.url, "GET", CHECK_PATH, asked, settings, patience_s=CHECK_PATIENCE_S)


def _check_names(tags: Sequence[str], **more: Any) -> None:
    """Find what is no name before anybody is asked.

    Raises:
        ConfigurationError: one is none.
    """
    from b1.cache.names import tags_to_invalidate  # with the whole cache behind it, which `--help` does not need

    if "*" in tags:
        raise ConfigurationError('"*" is no tag', remedy="use --prefix for keys that begin alike, --all for everything")
    try:
        tags_to_invalidate(tags, **more)
    except ValueError as wrong:
        raise ConfigurationError(str(wrong), remedy="b1 cache --help") from None


_VERBS = {"inspect": _inspect, "invalidate": _invalidate, "check": _check}


def _entry_as_text(entry: dict[str, Any]) -> list[str]:
    first, second, versions = entry["first"], entry["second"], entry["versions"]
    whose = f" of {entry['organization']}" if entry["organization"] is not None else ""
    lines = [f"key {entry['key']}{whose}: {_times(versions)}"]
    if first is not None:
        state = "stale" if first["is_stale"] else f"fresh for {first['expires_in_s']:.0f} s"
        reads = "" if first["reads"] is None else ", read once" if first["reads"] == 1 else f", {first['reads']} reads"
        lines.append(f"  here: {state}, {_size(first['value_bytes'])}{reads}")
    elif entry["key"].startswith("http:"):
        lines.append("  answers of this path, if there are any, are kept by caller and query and not listed")
        second = None  # which says no more of them
    else:
        lines.append("  here: nothing")
    if second is not None and second["state"] == "none":
        lines.append(f"  in Redis: nothing{', somebody loads it' if second['is_loading'] else ''}")
    elif second is not None:
        lines.append(f"  in Redis: {second['state']}, {_size(second['value_bytes'])}, {second['left_s']:.0f} s left")
    lines.append(f"  tags: {', '.join(entry['tags'])}")
    return lines


def _tag_as_text(tag: dict[str, Any]) -> list[str]:
    exact = "" if tag["is_exact"] else " (as far as this process knows)"
    return [f"tag {tag['tag']}: {_times(tag)}{exact}"]


def _times(versions: dict[str, Any]) -> str:
    """Say how often something was invalidated; a tag shares its count with the few that fall into the same bucket."""
    hard, soft = versions["hard"], versions["soft"]
    pending = hard >= _UNCONFIRMED_HARD or soft >= _UNCONFIRMED_SOFT
    hard, soft = hard % _UNCONFIRMED_HARD, soft % _UNCONFIRMED_SOFT
    if pending:
        return "invalidated here; Redis has not confirmed it yet"
    said = "never invalidated" if not hard else "invalidated once" if hard == 1 else f"invalidated {hard} times"
    return f"{said}, {soft} times softly since" if soft > 1 else f"{said}, once softly since" if soft else said


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
    at = datetime.fromtimestamp(check["at_s"], UTC)
    lines = [
        f"{check['checked']} of {check['entries']} entries in {check['took_s']:.1f} s, at {at:%Y-%m-%d %H:%M:%S} UTC"
        + ("" if check["is_complete"] else "; not all that were asked for")
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
