"""Answers as bytes: whole or nothing, whatever a shared store gives back."""

from __future__ import annotations

import random

import pytest

from b1.asgi.caching.compression import GZIP, IDENTITY
from b1.asgi.caching.encoding import decode, encode, life_ms
from b1.asgi.caching.stored import SharedPairs, StoredAnswer, encoded_etag
from b1.types import Headers

NOW_S = 1000.0
HEADERS: Headers = [(b"content-type", b"text/plain"), (b"last-modified", b"Sun, 06 Nov 1994 08:49:37 GMT"), (b"x", b"")]


def made(*, told: bytes | None = b"private, max-age=%d") -> tuple[StoredAnswer, bytes]:
    answer = StoredAnswer(404, HEADERS, is_compressible=True)
    answer.add(IDENTITY, b'"a"', 5)
    answer.add(GZIP, encoded_etag(b'"a"', GZIP), 3)
    answer.made_s, answer.fresh_until_s, answer.stale_until_s, answer.error_until_s = 990.0, 1060.0, 1090.0, 1360.0
    answer.told, answer.client_ttl_s, answer.modified_s = told, 10, 784111777.0
    return answer, b"plainzip"


def parts(answer: StoredAnswer) -> list[object]:
    return [
        answer.status, answer.common, answer.is_compressible, answer.made_s, answer.fresh_until_s, answer.stale_until_s,
        answer.error_until_s, answer.told, answer.client_ttl_s, answer.modified_s,
        [(one.encoding, one.etag, one.start, one.end, one.head, one.not_modified) for one in answer.variants.values()],
    ]  # fmt: skip


@pytest.mark.parametrize("told", [None, b"private, max-age=%d"])
def test_an_answer_comes_back_as_it_was(told: bytes | None) -> None:
    answer, body = made(told=told)
    data = encode("key", answer, body, NOW_S)
    back = decode("key", data, life_ms(answer, NOW_S), NOW_S, SharedPairs())
    assert back is not None
    assert (parts(answer), body) == (parts(back[0]), back[1])


def large(body: bytes) -> StoredAnswer:
    answer = StoredAnswer(200, HEADERS, is_compressible=False)
    answer.add(IDENTITY, b'"a"', len(body))
    answer.made_s = NOW_S
    answer.fresh_until_s = answer.stale_until_s = answer.error_until_s = NOW_S + 60
    return answer


def test_a_large_body_that_packs_well_takes_less_room() -> None:
    body = b'{"name": "a guest", "nights": 3}\n' * 500
    data = encode("key", large(body), body, NOW_S)
    back = decode("key", data, 60_000, NOW_S, SharedPairs())
    assert back is not None
    assert (body, True) == (back[1], len(data) < len(body) // 10)


def test_a_large_body_that_does_not_is_left_as_it_is() -> None:
    body = random.Random(5).randbytes(5000)
    data = encode("key", large(body), body, NOW_S)
    back = decode("key", data, 60_000, NOW_S, SharedPairs())
    assert back is not None
    assert (body, True) == (back[1], body in data)


def test_every_damage_of_a_packed_body_is_noticed() -> None:
    body = b"line\n" * 1000
    data = encode("key", large(body), body, NOW_S)
    chance = random.Random(6)
    for at in range(54, len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        assert decode("key", bytes(flipped), 60_000, NOW_S, SharedPairs()) is None
    bomb = bytearray(data)
    bomb[3] ^= 2  # says that it is not packed
    assert decode("key", bytes(bomb), 60_000, NOW_S, SharedPairs()) is None


def test_its_times_follow_what_the_store_says_is_left() -> None:
    """The other host's clock is hours away; only what is left of the entry's life counts."""
    answer, body = made()
    data = encode("key", answer, body, NOW_S)
    back = decode("key", data, life_ms(answer, NOW_S) - 7000, 50_000.0, SharedPairs())
    assert back is not None
    times = (back[0].made_s, back[0].fresh_until_s, back[0].stale_until_s, back[0].error_until_s)
    assert (50_000 - 17, 50_000 + 53, 50_000 + 83, 50_000 + 353) == times


def test_another_keys_answer_is_none() -> None:
    answer, body = made()
    assert decode("other", encode("key", answer, body, NOW_S), 1, NOW_S, SharedPairs()) is None


def test_every_damage_is_noticed() -> None:
    answer, body = made()
    data = encode("key", answer, body, NOW_S)
    random.seed(3)
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << random.randrange(8)
        back = decode("key", bytes(flipped), life_ms(answer, NOW_S), NOW_S, SharedPairs())
        if back is not None:  # in the times, which nothing else can contradict
            assert (answer.common, body) == (back[0].common, back[1])
            assert 10 <= at < 34 or at in (3, 4, 5)
    for length in range(len(data)):
        assert decode("key", data[:length], 1, NOW_S, SharedPairs()) is None
    assert decode("key", data + b"x", 1, NOW_S, SharedPairs()) is None


def test_noise_is_none() -> None:
    random.seed(4)
    answer, body = made()
    head = encode("key", answer, body, NOW_S)[:54]
    for _ in range(2000):
        noise = random.randbytes(random.randrange(200))
        assert decode("key", noise, 1, NOW_S, SharedPairs()) is None
        assert decode("key", head + noise, 1, NOW_S, SharedPairs()) is None


def test_headers_of_many_answers_are_one_object() -> None:
    pairs = SharedPairs()
    assert pairs.of(b"a", b"1" * 10) is pairs.of(b"a", b"1" * 10)
    for number in range(10_000):
        pairs.of(b"a", b"%d" % number)
    assert len(pairs._pairs) <= 4096
