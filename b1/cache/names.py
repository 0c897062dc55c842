"""Names of what can be invalidated: keys, their prefixes, organisations and tags, all of them tags of an entry.

What an application names (keys, tags, organisations) has no control characters, and the implicit tags begin with one: so
no explicit tag ever meets an implicit one, and a key belongs to its organisation whatever both contain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

N = TypeVar("N")

KEY_LENGTH_LIMIT = 512
TAG_LENGTH_LIMIT = 256
# Explicit tags of one entry. With the key, three prefixes and the organisation it stays under the store's 64.
TAGS_LIMIT = 32
# A key "a:b:c:d:e" can be invalidated by "a", "a:b" and "a:b:c".
PREFIXES_LIMIT = 3
# A longer list belongs to a common tag; each name costs the server about a microsecond.
INVALIDATED_LIMIT = 1024

_MARK = "\x1f"
_OWNED = "\x1e"


def checked_key(key: str) -> str:
    """Return the key.

    Raises:
        ValueError: it is empty, longer than 512 characters, or has control characters or half a surrogate pair.
    """
    return _checked(key, "key", KEY_LENGTH_LIMIT)


def checked_tag(tag: str) -> str:
    """Return the tag.

    Raises:
        ValueError: as for a key, 256 characters at most; also "*", which would read as "everything".
    """
    if tag == "*":
        raise ValueError('the tag is "*", expected a name: everything=True invalidates everything')
    return _checked(tag, "tag", TAG_LENGTH_LIMIT)


def entry_name(key: str, organization: str | None = None) -> str:
    """Return the name under which an entry is kept: two organisations never share one, whatever their keys."""
    return key if organization is None else f"{organization}{_OWNED}{key}"


def key_tag(key: str, organization: str | None = None) -> str:
    """Return the implicit tag of one key."""
    return f"{_MARK}k{entry_name(key, organization)}"


def prefix_tag(prefix: str, organization: str | None = None) -> str:
    """Return the implicit tag of all keys that begin with `prefix` and a colon; a colon at its end may be left out."""
    return f"{_MARK}p{entry_name(prefix.removesuffix(':'), organization)}"


def organization_tag(organization: str) -> str:
    """Return the implicit tag of all that belongs to an organisation."""
    return f"{_MARK}o{organization}"


def prefixes_of(key: str) -> list[str]:
    """Return the beginnings of a key at its first three colons, shortest first."""
    prefixes: list[str] = []
    at = key.find(":")
    while at >= 0 and len(prefixes) < PREFIXES_LIMIT:
        prefixes.append(key[:at])
        at = key.find(":", at + 1)
    return prefixes


def several(names: Iterable[N], what: str) -> Iterable[N]:
    """Return the names; a text alone would be taken letter by letter, and nothing else would ever say so.

    Raises:
        TypeError: it is one text.
    """
    if isinstance(names, str | bytes):
        raise TypeError(f"{what} is the text {names!r:.80}, expected several names: write [{names!r:.80}]")
    return names


def tags_of(key: str, tags: Iterable[str] = (), organization: str | None = None) -> tuple[str, ...]:
    """Return all tags of an entry, in an order that is the same for the same arguments.

    Raises:
        ValueError: a name is none, or there are more than 32 explicit tags.
        TypeError: the tags are one text.
    """
    explicit = tuple(several(tags, "tags"))
    if len(explicit) > TAGS_LIMIT:
        raise ValueError(f"{len(explicit)} tags were given, expected {TAGS_LIMIT} at most")
    named = [key_tag(checked_key(key), organization)]
    named += [prefix_tag(prefix, organization) for prefix in prefixes_of(key)]
    if organization is not None:
        named.append(organization_tag(_checked(organization, "organization", TAG_LENGTH_LIMIT)))
    return tuple(dict.fromkeys([*named, *(checked_tag(tag) for tag in explicit)]))


def tags_to_invalidate(
    tags: Iterable[str] = (),
    *,
    keys: Iterable[str] = (),
    prefixes: Iterable[str] = (),
    organization: str | None = None,
) -> tuple[str, ...]:
    """Return what has to be bumped so that every entry named is stale; each name once.

    Args:
        organization: whose keys and prefixes these are; with neither, everything of the organisation.

    Raises:
        ValueError: a name is none, a prefix has more than three parts, or there are more than 1024 names.
        TypeError: one text stands where several names are expected.
    """
    if organization is not None:
        _checked(organization, "organization", TAG_LENGTH_LIMIT)
    named = [key_tag(checked_key(key), organization) for key in several(keys, "keys")]
    named += [prefix_tag(_checked_prefix(prefix), organization) for prefix in several(prefixes, "prefixes")]
    if organization is not None and not named:
        named.append(organization_tag(organization))
    named += [checked_tag(tag) for tag in several(tags, "tags")]
    if len(named) > INVALIDATED_LIMIT:
        raise ValueError(f"{len(named)} names are invalidated at once, expected {INVALIDATED_LIMIT} at most: use a tag")
    return tuple(dict.fromkeys(named))


def namespace_of(key: str) -> str:
    """Return the key's part before its first colon, by which reads are counted."""
    return key.partition(":")[0]


def _checked_prefix(prefix: str) -> str:
    parts = prefix.removesuffix(":").count(":") + 1
    if parts > PREFIXES_LIMIT:
        raise ValueError(f"the prefix {prefix[:80]!r} has {parts} parts, expected {PREFIXES_LIMIT} at most: use a tag")
    return _checked(prefix.removesuffix(":"), "prefix", KEY_LENGTH_LIMIT)


def _checked(name: str, what: str, limit: int) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the {what} is {type(name).__name__}, expected text")
    if not name or len(name) > limit:
        raise ValueError(f"the {what} has {len(name)} characters, expected 1 to {limit}")
    if not name.isprintable() and any(_is_unsafe(ord(char)) for char in name):
        raise ValueError(f"the {what} {name[:80]!r} has control characters or half a surrogate pair")
    return name


def _is_unsafe(code: int) -> bool:
    return code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000
