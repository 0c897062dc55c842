"""Surrogate keys: the tags of an answer, for a CDN in front (`Surrogate-Key` of Fastly, `Cache-Tag` of Cloudflare).

Every tag has one, the implicit ones too (organisation, path), so whatever can be invalidated here can be purged there. What
has other characters than 0x21–0x7E, or a comma, becomes a digest: nothing in a tag can break out of the header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b

KEY_LENGTH_LIMIT = 256
_PLAIN = re.compile(r"[\x21-\x2b\x2d-\x7e]+")


def surrogate_key(tag: str) -> str:
    """Return the key of a tag: the same on the answer and in the purge."""
    if len(tag) <= KEY_LENGTH_LIMIT and _PLAIN.fullmatch(tag):
        return tag
    return "x" + blake2b(tag.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def surrogate_keys(tags: Iterable[str]) -> list[str]:
    """Return the keys of tags, each once."""
    return list(dict.fromkeys(surrogate_key(tag) for tag in tags))


def header_value(keys: Sequence[str], separator: str, limit_bytes: int) -> tuple[bytes, int]:
    """Return the header's value, and how many keys did not fit."""
    taken: list[str] = []
    length = 0
    for key in keys:
        longer = length + len(key) + (len(separator) if taken else 0)
        if longer <= limit_bytes:
            taken.append(key)
            length = longer
    return separator.join(taken).encode("ascii"), len(keys) - len(taken)


def purged_keys(tags: Iterable[str]) -> list[str]:
    """Return the surrogate keys of those tags that an answer can carry, each once.

    Keys and prefixes of the data cache are left out: no answer has them, and services count the keys of a purge.
    """
    return surrogate_keys(tag for tag in tags if _is_on_answers(tag))


def _is_on_answers(tag: str) -> bool:
    if tag[:1] != "\x1f" or tag[1:2] == "o":
        return True
    if tag[1:2] not in ("k", "p"):
        return False
    name = tag[2:].rpartition("\x1e")[2]
    return name == "http" or name.startswith("http:")
