"""What counts as a key, and which spellings are the same one."""

from __future__ import annotations

import pytest

from b1.errors import IdempotencyKeyInvalid
from b1.idempotency.key import parse_key, parse_value

ACCEPTED = [
    (b"8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
    # The two examples of the IETF draft.
    (b'"8e03978e-40d5-43e8-bc93-6894a57f9324"', "8e03978e-40d5-43e8-bc93-6894a57f9324"),
    (b'"clkyoesmbgybucifusbbtdsbohtyuuwz"', "clkyoesmbgybucifusbbtdsbohtyuuwz"),
    (b" \tkey\t ", "key"),
    (b"!#$%&'()*+-./:<=>?@[\\]^_`{|}~", "!#$%&'()*+-./:<=>?@[\\]^_`{|}~"),
    (rb'"say \"hi\" \\ now"'.replace(b" ", b"_"), 'say_"hi"_\\_now'),
    (b'"a,b;c"', "a,b;c"),
    (b"0", "0"),
    (b"x" * 255, "x" * 255),
    (b'"' + b"x" * 255 + b'"', "x" * 255),
    (b"?1", "?1"),
    (b":YWJj:", ":YWJj:"),
]

REFUSED = {
    "empty": b"",
    "only space": b"   ",
    "empty string": b'""',
    "256 characters": b"x" * 256,
    "256 in quotes": b'"' + b"x" * 256 + b'"',
    "list of strings": b'"a", "b"',
    "bare list": b"a,b",
    "bare parameter": b"a;b",
    "bare quote": b'a"b',
    "parameter": b'"a";x=1',
    "after the string": b'"a"b',
    "unterminated": b'"a',
    "one quote": b'"',
    "unknown escape": rb'"\n"',
    "escaped end": rb'"a\"',
    "space in bare": b"a b",
    "space in quotes": b'"a b"',
    "latin-1": "é".encode("latin-1"),
    "utf-8": "é".encode(),
    "utf-8 in quotes": '"é"'.encode(),
    "tab": b"a\tb",
    "delete": b"a\x7f",
    "nul": b"a\x00",
}


@pytest.mark.parametrize(("value", "key"), ACCEPTED)
def test_a_well_formed_value_gives_its_key(value: bytes, key: str) -> None:
    assert parse_value(value) == key


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())
def test_a_malformed_value_is_refused(value: bytes) -> None:
    with pytest.raises(IdempotencyKeyInvalid):
        parse_value(value)


def test_no_header_is_no_key() -> None:
    assert parse_key([(b"content-type", b"text/plain")]) is None


@pytest.mark.parametrize("name", [b"idempotency-key", b"x-idempotency-key"])
def test_either_header_carries_the_key(name: bytes) -> None:
    assert parse_key([(name, b"k")]) == "k"


def test_quoted_and_bare_are_the_same_key() -> None:
    assert parse_key([(b"idempotency-key", b'"k"'), (b"x-idempotency-key", b"k")]) == "k"


def test_two_headers_with_different_keys_are_refused() -> None:
    with pytest.raises(IdempotencyKeyInvalid, match="different keys"):
        parse_key([(b"idempotency-key", b"a"), (b"x-idempotency-key", b"b")])


@pytest.mark.parametrize("second", [b"a", b"b"])
def test_two_lines_of_one_header_are_refused(second: bytes) -> None:
    with pytest.raises(IdempotencyKeyInvalid, match="2 lines"):
        parse_key([(b"idempotency-key", b"a"), (b"idempotency-key", second)])


def test_the_refusal_does_not_repeat_the_key() -> None:
    with pytest.raises(IdempotencyKeyInvalid) as refused:
        parse_value(b"secret,secret")
    assert "secret" not in str(refused.value)
