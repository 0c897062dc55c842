"""Fields are read strictly; the names of cases are those of the public http-tests/cache-tests suite."""

import pytest

from b1.asgi.caching.directives import Directives, age_of, date_of, elements


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        pytest.param([b"max-age=3600"], 3600, id="freshness-max-age"),
        pytest.param([b'max-age="3600"'], 3600, id="freshness-max-age-quoted"),
        pytest.param([b"max-age='3600'"], 0, id="freshness-max-age-single-quoted"),
        pytest.param([b'extension="max-age=100", max-age=1'], 1, id="freshness-max-age-ignore-quoted"),
        pytest.param([b'max-age=1, extension="max-age=100"'], 1, id="freshness-max-age-ignore-quoted-rev"),
        pytest.param([b'extension="max-age=100, x", max-age="1"'], 1, id="freshness-max-age-ignore-quoted-all"),
        pytest.param([b"max-age =100"], 0, id="freshness-max-age-space-before-equals"),
        pytest.param([b"max-age= 100"], 0, id="freshness-max-age-space-after-equals"),
        pytest.param([b"max-age=0"], 0, id="freshness-max-age-0"),
        pytest.param([b"max-age=a100"], 0, id="freshness-max-age-a100"),
        pytest.param([b"max-age=100a"], 0, id="freshness-max-age-100a"),
        pytest.param([b"max-age=-100"], 0, id="freshness-max-age-negative"),
        pytest.param([b"max-age=003600"], 3600, id="freshness-max-age-leading-zero"),
        pytest.param([b"max-age=3600.0"], 0, id="freshness-max-age-decimal-zero"),
        pytest.param([b"max-age=2147483648"], 2**31, id="freshness-max-age-max"),
        pytest.param([b"max-age=99999999999"], 2**31, id="freshness-max-age-max-plus"),
        pytest.param([b"max-age=" + b"9" * 4000], 2**31, id="thousands-of-digits"),
        pytest.param([b"foobar, MaX-aGe=3600"], 3600, id="freshness-max-age-case-insenstive"),
        pytest.param([b"max-age=1800, max-age=1"], 1, id="freshness-max-age-two-fresh-stale-sameline"),
        pytest.param([b"max-age=1", b"max-age=1800"], 1, id="freshness-max-age-two-stale-fresh-sepline"),
        pytest.param([b"max-age"], 0, id="without-a-value"),
        pytest.param([b"no-store"], None, id="not-there"),
    ],
)
def test_a_duration_is_what_it_surely_is(lines: list[bytes], seconds: int | None) -> None:
    assert seconds == Directives(lines).seconds(b"max-age")


@pytest.mark.parametrize(
    ("lines", "age"),
    [
        pytest.param([b"abc"], 0, id="age-parse-nonnumeric"),
        pytest.param([b"-7200"], 0, id="age-parse-negative"),
        pytest.param([b"7200.0"], 0, id="age-parse-float"),
        pytest.param([b"7200,0"], 7200, id="age-parse-suffix"),
        pytest.param([b"7200", b"0"], 7200, id="age-parse-suffix-twoline"),
        pytest.param([b"0,7200"], 0, id="age-parse-prefix"),
        pytest.param([b"0", b"7200"], 0, id="age-parse-prefix-twoline"),
        pytest.param([b"7200, 7200"], 7200, id="age-parse-dup-old"),
        pytest.param([b"0, 0"], 0, id="age-parse-dup-0"),
        pytest.param([], 0, id="age-absent"),
    ],
)
def test_an_age_is_its_first_number(lines: list[bytes], age: int) -> None:
    assert age == age_of(lines)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0),
        (b"Sun Nov  6 08:49:37 1994", 784111777.0),
        (b"Thu, 18 Aug 50 02:01:18 GMT", None),
        (b"Thu, 18 Aug 2050 02:01:18 UTC", None),
        (b"Thu 18 Aug 2050 02:01:18 GMT", None),
        (b"Thu, 18  Aug  2050 02:01:18 GMT", None),
        (b"Thu, 18 Aug 2050 2:01:18 GMT", None),
        (b"Thu, 38 Aug 2050 02:01:18 GMT", None),
        (b"0", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_a_date_has_one_of_three_forms(text: bytes, seconds: float | None) -> None:
    assert seconds == date_of(text)


def test_elements_of_a_list_come_from_all_lines_and_quotes_hide_commas() -> None:
    assert [b"a", b'b="1,2"', b"c", b'd="x'] == elements([b' a ,, b="1,2"', b",", b'c,d="x'])


def test_a_long_hostile_list_is_read_in_linear_time() -> None:
    hostile = (b'"' * 20_000, b'"\\' * 20_000, b'a="' * 20_000, b"," * 40_000, b'x="a,b",' * 5_000)
    assert [1, 1] == [len(elements([line])) for line in hostile[:2]]
    assert 5_000 == len(elements([hostile[4]]))
    assert all(elements([line]) is not None for line in hostile)
