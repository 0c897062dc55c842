"""``/internal/cache`` and ``/internal/cache-check``: what is known of a key or tag, making things stale, and the check.

What ``b1 cache`` talks to. Values are never shown: who holds the admin token may see what is cached, not what is in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

from b1.asgi.reply import send_json, send_problem
from b1.cache.checking import Checker, Drift, First, Second
from b1.cache.names import checked_tag, entry_name, key_tag, namespace_of, tags_of, tags_to_invalidate
from b1.cache.reading.shared import store_key
from b1.clock import Clock
from b1.errors import Forbidden, MalformedRequest, RequestError
from b1.store.versions import EPOCH_BYTES, VERSION_BYTES, compare
from b1.types import Receive, Scope, Send, VersionSource

CACHE_PATH = "/internal/cache"
CHECK_PATH = "/internal/cache-check"
METHODS = frozenset({"GET", "HEAD", "DELETE"})
_LISTS = ("key", "tag", "prefix")
_FIELDS = frozenset({*_LISTS, "organization", "all", "soft"})
_TRUE, _FALSE = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})
# The marks of implicit tags, as a person reads them.
_KINDS = {"k": "key", "p": "prefix", "o": "organization", "w": "template"}


class Invalidating(Protocol):
    """The part of `b1.cache.Cache` that is used here."""

    def invalidate(
        self,
        tags: Iterable[str] = ...,
        *,
        keys: Iterable[str] = ...,
        prefixes: Iterable[str] = ...,
        organization: str | None = ...,
        everything: bool = ...,
        soft: bool = ...,
        purge: bool = ...,
    ) -> Awaitable[None]: ...


class Purging(Protocol):
    """The part of `b1.purge.PurgeQueue` that is used here."""

    def put(self, keys: Sequence[str], *, soft: bool = False) -> int: ...
    def put_everything(self) -> int: ...


class Purge(NamedTuple):
    """The CDN in front: its queue, and the surrogate keys of tags."""

    queue: Purging
    surrogates: Callable[[Iterable[str]], Sequence[str]]


class CacheDesk:
    """The endpoint as an ASGI application; whoever serves it has checked the admin token.

    Args:
        is_shared: whether what is invalidated here reaches all processes at once; not while Redis is away.
    """

    def __init__(
        self,
        cache: Invalidating,
        l1: First,
        source: VersionSource,
        clock: Clock,
        *,
        shared: Second | None = None,
        purge: Purge | None = None,
        is_shared: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cache = cache
        self._l1 = l1
        self._source = source
        self._clock = clock
        self._shared = shared
        self._purge = purge
        self._is_shared = is_shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = _asked(scope, _FIELDS)
            if scope["method"] == "DELETE":
                _refuse_pages(scope)
                answer = await self._invalidate(asked)
            else:
                answer = await self._inspect(asked)
        except ValueError as wrong:  # a name that is none
            await send_problem(send, MalformedRequest(str(wrong)), scope)
        except RequestError as error:
            await send_problem(send, error, scope)
        else:
            await send_json(send, 200, answer, headers=[(b"cache-control", b"no-store")])

    async def _inspect(self, asked: Mapping[str, list[str]]) -> dict[str, Any]:
        if not asked.keys() & {"key", "tag"}:
            raise MalformedRequest("say what to look at: key or tag")
        organization = _one(asked, "organization")
        answer: dict[str, Any] = {}
        if (key := _one(asked, "key")) is not None:
            answer["key"] = await self._entry(key, organization)
        if (tag := _one(asked, "tag")) is not None:
            answer["tag"] = {"tag": checked_tag(tag), **self._versions_of(tag)}
        return answer

    async def _entry(self, key: str, organization: str | None) -> dict[str, Any]:
        name = entry_name(key, organization)
        found, versions = self._l1.find(name), self._l1.built_on(name)
        tags = tags_of(key, (), organization) if versions is None else versions.tags
        answer: dict[str, Any] = {
            "key": key,
            "organization": organization,
            "tags": [readable(tag) for tag in tags],
            "versions": self._versions_of(key_tag(key, organization)),
            "first": None,
            "second": None,
        }
        if found is not None:
            meta = found.meta
            answer["first"] = {
                "is_stale": found.is_stale,
                "expires_in_s": round(found.expires_s - self._clock.monotonic(), 3),
                "value_bytes": len(found.value) if isinstance(found.value, bytes) else None,
                "created_ms": getattr(meta, "created_ms", None),
                "reads": getattr(meta, "reads", None),
            }
        if self._shared is not None and self._shared.is_there:
            there = await self._shared.ask(name, store_key(key, organization), tags, namespace=namespace_of(key))
            if there is not None:
                answer["second"] = {
                    "state": there.state.value,
                    "fresh_in_s": round(there.fresh_s, 3),
                    "left_s": round(there.left_s, 3),
                    "value_bytes": len(there.value),
                    "is_loading": there.is_loading,
                    "same_tags": there.same_tags,
                }
                if versions is not None:
                    answer["second"]["versions"] = compare(versions.vector, there.vector)
        return answer

    async def _invalidate(self, asked: Mapping[str, list[str]]) -> dict[str, Any]:
        everything, soft = _flag(asked, "all"), _flag(asked, "soft")
        names = {name: asked[name] for name in _LISTS if name in asked}
        organization = _one(asked, "organization")
        if not (everything or names or organization is not None):
            raise MalformedRequest("say what: key, tag, prefix, organization, or all")
        if everything and (names or organization is not None):
            raise MalformedRequest("all is everything: name nothing beside it")
        if organization is not None and set(names) == {"tag"}:
            raise MalformedRequest("a tag is nobody's: leave the organization out, or invalidate it by itself")
        tags, keys, prefixes = (names.get(name, []) for name in ("tag", "key", "prefix"))
        bumped = tags_to_invalidate(tags, keys=keys, prefixes=prefixes, organization=organization)
        await self._cache.invalidate(
            tags,
            keys=keys,
            prefixes=prefixes,
            organization=organization,
            everything=everything,
            soft=soft,
            purge=False,  # below, where the answer can say so
        )
        if self._purge is not None:
            if everything:
                self._purge.queue.put_everything()
            else:
                self._purge.queue.put(self._purge.surrogates(bumped), soft=soft)
        return {
            "invalidated": "everything" if everything else [readable(tag) for tag in bumped],
            "soft": soft,
            "reached_all": self._is_shared(),
            "purged": self._purge is not None,
        }

    def _versions_of(self, tag: str) -> dict[str, Any]:
        vector = self._source.vector((tag,))
        version = int.from_bytes(vector[EPOCH_BYTES : EPOCH_BYTES + VERSION_BYTES], "big")
        return {
            "epoch": vector[:EPOCH_BYTES].hex(),
            "hard": version >> 8,
            "soft": version & 0xFF,
            "is_exact": self._source.is_exact,
        }


class CheckDesk:
    """The endpoint of the coherency check: the last report, or with ``run=1`` a new one."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = _asked(scope, frozenset({"run", "sample"}))
            drift = self._checker.snapshot()
            if _flag(asked, "run") or "sample" in asked:
                _refuse_pages(scope)
                drift = await self._checker.check(_number(asked, "sample"))
        except RequestError as error:
            await send_problem(send, error, scope)
            return
        await send_json(send, 200, {"check": _report(drift)}, headers=[(b"cache-control", b"no-store")])


def readable(tag: str) -> str:
    """Return an implicit tag as words; another one as it is."""
    if tag[:1] != "\x1f":
        return tag
    owner, owned, name = tag[2:].rpartition("\x1e")
    return f"{_KINDS.get(tag[1:2], '?')} {name}" + (f" of {owner}" if owned else "")


def _report(drift: Drift | None) -> dict[str, Any] | None:
    return None if drift is None else {"is_clean": drift.is_clean, **asdict(drift)}


def _asked(scope: Scope, fields: frozenset[str]) -> dict[str, list[str]]:
    asked: dict[str, list[str]] = {}
    # With empty values: what somebody's variable left empty is no name, and without it the rest would name more.
    for name, value in parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True):
        asked.setdefault(name, []).append(value)
    if unknown := sorted(asked.keys() - fields):
        raise MalformedRequest(f"unknown parameters {', '.join(unknown)}; there are {', '.join(sorted(fields))}")
    return asked


def _one(asked: Mapping[str, list[str]], name: str) -> str | None:
    values = asked.get(name, [])
    if len(values) > 1:
        raise MalformedRequest(f"{name} is given {len(values)} times, expected once")
    return values[0] if values else None


def _flag(asked: Mapping[str, list[str]], name: str) -> bool:
    text = _one(asked, name)
    if text is not None and text.lower() not in _TRUE | _FALSE:
        raise MalformedRequest(f"{name} is {text[:40]!r}, expected 1 or 0")
    return text is not None and text.lower() in _TRUE


def _number(asked: Mapping[str, list[str]], name: str) -> int | None:
    text = _one(asked, name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise MalformedRequest(f"{name} is {text[:40]!r}, expected a whole number above 0")
    return int(text[:9])


def _refuse_pages(scope: Scope) -> None:
    if any(name == b"origin" for name, _ in scope["headers"]):
        raise Forbidden("the cache is operated from the command line, not from a page")
