"""Statements without their values."""

from __future__ import annotations

import random
import string

import pytest

from b1.db.texts import KEPT_CHARS, normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select  *\n from t\twhere a = 'it''s'  and b=12.5e-3", "select * from t where a = ? and b=?"),
        ("select a from t where c in ($1, $2,$3)", "select a from t where c in (?)"),
        ("select a from t where c in (1,2 , -3)", "select a from t where c in (?)"),
        ("insert into t (a,b) values (1,'x'),(2,'y'), ($3, $4) returning c", "insert into t (a, b) values (?) returning c"),
        ("select E'a\\'b', x from t", "select ?, x from t"),
        ("select 'a\\' , secret_column", "select ?, secret_column"),
        ("select $tag$ secret ' $tag$, $$more$$", "select ?, ?"),
        ("select U&'x', x'ff', B'01', n'text'", "select ?, ?, ?, ?"),
        ("select 1 -- for alice@example.com\nfrom t /* trace 42 */ where x = .5", "select ? from t where x = ?"),
        ('select "My 1 ""Column" from t1', 'select "My 1 ""Column" from t1'),
        ("select array[1,2,3], any($1::int[])", "select array[?], any(?::int[])"),
        ("select count(*) from a where (x,y) in ((1,2),(3,4))", "select count(*) from a where (x, y) in ((?))"),
        ("select data->>'key', 0xff, 1_000 from t;", "select data->>?, ?, ? from t"),
        ("SAVEPOINT b1_1", "SAVEPOINT b1_1"),
        ("", ""),
    ],
)  # fmt: skip
def test_values_go_and_names_stay(text: str, expected: str) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize("opening", ["'", "E'", "E'\\", "$$", "$t$", "/*", "--", "'a''"])
def test_what_never_ends_is_a_value(opening: str) -> None:
    assert "secret" not in normalised(f"select {opening}secret")


def test_a_text_of_any_length_becomes_a_short_one() -> None:
    many = ", ".join(f"column_{n}" for n in range(3000))
    found = normalised(f"select {many} from t")
    assert len(found) == KEPT_CHARS + 1 and found.endswith("…")


def test_a_cut_in_the_middle_of_a_value_shows_nothing_of_it() -> None:
    for padding in range(60):
        text = "select " + " " * (4096 - 40 + padding) + ", 'secret 12345 secret' , E'secret' , $a$ secret $a$ , 'x'"
        assert "secret" not in normalised(text) and "123" not in normalised(text)


def test_values_never_show_whatever_is_around_them() -> None:
    dice = random.Random(3)
    wrappers = ["'{}'", "E'{}'", "$${}$$", "$q${}$q$", "'it''s {}'", "U&'{}'", "-- {}\n", "/* {} */", "E'\\'{}'"]
    words = ["select", "a", ",", "(", ")", "=", "$1", "in", '"Quoted"', "::text", "12", "\n", "->>", "any"]
    for _ in range(3000):
        secret = "".join(dice.choices(string.ascii_lowercase, k=12))
        parts = [*dice.choices(words, k=6), dice.choice(wrappers).format(secret), *dice.choices(words, k=4)]
        assert secret not in normalised(" ".join(parts))
