"""Where a message goes: a URL taken apart. Its text is a secret as a whole, because keys stand in paths and queries."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver. Its repr names the host alone: such URLs are secrets.

    Attributes:
        path: the request target, percent-encoded.
        authorization: from the URL's user and password.
    """

    is_tls: bool
    host: str
    port: int
    path: str = field(repr=False)
    authorization: str | None = field(default=None, repr=False)

    @property
    def host_header(self) -> str:
        """The Host field's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Take a URL apart.

    Raises:
        ValueError: it is no http or https URL with a host; the message does not show it.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").encode("idna").decode("ascii").rstrip(".")
        port = parts.port
    except ValueError:  # UnicodeError is one
        raise ValueError("the URL does not parse") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError("expected an http or https URL with a host")
    is_tls = parts.scheme == "https"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else ""
    return Target(
        is_tls=is_tls,
        host=host,
        port=port or (443 if is_tls else 80),
        path=path + query,
        authorization=_basic(parts.username, parts.password),
    )


def _basic(user: str | None, password: str | None) -> str | None:
    if user is None:
        return None
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
