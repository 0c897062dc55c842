"""What `b1.outbound` promises beside what the alerts' tests show: nothing in a header can begin another one."""

from __future__ import annotations

import pytest

from b1.outbound import Signer, Wire, parse_target


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nb", "ü"])
async def test_a_header_that_is_none_is_refused_before_anything_is_sent(value: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise AssertionError

    wire = Wire(parse_target("http://example.com/"), allow_private=False, resolve=resolve)
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeEncodeError is one, with words of its own
        await wire.post(b"", [("Surrogate-Key", value)], limit_s=1.0)


@pytest.mark.parametrize(
    "url", ["", "hook", "ftp://secret/x", "https://", "https://secret:0/", "https://secret:99999/"]
)
def test_what_is_no_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - its words are in the next line
        parse_target(url)
    assert "secret" not in str(refused.value)


def test_a_secret_that_is_none_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="expected whsec_") as refused:
        Signer("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert "MfKQ" not in str(refused.value)
