"""What can be warmed again without anybody who asks for it: an answer for a principal, or a key with a registered load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from b1.types import Principal, Versions

# A path, a query, an organisation: what is longer is one of a kind, and no dashboard.
_TEXT_LIMIT = 512
_CLAIMS_LIMIT_BYTES = 2048


class NotWarmed(Exception):
    """There was nothing to do, or it must not be done; `reason` is a short fixed word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AnswerSubject:
    """A stored answer's request, without its credentials.

    Attributes:
        query: as in the request, undecoded.
        headers: those that the answer varies by.
        encodings: the client's Accept-Encoding, so that the answer is kept as the client wants it.
        principal: for whom; None: the answer is public.
        met_s: wall time at which this process last saw the principal.
        server: the address that was asked, which a handler may see as its ``Host``.
        versions: of the principal's tag then; ``()``: the answer is public.
    """

    scheme: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    encodings: str = "gzip"
    principal: Principal | None = None
    met_s: float = 0.0
    server: tuple[str, int | None] | None = None
    versions: Versions | tuple[()] = field(default=(), compare=False)

    @property
    def is_small(self) -> bool:
        """Whether it may be remembered."""
        texts = (self.path, self.query, self.encodings, *(value for _, value in self.headers))
        return sum(map(len, texts)) <= _TEXT_LIMIT


@dataclass(frozen=True, slots=True)
class KeySubject:
    """A key of the data cache whose namespace has a registered load."""

    namespace: str
    key: str
    organization: str | None = None


Subject = AnswerSubject | KeySubject


def written(name: str, subject: Subject, count: float) -> dict[str, Any] | None:
    """Return a subject for a successor; None: its principal carries what cannot be written down."""
    kept: dict[str, Any] = {"n": name, "c": round(count, 3)}
    if isinstance(subject, KeySubject):
        return kept | {"k": [subject.namespace, subject.key, subject.organization]}
    kept["a"] = [subject.scheme, subject.path, subject.query, subject.headers, subject.encodings, subject.met_s]
    if subject.server is not None:
        kept["s"] = subject.server
    principal = subject.principal
    if principal is None:
        return kept
    try:
        claims = orjson.dumps(principal.claims)
        is_same = orjson.loads(claims) == principal.claims
    except TypeError:
        return None
    if not is_same or len(claims) > _CLAIMS_LIMIT_BYTES:
        return None  # one that came back changed would be another principal
    return kept | {"p": [principal.actor, principal.organization, principal.role, principal.tier, principal.claims]}


def read(kept: Any) -> tuple[str, Subject, float]:
    """Return what `written` wrote.

    Raises:
        ValueError: it is nothing of that kind.
    """
    try:
        name, count = str(kept["n"]), float(kept["c"])
        if "k" in kept:
            namespace, key, organization = kept["k"]
            return name, KeySubject(str(namespace), str(key), organization), count
        scheme, path, query, headers, encodings, met_s = kept["a"]
        principal = None
        if "p" in kept:
            actor, organization, role, tier, claims = kept["p"]
            principal = Principal(str(actor), organization, str(role), str(tier), dict(claims))
        pairs = tuple((str(field_name), str(value)) for field_name, value in headers)
        server = None if "s" not in kept else (str(kept["s"][0]), kept["s"][1])
        return name, AnswerSubject(scheme, path, query, pairs, encodings, principal, float(met_s), server), count
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"this is no subject: {error}") from error
