"""Which request is this: the scope that a key belongs to, and the fingerprint of what was asked. Pure.

Every part is hashed behind its length, so that ("ab", "c") and ("a", "bc") differ. The value of Authorization is part of
neither: a client that refreshed its token between two tries must still get its first answer.

What is digested, and how, is a definition with a version, and the version is a fingerprint's first byte. A record lives for
a day and a deployment comes in between: fingerprints of two definitions say nothing about each other, so the one that was
stored names the definition by which the repeat has to be digested (`compare`).
"""

from __future__ import annotations

import enum
import re
from binascii import b2a_base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from b1.idempotency.canonical import canonical
from b1.idempotency.digests import digest_of
from b1.idempotency.payload import Canonical, Payload

# As much of it as is kept, its version included. It tells a client's payloads apart, and its own mistake is all that a
# client could forge.
FINGERPRINT_BYTES = 16
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLAIN_ORGANIZATION = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Definition:
    """How a version of b1 digests what was asked.

    Whoever changes what is digested adds a definition and keeps the one before it for a release: whatever is older cannot
    be compared any more. Keys for other services are made from it too (`Attempt.key_for`), so a request that was cut off
    before the change and is repeated after it calls them under another key: change it for a good reason only.

    Attributes:
        name: digested too, so that two definitions never agree by chance.
        canonical: JSON by its values.
    """

    name: str
    canonical: Canonical


CURRENT = 3
DEFINITIONS: Mapping[int, Definition] = {CURRENT: Definition("request/3", canonical)}
"""By version: the current one, and the one before it as soon as a released version has one. No number is used twice."""


class Comparison(enum.Enum):
    """What a stored fingerprint says about a repeat."""

    SAME = "same"
    OTHER = "other"  # another payload
    UNKNOWN = "unknown"  # by a definition that this version of b1 does not have


class Keyed(NamedTuple):
    """A request with a key, as the ledger sees it. A tuple, because one is built for every request.

    Attributes:
        store_key: complete name in the store, without the namespace; nothing personal in it.
        digest: the scope's digest; primary key in Postgres.
        fingerprint: what was asked; two requests with one key have to agree in it.
        organization: as in the principal; empty where the request names none.
        actor: as in the principal; kept in the record for audits.
        by_definition: returns the fingerprint by another definition, or None where it is not known; reads the body again.
    """

    store_key: str
    digest: bytes
    fingerprint: bytes
    organization: str
    actor: str
    by_definition: Callable[[int], Awaitable[bytes | None]] | None = None


async def compare(stored: bytes, keyed: Keyed) -> Comparison:
    """Say whether the request that left `stored` asked for the same as this one.

    A fingerprint of a definition that is not known here, of a version long gone or of a later one after a rollback, is
    UNKNOWN. To refuse then would tell an honest client to take a new key, and its effect would happen twice; so the caller
    goes by the key alone, and says so.
    """
    if stored == keyed.fingerprint:
        return Comparison.SAME
    if stored[:1] == keyed.fingerprint[:1]:
        return Comparison.OTHER
    by_its_own = await keyed.by_definition(stored[0]) if stored and keyed.by_definition is not None else None
    if by_its_own is None:
        return Comparison.UNKNOWN
    return Comparison.SAME if by_its_own == stored else Comparison.OTHER


def scope_digest(
    *,
    organization: str | None,
    actor: str,
    method: str,
    template: str,
    path_values: Mapping[str, str],
    key: str,
    is_auto: bool = False,
) -> bytes:
    """Return the digest of everything a key is private to, the key included.

    It is the primary key of what was stored: unlike a fingerprint it never changes.

    Args:
        is_auto: the key was made from the request. No key that a client can send is ever equal to one of those.
    """
    # Each text behind its length; one text and one digest, since this is done for every request.
    org = "-" if organization is None else f"{len(organization)}:{organization}"
    scope = (
        f"{'auto' if is_auto else 'scope'}/2 {org} {len(actor)}:{actor} {method} {len(template)}:{template} "
        f"{len(key)}:{key}{_pairs(path_values) if path_values else ''}"
    )
    return sha256(_utf8(scope)).digest()


def store_key(organization: str | None, digest: bytes) -> str:
    """Return the name in the store: ``idempotency:<org>:<digest>``, the digest in 43 characters."""
    return store_prefix(organization) + b2a_base64(digest, newline=False).translate(_URL_SAFE, b"=").decode()


def store_prefix(organization: str | None) -> str:
    """Return what the names of all of an organisation's keys begin with; an id that is no plain word is hashed."""
    if organization is None:
        name = "-"
    elif _PLAIN_ORGANIZATION.fullmatch(organization) and organization != "-":
        name = organization
    else:
        name = "~" + digest_of([organization.encode("utf-8", "surrogatepass")]).hex()[:32]
    return f"idempotency:{name}:"


def fingerprint(
    *,
    method: str,
    template: str,
    path_values: Mapping[str, str],
    query: bytes,
    payload: Payload | None = None,
    content_type: bytes = b"",
    body: bytes = b"",
    canonical_json: bool = True,
    version: int = CURRENT,
) -> bytes:
    """Return the whole digest of what was asked. The order of query parameters does not count, their spelling does.

    Args:
        payload: has taken the whole body, by the same definition; without one, `body` is what was sent.
        version: of the definition.
    """
    definition = DEFINITIONS[version]
    if payload is None:
        payload = Payload(content_type, canonical_json=canonical_json, canonical=definition.canonical)
        payload.feed(body)
    in_order = b"&".join(sorted(query.split(b"&"))) if query else b""
    where = f"{definition.name} {method} {len(template)}:{template}{_pairs(path_values) if path_values else ''}"
    return digest_of([_utf8(where), in_order, *payload.parts()])


def kept(asked: bytes, version: int = CURRENT) -> bytes:
    """Return what is kept of a whole digest: its version, and as much of it as fits."""
    return bytes((version,)) + asked[: FINGERPRINT_BYTES - 1]


def _pairs(values: Mapping[str, str]) -> str:
    return "".join([f" {len(name)}:{name}={len(value)}:{value}" for name, value in sorted(values.items())])


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # an actor's name, say, with half of a surrogate pair
        return text.encode("utf-8", "surrogatepass")
