"""Which request is this: the scope that a key belongs to, and the fingerprint of what was asked. Pure.

Every part is hashed behind its length, so that ("ab", "c") and ("a", "bc") differ. The value of Authorization is part of
neither: a client that refreshed its token between two tries must still get its first answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

_PLAIN_ORGANIZATION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BOUNDARY = re.compile(rb"""boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))""", re.IGNORECASE)
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed:
    """A request with a key, as the ledger sees it.

    Attributes:
        store_key: complete name in the store, without the namespace; nothing personal in it.
        digest: the scope's digest; primary key in Postgres.
        fingerprint: what was asked; two requests with one key have to agree in it.
        organization: as in the principal; empty where the request names none.
        actor: as in the principal; kept in the record for audits.
    """

    store_key: str
    digest: bytes
    fingerprint: bytes
    organization: str
    actor: str


def scope_digest(
    *,
    organization: str | None,
    actor: str,
    method: str,
    template: str,
    path_values: Mapping[str, str],
    key: str,
) -> bytes:
    """Return the digest of everything a key is private to, the key included."""
    presence = "-" if organization is None else "+"
    return _digest(
        _texts("scope/1", presence, organization or "", actor, method, template, key, *_pairs(path_values)),
    )


def store_key(organization: str | None, digest: bytes) -> str:
    """Return the name in the store: ``idempotency:<org>:<digest>``; an id that is no plain word is hashed."""
    if organization is None:
        name = "-"
    elif _PLAIN_ORGANIZATION.fullmatch(organization):
        name = organization
    else:
        name = "~" + _digest([organization.encode("utf-8", "surrogatepass")]).hex()[:32]
    return f"idempotency:{name}:{digest.hex()}"


def fingerprint(
    *,
    method: str,
    template: str,
    path_values: Mapping[str, str],
    query: bytes,
    content_type: bytes,
    body: bytes,
    canonical_json: bool = True,
) -> bytes:
    """Return the digest of what was asked.

    The order of query parameters does not count, their spelling does. A JSON body counts by its values when
    `canonical_json`; a JSON text that has no single meaning (a member twice, NaN) counts by its bytes, like all others.
    """
    essence = content_type.partition(b";")[0].strip().lower()
    parts = _texts("request/1", method, template, *_pairs(path_values))
    parts.extend((b"&".join(sorted(query.split(b"&"))), essence))
    parts.extend(_body_parts(essence, content_type, body, canonical_json))
    return _digest(parts)


def _body_parts(essence: bytes, content_type: bytes, body: bytes, canonical_json: bool) -> list[bytes]:
    if canonical_json and (essence == b"application/json" or essence.endswith(b"+json")):
        canonical = _canonical(body)
        if canonical is not None:
            return [b"json", canonical]
    if essence.startswith(b"multipart/"):
        boundary = _BOUNDARY.search(content_type)
        if boundary is not None:
            # Clients invent a new boundary for every try; what stands between them is the payload.
            return [b"multipart", *body.split(b"--" + (boundary[1] or boundary[2]))]
    return [b"raw", body]


class _Ambiguous(ValueError):
    """The text has no single meaning."""


def _canonical(body: bytes) -> bytes | None:
    """Return a form that is equal for equal values, or None where bytes have to decide."""
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_members,
            parse_constant=_refuse_constant,
            # Numbers count as they are written: 0.1 and 0.10000000000000000555 are one float and two amounts.
            parse_float=_Number,
            parse_int=_Number,
        )
        written: list[bytes] = []
        _write(value, written)
    except (ValueError, RecursionError):
        return None
    return b"".join(written)


class _Number(str):
    """The text of a number; a type of its own so that 1 and "1" differ."""

    __slots__ = ()


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Ambiguous("a member is there twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise _Ambiguous(f"{name} is no JSON")


def _write(value: Any, out: list[bytes]) -> None:
    match value:
        case None | True | False:
            out.append(b"n" if value is None else b"t" if value else b"f")
        case str():
            text = value.encode("utf-8", "surrogatepass")
            out.append(b"%c%d:" % (b"d" if isinstance(value, _Number) else b"s", len(text)))
            out.append(text)
        case list():
            out.append(b"a%d:" % len(value))
            for item in value:
                _write(item, out)
        case _:
            out.append(b"o%d:" % len(value))
            for name in sorted(value):
                _write(name, out)
                _write(value[name], out)


def _pairs(values: Mapping[str, str]) -> list[str]:
    return [text for pair in sorted(values.items()) for text in pair]


def _texts(*texts: str) -> list[bytes]:
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def _digest(parts: Iterable[bytes]) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(_LENGTH_BYTES, "big"))
        hasher.update(part)
    return hasher.digest()
