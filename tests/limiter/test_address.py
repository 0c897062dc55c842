"""The caller's address: spellings, proxies, and what nobody can make us believe."""

from __future__ import annotations

import pytest

from b1.limiter import address_key, client_address
from b1.limiter.address import canonical

Lines = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.3.4", "1.2.3.4"),
        (" 1.2.3.4 ", "1.2.3.4"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::ffff:102:304", "1.2.3.4"),
        ("[::ffff:1.2.3.4]:443", "1.2.3.4"),
        ("::1.2.3.4", "1.2.3.4"),
        ("::1", "::1"),
        ("::", "::"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::0001", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("2001:db8:1234:5678::1.2.3.4", "2001:db8:1234:5678::102:304"),
        ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
    ],
)
def test_every_spelling_of_an_address_becomes_one(text: str, expected: str) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "unknown", "_hidden", "localhost", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4:", "1.2.3.4:x",
     "[1.2.3.4]:80", "[2001:db8::1", "2001:db8::1]:443", "[::1]x", ":::", "2001:db8::1::", "1.2.3.4, 5.6.7.8", "\0",
     "١.٢.٣.٤", "1.2.3.4\n", "::ffff:1.2.3.4.5", "/run/app.sock", "a" * 100_000],
)  # fmt: skip
def test_what_cannot_be_read_is_counted_as_unknown(text: str) -> None:
    assert canonical(text) == ("1.2.3.4" if text == "1.2.3.4\n" else "unknown")


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("unknown", "unknown"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("64:ff9b::102:304", "64:ff9b::/64"),
        ("123:4567:89ab:cdef:ffff::1", "123:4567:89ab:cdef::/64"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address: str, key: str) -> None:
    assert address_key(address) == key


def _forwarded(*lines: bytes) -> Lines:
    return [(b"host", b"h"), *((b"x-forwarded-for", line) for line in lines)]


@pytest.mark.parametrize("mode", ["none", "0"])
def test_without_proxies_no_header_is_believed(mode: str) -> None:
    headers = [(b"client-ip", b"6.6.6.6"), *_forwarded(b"6.6.6.6")]
    assert client_address("1.2.3.4", headers, mode) == "1.2.3.4"


def test_azure_believes_the_header_that_its_front_end_overwrites() -> None:
    headers = [(b"client-ip", b"1.2.3.4:51234"), *_forwarded(b"6.6.6.6, 7.7.7.7:1")]
    assert client_address("10.0.0.1", headers, "azure") == "1.2.3.4"


def test_azure_without_it_takes_the_rightmost_forwarded_address() -> None:
    assert client_address("10.0.0.1", _forwarded(b"6.6.6.6, 1.2.3.4:5678"), "azure") == "1.2.3.4"


def test_azure_believes_none_of_several_client_ips() -> None:
    headers = [(b"client-ip", b"1.2.3.4"), (b"client-ip", b"6.6.6.6")]
    assert client_address("10.0.0.1", headers, "azure") == "unknown"


def test_a_spoofed_client_ip_is_ignored_behind_other_proxies() -> None:
    headers = [(b"client-ip", b"6.6.6.6"), *_forwarded(b"1.2.3.4")]
    assert client_address("10.0.0.1", headers, "1") == "1.2.3.4"


@pytest.mark.parametrize(
    ("lines", "hops", "expected"),
    [
        ([b"6.6.6.6, 1.2.3.4"], "1", "1.2.3.4"),
        ([b"6.6.6.6, 1.2.3.4, 10.0.0.9"], "2", "1.2.3.4"),
        ([b"6.6.6.6", b"1.2.3.4", b"10.0.0.9"], "2", "1.2.3.4"),
        ([b"6.6.6.6, 1.2.3.4", b"10.0.0.9"], "2", "1.2.3.4"),
        ([b"6.6.6.6, 1.2.3.4, "], "1", "1.2.3.4"),
        ([b"1.2.3.4,,"], "1", "1.2.3.4"),
        ([b"6.6.6.6, unknown"], "1", "unknown"),
        ([b"6.6.6.6, _id"], "1", "unknown"),
        ([b"1.2.3.4"], "2", "unknown"),
        ([b""], "1", "unknown"),
        ([b"6.6.6.6, [2001:db8::1]:443"], "1", "2001:db8::1"),
    ],
)
def test_forwarded_addresses_are_counted_from_the_right_over_all_lines(
    lines: list[bytes], hops: str, expected: str
) -> None:
    assert client_address("10.0.0.1", _forwarded(*lines), hops) == expected


@pytest.mark.parametrize("mode", ["azure", "1", "3"])
def test_a_request_that_no_proxy_forwarded_has_its_peers_address(mode: str) -> None:
    assert client_address("1.2.3.4", [], mode) == "1.2.3.4"


def test_a_unix_socket_has_no_address() -> None:
    assert client_address(None, [], "none") == "unknown"
