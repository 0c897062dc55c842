"""Which request is this: the scope that a key belongs to, and the fingerprint of what was asked. Pure.

Every part is hashed behind its length, so that ("ab", "c") and ("a", "bc") differ. The value of Authorization is part of
neither: a client that refreshed its token between two tries must still get its first answer.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from b1.idempotency.digests import digest_of
from b1.idempotency.payload import Payload

# As much of it as is kept. It tells a client's payloads apart, and its own mistake is all that a client could forge.
FINGERPRINT_BYTES = 16
_PLAIN_ORGANIZATION = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
    is_auto: bool = False,
) -> bytes:
    """Return the digest of everything a key is private to, the key included.

    Args:
        is_auto: the key was made from the request. No key that a client can send is ever equal to one of those.
    """
    kind, presence = "auto/1" if is_auto else "scope/1", "-" if organization is None else "+"
    return digest_of(
        _texts(kind, presence, organization or "", actor, method, template, key, *_pairs(path_values)),
    )


def store_key(organization: str | None, digest: bytes) -> str:
    """Return the name in the store: ``idempotency:<org>:<digest>``, the digest in 43 characters."""
    return store_prefix(organization) + urlsafe_b64encode(digest).decode().rstrip("=")


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
) -> bytes:
    """Return the digest of what was asked. The order of query parameters does not count, their spelling does.

    Args:
        payload: has taken the whole body; without one, `body` is what was sent.
    """
    if payload is None:
        payload = Payload(content_type, canonical_json=canonical_json)
        payload.feed(body)
    parts = _texts("request/2", method, template, *_pairs(path_values))
    parts.append(b"&".join(sorted(query.split(b"&"))))
    parts.extend(payload.parts())
    return digest_of(parts)


def _pairs(values: Mapping[str, str]) -> list[str]:
    return [text for pair in sorted(values.items()) for text in pair]


def _texts(*texts: str) -> list[bytes]:
    return [text.encode("utf-8", "surrogatepass") for text in texts]
