"""A record comes back as it went in, or not at all."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b1.errors import StoreUnavailable
from b1.idempotency.headers import storable_headers
from b1.idempotency.record import Outcome, Record, Unstored, decode, encode, entity_of
from b1.units import KIB, MIB

NAMES = st.sampled_from([b"content-type", b"location", b"etag", b"link"])
RECORDS = st.builds(
    Record,
    status=st.integers(200, 599),
    headers=st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=4).map(tuple),
    body=st.binary(max_size=200) | st.binary(min_size=1, max_size=4).map(lambda seed: seed * 2000),
    original_ms=st.integers(0, 2**63),
    entity=st.text(max_size=20),
    actor=st.text(max_size=20),
    is_compared=st.just(True),  # says something of the request that gets it, and is not stored
)
OUTCOMES = RECORDS | st.builds(Unstored, original_ms=st.integers(0, 2**63), actor=st.text(max_size=20))
A_RECORD = Record(
    status=201,
    headers=((b"content-type", b"application/json"), (b"location", b"/things/7")),
    body=b'{"id":7}',
    original_ms=1_750_000_000_000,
    entity="7",
    actor="ann",
)


@given(OUTCOMES)
def test_an_outcome_survives_its_encoding(outcome: Outcome) -> None:
    assert decode(encode(outcome)) == outcome


def test_actors_may_be_any_string() -> None:
    assert decode(encode(Unstored(original_ms=1, actor="\ud800"))) == Unstored(original_ms=1, actor="\ud800")


def test_bodies_over_1_kib_are_compressed() -> None:
    record = Record(status=200, headers=(), body=b"a" * 64 * KIB, original_ms=0)
    assert len(encode(record)) < KIB


@given(st.data())
def test_damage_is_never_replayed(data: st.DataObject) -> None:
    good = encode(A_RECORD)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StoreUnavailable):
        decode(bytes(bad))


@pytest.mark.parametrize("length", [0, 1, 23, 24, 30])
def test_a_truncated_record_is_refused(length: int) -> None:
    with pytest.raises(StoreUnavailable):
        decode(encode(A_RECORD)[:length])


@given(st.binary(max_size=100))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(StoreUnavailable):
        decode(noise)


def test_a_later_version_is_refused() -> None:
    with pytest.raises(StoreUnavailable):
        decode(b"\x02" + encode(A_RECORD)[1:])


def test_a_body_that_inflates_beyond_every_cap_is_refused() -> None:
    from b1.idempotency import record as module

    bomb = zlib.compress(b"\0" * (2 * MIB))
    with pytest.raises(StoreUnavailable):
        decode(module._pack(module._COMPRESSED, 200, 0, [[], "", ""], bomb))


def test_only_headers_of_the_outcome_are_kept() -> None:
    sent = [
        (b"Content-Type", b"text/plain"),
        (b"Location", b"/x"),
        (b"set-cookie", b"a=b"),
        (b"date", b"now"),
        (b"content-length", b"3"),
        (b"x-request-id", b"r"),
        (b"retry-after", b"1"),
        (b"x-ratelimit-limit", b"9"),
    ]
    assert storable_headers(sent) == ((b"content-type", b"text/plain"), (b"location", b"/x"))


@pytest.mark.parametrize(
    ("headers", "body", "entity"),
    [
        (((b"content-type", b"application/json"),), b'{"id":0}', "0"),
        (((b"content-type", b"application/json"),), b'{"id":"a"}', "a"),
        (((b"content-type", b"application/json"),), b'{"id":true}', ""),
        (((b"content-type", b"application/json"),), b"[1]", ""),
        (((b"content-type", b"application/json"), (b"location", b"/things/9?x=1")), b"broken", "9"),
        (((b"location", b"https://host/things/9/"),), b"", "9"),
        ((), b"", ""),
    ],
)
def test_the_entity_is_found_in_the_body_or_the_location(
    headers: tuple[tuple[bytes, bytes], ...], body: bytes, entity: str
) -> None:
    assert entity_of(headers, body) == entity
