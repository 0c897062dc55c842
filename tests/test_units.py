"""Text becomes numbers once, at the edge."""

import pytest

from b1.units import format_bytes, parse_bytes, parse_seconds, parse_switch, percent_up_to


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64MiB", 64 * 1024**2),
        ("64m", 64 * 1024**2),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("10MB", 10_000_000),
        ("7", 7),
        (" 1 k ", 1024),
    ],
)
def test_a_size_is_read_in_bytes(text: str, expected: int) -> None:
    assert expected == parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("250ms", 0.25), ("5s", 5.0), ("2min", 120.0), ("24h", 86400.0), ("1.5", 1.5)]
)
def test_a_duration_is_read_in_seconds(text: str, expected: float) -> None:
    assert expected == parse_seconds(text)


@pytest.mark.parametrize("text", ["", "MiB", "-1", "64 parsecs", "1e3", "0x10", "1 2"])
def test_what_is_no_size_or_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected something like"):
        parse_bytes(text)
    with pytest.raises(ValueError, match="expected something like"):
        parse_seconds(text)


def test_a_switch_is_one_of_eight_words() -> None:
    assert [parse_switch(word) for word in ("1", "True", "yes", "ON", "0", "false", "No", "off")] == [True] * 4 + [
        False
    ] * 4
    with pytest.raises(ValueError, match="expected 1 or 0"):
        parse_switch("maybe")


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (1024, "1 KiB"), (1750 * 1024**2, "1750 MiB"), (2 * 1024**3, "2 GiB"), (25_276_510_208, "23.54 GiB")],
)
def test_bytes_are_written_for_a_person(count: int, expected: str) -> None:
    assert expected == format_bytes(count)


@pytest.mark.parametrize(("text", "expected"), [("5", 5.0), (" 2.5% ", 2.5), ("0", 0.0), ("25", 25.0)])
def test_a_percentage_may_have_its_sign(text: str, expected: float) -> None:
    assert percent_up_to(25)(text) == expected


@pytest.mark.parametrize("text", ["", "%", "26", "-1", "nan", "five", "5%%"])
def test_a_percentage_that_is_none_or_too_large_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a percentage from 0 to 25"):
        percent_up_to(25)(text)
