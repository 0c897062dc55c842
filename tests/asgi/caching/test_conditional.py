"""Conditions in the order of RFC 9110 §13.2.2; ids are those of http-tests/cache-tests where it has the case."""

import pytest

from b1.asgi.caching.conditional import judge, matches
from b1.types import Headers

ETAG = b'"abcdef"'
MODIFIED_S = 784111777.0
THEN, BEFORE, AFTER = (
    b"Sun, 06 Nov 1994 08:49:37 GMT",
    b"Sun, 06 Nov 1994 08:49:36 GMT",
    b"Sun, 06 Nov 1994 08:49:38 GMT",
)


def inm(value: bytes) -> Headers:
    return [(b"if-none-match", value)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param([], 200, id="none"),
        pytest.param(inm(b'"abcdef"'), 304, id="conditional-etag-strong-respond"),
        pytest.param(inm(b'W/"abcdef"'), 304, id="conditional-etag-weak-respond"),
        pytest.param(inm(b'"abcdef", "1234", "5678"'), 304, id="conditional-etag-strong-respond-multiple-first"),
        pytest.param(inm(b'"1234", "abcdef", "5678"'), 304, id="conditional-etag-strong-respond-multiple-second"),
        pytest.param(inm(b'"1234", "5678", "abcdef"'), 304, id="conditional-etag-strong-respond-multiple-last"),
        pytest.param([*inm(b'"1234"'), *inm(ETAG)], 304, id="two-lines"),
        pytest.param(inm(b"*"), 304, id="any"),
        pytest.param(inm(b"abcdef"), 200, id="conditional-etag-quoted-respond-unquoted"),
        pytest.param(inm(b'w/"abcdef"'), 200, id="conditional-etag-weak-respond-lowercase"),
        pytest.param(inm(b'W\\"abcdef"'), 200, id="conditional-etag-weak-respond-backslash"),
        pytest.param(inm(b'W"abcdef"'), 200, id="conditional-etag-weak-respond-omit-slash"),
        pytest.param(inm(b'"abc'), 200, id="unterminated"),
        pytest.param(inm(b'"other"'), 200, id="another"),
        pytest.param([*inm(ETAG), (b"if-modified-since", BEFORE)], 304, id="conditional-etag-precedence"),
        pytest.param([*inm(b'"other"'), (b"if-modified-since", AFTER)], 200, id="etag-wins-over-date"),
        pytest.param([(b"if-modified-since", THEN)], 304, id="conditional-lm-fresh"),
        pytest.param([(b"if-modified-since", AFTER)], 304, id="conditional-lm-fresh-earlier"),
        pytest.param([(b"if-modified-since", BEFORE)], 200, id="modified-later"),
        pytest.param(
            [(b"if-modified-since", b"Sunday, 06-Nov-94 08:49:37 GMT")], 304, id="conditional-lm-fresh-rfc850"
        ),
        pytest.param([(b"if-modified-since", b"yesterday")], 200, id="no-date"),
        pytest.param([(b"if-modified-since", THEN)] * 2, 200, id="two-dates"),
        pytest.param([(b"if-match", ETAG)], 200, id="if-match"),
        pytest.param([(b"if-match", b"*")], 200, id="if-match-any"),
        pytest.param([(b"if-match", b'W/"abcdef"')], 412, id="if-match-is-strong"),
        pytest.param([(b"if-match", b'"other"')], 412, id="if-match-another"),
        pytest.param([(b"if-match", b'"other"'), *inm(ETAG)], 412, id="if-match-comes-first"),
        pytest.param([(b"if-match", ETAG), *inm(ETAG)], 304, id="if-match-then-none-match"),
        pytest.param([(b"if-unmodified-since", BEFORE)], 412, id="if-unmodified-since"),
        pytest.param([(b"if-unmodified-since", THEN)], 200, id="if-unmodified-since-then"),
        pytest.param(
            [(b"if-match", ETAG), (b"if-unmodified-since", BEFORE)], 200, id="if-match-wins-over-unmodified-since"
        ),
    ],
)
def test_conditions_have_one_order(headers: Headers, status: int) -> None:
    assert status == judge(headers, ETAG, MODIFIED_S)


def test_without_a_date_of_change_dates_decide_nothing() -> None:
    assert [200, 200] == [judge([(name, THEN)], ETAG, None) for name in (b"if-modified-since", b"if-unmodified-since")]


def test_a_weak_tag_matches_weakly_alone() -> None:
    assert (True, False) == tuple(matches(b'"a", W/"a"', b'W/"a"', is_strong=strong) for strong in (False, True))


def test_a_tag_may_hold_commas_and_obs_text() -> None:
    assert matches(b'"1", "a,\xfc"', b'"a,\xfc"', is_strong=True)


def test_a_long_hostile_list_is_read_in_linear_time() -> None:
    hostile = [b'"a"' * 10_000 + b"x", b'"a" ' * 10_000 + b"x", b"," * 30_000 + b"x", b'W/"' * 10_000, b'" ' * 15_000]
    assert [False] * 5 == [matches(value, b'"b"', is_strong=False) for value in hostile]
