"""Which addresses may be connected to: those of the public internet.

The address is judged, never the name: a public name may resolve to the metadata service. Addresses that carry an IPv4
address inside (mapped, compatible, NAT64, 6to4, Teredo) are judged by both. 168.63.129.16 looks public and is Azure's
own wire server.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PLATFORM = {ipaddress.ip_address("168.63.129.16")}
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def is_public(text: str) -> bool:
    """Say whether an address, as the resolver writes it, belongs to the public internet."""
    address = ipaddress.ip_address(text)
    return all(_is_public(one) for one in (address, *_embedded(address)))


def is_literal(host: str) -> bool:
    """Say whether a host is an address already, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


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
