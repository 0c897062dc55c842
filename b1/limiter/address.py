"""Who is calling, by network address: from the socket and from the headers that trusted proxies wrote.

Nothing that a client can write itself is believed, and nothing that cannot be read lets a caller off: it is counted as
``unknown``, together with everybody else who cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from socket import AF_INET6, inet_ntop, inet_pton

UNKNOWN = "unknown"
IPV6_PREFIX_BITS = 64
# Whoever has a whole /56 or /48 has 256 or 65 536 networks to call from: together they have so many times the quota.
AGGREGATES = ((56, 4), (48, 16))
_LONGEST = 64
_ZERO = b"\0"
_FIRST_COMPATIBLE = 1 << 24  # ::1.0.0.0; below lie ::, ::1 and nothing that was ever an IPv4 address
_WITH_PORT = re.compile(r"([^:]*)(?::\d{1,5})?|\[([^\[\]]*)\](?::\d{1,5})?|([^\[\]]*:[^\[\]]*:[^\[\]]*)", re.ASCII)


def client_address(peer: str | None, headers: Iterable[tuple[bytes, bytes]], mode: str) -> str:
    """Return the caller's canonical address, or ``unknown``.

    Args:
        peer: the other end of the socket; None for a unix socket.
        headers: names in lower case.
        mode: ``azure`` (the front end overwrites ``client-ip`` and appends to ``X-Forwarded-For``), ``none`` (believe
            the socket alone), or how many proxies append to ``X-Forwarded-For``.
    """
    if mode == "none" or mode == "0":
        return canonical(peer or "")
    if mode == "azure":
        named = [value for name, value in headers if name == b"client-ip"]
        if named:
            # The front end leaves exactly one; several are somebody's attempt.
            return canonical(named[0].decode("latin-1")) if len(named) == 1 else UNKNOWN
        hops = 1
    else:
        hops = int(mode)
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    if not lines:
        return canonical(peer or "")
    return canonical(_from_the_right(lines, hops))


def canonical(text: str) -> str:
    """Return an address in one spelling, without port, brackets and zone; ``unknown`` when it is none.

    IPv4 inside IPv6 (``::ffff:0:0/96``, and the old ``::1.2.3.4``) is that IPv4 address.
    """
    text = text.strip()
    return _canonical(text) if len(text) <= _LONGEST else UNKNOWN  # what is remembered has a bound, in bytes too


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    match = _WITH_PORT.fullmatch(text)
    if match is None:
        return UNKNOWN
    bare = match[1] or match[2] or match[3] or ""
    try:
        if ":" not in bare:
            return str(IPv4Address(bare)) if match[2] is None else UNKNOWN
        address = IPv6Address(bare.partition("%")[0])
    except AddressValueError:
        return UNKNOWN
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    number = int(address)
    if _FIRST_COMPATIBLE <= number < 1 << 32:
        return str(IPv4Address(number))
    return str(address)


def address_key(address: str) -> str:
    """Return what an address is counted under: an IPv6 address counts as its /64, which one customer owns whole."""
    if ":" not in address:
        return address
    try:
        return _prefix(inet_pton(AF_INET6, address), IPV6_PREFIX_BITS)
    except OSError:
        return UNKNOWN


def network_of(address: str) -> str | bytes:
    """Return something that is equal for what `address_key` counts together, ten times as fast, for look-ups here."""
    if ":" not in address:
        return address
    try:
        return inet_pton(AF_INET6, address)[: IPV6_PREFIX_BITS // 8]
    except OSError:
        return UNKNOWN


def aggregates(address: str) -> tuple[tuple[str, int, int], ...]:
    """Return the networks around an IPv6 address that are counted too: key, prefix length, times the quota."""
    if ":" not in address:
        return ()
    try:
        packed = inet_pton(AF_INET6, address)
    except OSError:
        return ()
    return tuple([(_prefix(packed, bits), bits, times) for bits, times in AGGREGATES])


def _prefix(packed: bytes, bits: int) -> str:
    return f"{inet_ntop(AF_INET6, packed[: bits // 8].ljust(16, _ZERO))}/{bits}"


def _from_the_right(lines: list[bytes], nth: int) -> str:
    # Empty elements are none (RFC 9110), and fewer elements than proxies means that somebody came another way.
    for line in reversed(lines):
        for element in reversed(line.split(b",")):
            element = element.strip()
            if element:
                nth -= 1
                if nth == 0:
                    return element.decode("latin-1")
    return ""
