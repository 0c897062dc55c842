"""Where a webhook goes: the URL taken apart, and which addresses may be connected to.

The address is judged, never the name: a public name may resolve to the metadata service. Addresses that carry an IPv4
address inside (mapped, compatible, NAT64, 6to4, Teredo) are judged by both. 168.63.129.16 looks public and is Azure's
own wire server.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from b1.errors import InvalidSetting

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SHAPES = ("alertmanager", "slack", "teams")
_SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
_TEAMS_HOSTS = (".webhook.office.com", ".logic.azure.com", ".powerplatform.com", ".powerautomate.com")
_PLATFORM = {ipaddress.ip_address("168.63.129.16")}
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver. Its repr names the host alone: such URLs are secrets.

    Attributes:
        shape: which body it understands.
        path: the request target, percent-encoded.
        authorization: from the URL's user and password.
    """

    shape: str
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
    """Take a webhook's URL apart.

    Raises:
        InvalidSetting: it is no http or https URL with a host; the URL is not shown.
    """
    try:
        parts = urlsplit(url.strip())
        asked, _, scheme = parts.scheme.rpartition("+")
        host = (parts.hostname or "").encode("idna").decode("ascii").rstrip(".")
        port = parts.port
    except ValueError:  # UnicodeError is one
        raise _invalid() from None
    if scheme not in ("http", "https") or asked not in ("", *SHAPES) or not host or port == 0:
        raise _invalid()
    is_tls = scheme == "https"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else ""
    return Target(
        shape=asked or _shape_of(host),
        is_tls=is_tls,
        host=host,
        port=port or (443 if is_tls else 80),
        path=path + query,
        authorization=_basic(parts.username, parts.password),
    )


def is_public(text: str) -> bool:
    """Say whether an address, as the resolver writes it, belongs to the public internet."""
    address = ipaddress.ip_address(text)
    return all(_is_public(one) for one in (address, *_embedded(address)))


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and any(True for _ in _embedded(address)):
        return True  # a shell; what it carries is judged
    is_site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or is_site_local or address in _PLATFORM)


def _embedded(address: Address) -> Iterator[ipaddress.IPv4Address]:
    if not isinstance(address, ipaddress.IPv6Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    low = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if any(address in network for network in _NAT64) or address in _COMPATIBLE:
        yield low


def _shape_of(host: str) -> str:
    if host in _SLACK_HOSTS:
        return "slack"
    return "teams" if host.endswith(_TEAMS_HOSTS) else "alertmanager"


def _basic(user: str | None, password: str | None) -> str | None:
    if user is None:
        return None
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _invalid() -> InvalidSetting:
    return InvalidSetting(
        "ALERT_WEBHOOK_URL=*** does not parse",
        remedy="expected https://host/path; slack+https://… or teams+https://… choose the body's form",
    )
