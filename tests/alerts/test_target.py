"""URLs and addresses."""

from __future__ import annotations

import pytest

from b1.alerts.target import parse_target
from b1.errors import InvalidSetting
from b1.outbound import is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "168.63.129.16", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1",
        "::1", "::", "fe80::1", "fe80::1%3", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "fec0::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::2",
        "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::10.0.0.1", "2002:7f00:1::", "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_seen_through_its_disguise(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "52.1.2.3", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"])
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "shape"),
    [
        ("https://hooks.slack.com/services/T/B/x", "slack"),
        ("https://contoso.webhook.office.com/webhookb2/x", "teams"),
        ("https://prod-1.westeurope.logic.azure.com:443/workflows/x?sig=y", "teams"),
        ("https://default1.00.environment.api.powerplatform.com/powerautomate/x", "teams"),
        ("https://alerts.example.com/hook", "alertmanager"),
        ("https://hooks.slack.com.evil.example/", "alertmanager"),
        ("slack+https://chat.example.com/hooks/x", "slack"),
        ("teams+https://flow.example.com/x", "teams"),
        ("alertmanager+https://hooks.slack.com/x", "alertmanager"),
    ],
)
def test_the_url_chooses_the_form(url: str, shape: str) -> None:
    assert parse_target(url).shape == shape


def test_a_url_is_taken_apart() -> None:
    target = parse_target("https://me:p%40ss@bücher.example:8443/a b?x=1&y=ü#part")
    assert (target.is_tls, target.host, target.port, target.path) == (
        True, "xn--bcher-kva.example", 8443, "/a%20b?x=1&y=%C3%BC",
    )  # fmt: skip
    assert target.authorization == "Basic bWU6cEBzcw=="
    assert target.host_header == "xn--bcher-kva.example:8443"
    assert parse_target("http://[::1]:80").host_header == "[::1]"


def test_a_url_is_a_secret() -> None:
    target = parse_target("https://me:pass@example.com/services/token?key=1")
    assert not any(word in repr(target) for word in ("pass", "token", "key", "Basic"))


@pytest.mark.parametrize(
    "url",
    ["", "hook", "ftp://secret/x", "https://", "https:///secret", "https://secret:0/", "https://secret:99999/",
     "smoke+https://secret/"],
)  # fmt: skip
def test_what_is_no_webhook_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        parse_target(url)
    assert "secret" not in str(refused.value)


def test_a_line_break_cannot_reach_the_request() -> None:
    assert "\n" not in parse_target("https://example.com/a%0d%0ab\r\nHost: x").path
