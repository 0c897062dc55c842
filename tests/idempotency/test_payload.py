"""What a body says: by its parts, whatever stands between them, however it was cut, without being held."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b1.idempotency.multipart import PARTS_MOST
from b1.idempotency.payload import JSON_MOST_BYTES, Payload
from b1.units import KIB, MIB

Part = tuple[bytes, bytes]  # the head's lines, the content
NAME: Part = (b'Content-Disposition: form-data; name="property"', b"7")
SCAN: Part = (
    b'Content-Disposition: form-data; name="scan"; filename="passport.jpg"\r\nContent-Type: image/jpeg',
    b"\xff\xd8 picture \r\n--not the boundary\r\n",
)


def multipart(*parts: Part, boundary: bytes = b"x", before: bytes = b"", after: bytes = b"\r\n") -> bytes:
    written = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for head, content in parts)
    return before + written + b"--%b--" % boundary + after


def said(
    body: bytes, *, boundary: bytes = b"x", subtype: bytes = b"form-data", cuts: Iterator[int] | None = None
) -> list[bytes]:
    payload = Payload(b"multipart/%b; boundary=%b" % (subtype, boundary))
    rest = body
    while rest:
        size = next(cuts, len(rest)) if cuts is not None else len(rest)
        payload.feed(rest[:size])
        rest = rest[size:]
    return payload.parts()


def is_by_parts(parts: list[bytes]) -> bool:
    return parts[2] == b"multipart"


def test_the_boundary_does_not_count() -> None:
    one = said(multipart(NAME, SCAN))
    assert one == said(multipart(NAME, SCAN, boundary=b"another-try"), boundary=b"another-try") and is_by_parts(one)


def test_a_quoted_boundary_is_one() -> None:
    payload = Payload(b'Multipart/Form-Data; charset=utf-8; boundary="a b:c"')
    payload.feed(multipart(NAME, SCAN, boundary=b"a b:c"))
    assert payload.parts() == said(multipart(NAME, SCAN))


def test_what_stands_around_the_parts_does_not_count() -> None:
    assert said(multipart(NAME, before=b"This is MIME.\r\n", after=b"\r\nfarewell")) == said(multipart(NAME, after=b""))


def test_the_order_of_differently_named_parts_of_a_form_does_not_count() -> None:
    assert said(multipart(NAME, SCAN)) == said(multipart(SCAN, NAME))


def test_the_order_of_parts_with_one_name_counts() -> None:
    other = (NAME[0], b"8")
    assert said(multipart(NAME, other)) != said(multipart(other, NAME))


def test_the_order_of_other_multiparts_counts() -> None:
    assert said(multipart(NAME, SCAN), subtype=b"mixed") != said(multipart(SCAN, NAME), subtype=b"mixed")
    assert said(multipart(NAME, SCAN), subtype=b"mixed") != said(multipart(NAME, SCAN))


EQUAL_HEADS = {
    "names of fields": b'content-disposition: Form-Data; NAME="property"',
    "without quotes": b"Content-Disposition: form-data; name=property",
    "white space": b'Content-Disposition:form-data ;  name="property" ',
    "the default type": b'Content-Disposition: form-data; name="property"\r\nContent-Type: text/plain',
    "an encoding that changes nothing": b"Content-Transfer-Encoding: 8BIT\r\n" + NAME[0],
}


@pytest.mark.parametrize("head", EQUAL_HEADS.values(), ids=EQUAL_HEADS.keys())
def test_one_part_in_other_words_is_the_same(head: bytes) -> None:
    assert said(multipart((head, b"7"))) == said(multipart(NAME))


def test_the_order_of_a_part_s_fields_and_parameters_does_not_count() -> None:
    turned = b'Content-Type: image/jpeg\r\nContent-Disposition: form-data; filename="passport.jpg"; name="scan"'
    assert said(multipart((turned, SCAN[1]))) == said(multipart(SCAN))


OTHER_PARTS = {
    "content": (NAME[0], b"8"),
    "name": (b'Content-Disposition: form-data; name="properly"', b"7"),
    "filename": (b'Content-Disposition: form-data; name="property"; filename="7"', b"7"),
    "type": (NAME[0] + b"\r\nContent-Type: text/html", b"7"),
    "encoding": (NAME[0] + b"\r\nContent-Transfer-Encoding: base64", b"7"),
    "another field": (NAME[0] + b"\r\nX-Page: 2", b"7"),
    "a field that looks like a parameter": (NAME[0] + b"\r\nfilename: 7", b"7"),
    "a line more": (NAME[0], b"7\r\n"),
    "nothing": (NAME[0], b""),
}


@pytest.mark.parametrize("other", OTHER_PARTS.values(), ids=OTHER_PARTS.keys())
def test_everything_of_a_part_counts(other: Part) -> None:
    assert said(multipart(other)) != said(multipart(NAME)) and is_by_parts(said(multipart(other)))


def test_a_filename_may_hold_a_backslash() -> None:
    windows = b'Content-Disposition: form-data; name="scan"; filename="C:\\\\scans\\\\a.jpg"'
    assert is_by_parts(said(multipart((windows, b""))))


STRAYED = {
    "no end": b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n7\r\n',
    "cut in a part's head": b"--x\r\nContent-Dispo",
    "no delimiter at all": b"property=7",
    "text behind a delimiter": b'--x y\r\nContent-Disposition: form-data; name="a"\r\n\r\n7\r\n--x--',
    "a field without a colon": b"--x\r\nnonsense\r\n\r\n7\r\n--x--",
    "a folded field": b'--x\r\nContent-Disposition: form-data;\r\n name="a"\r\n\r\n7\r\n--x--',
    "bare line feeds": b'--x\nContent-Disposition: form-data; name="a"\n\n7\n--x--',
    "two names": b'--x\r\nContent-Disposition: form-data; name="a"; name="b"\r\n\r\n7\r\n--x--',
    "two dispositions": b"--x\r\n" + NAME[0] + b"\r\n" + NAME[0] + b"\r\n\r\n7\r\n--x--",
    "no disposition": b"--x\r\nContent-Type: text/plain\r\n\r\n7\r\n--x--",
    "an endless head": b"--x\r\nA: " + b"b" * 20_000 + b"\r\n\r\n7\r\n--x--",
    "endless padding": b"--x" + b" " * 300 + b"\r\n" + NAME[0] + b"\r\n\r\n7\r\n--x--",
    "too many parts": multipart(*[NAME] * (PARTS_MOST + 1)),
    "nothing": b"",
}


@pytest.mark.parametrize("body", STRAYED.values(), ids=STRAYED.keys())
def test_what_is_no_multipart_counts_by_its_bytes(body: bytes) -> None:
    parts = said(body)
    assert parts[2] == b"raw" and parts != said(body + b" ")


@pytest.mark.parametrize("content_type", [b"multipart/form-data", b"multipart/form-data; boundary=x; boundary=y"])
def test_without_one_boundary_bytes_decide(content_type: bytes) -> None:
    payload = Payload(content_type)
    payload.feed(multipart(NAME))
    assert payload.parts()[2] == b"raw"


@given(st.lists(st.sampled_from([NAME, SCAN]), max_size=4), st.lists(st.integers(1, 40), max_size=30))
def test_how_a_body_was_cut_never_counts(parts: list[Part], sizes: list[int]) -> None:
    body = multipart(*parts)
    assert said(body, cuts=iter(sizes)) == said(body)


@given(st.binary(max_size=200), st.lists(st.integers(1, 10), max_size=40))
def test_any_bytes_are_taken_and_cutting_them_changes_nothing(noise: bytes, sizes: list[int]) -> None:
    body = b"--x\r\n" + noise
    assert said(body, cuts=iter(sizes)) == said(body)


def test_a_long_body_is_never_held() -> None:
    """60 MiB pass through in pieces; what the digests hold is a part of one piece."""
    piece = random.Random(1).randbytes(64 * KIB)
    for content_type, first in (
        (b"multipart/form-data; boundary=x", b"--x\r\n" + SCAN[0] + b"\r\n\r\n"),
        (b"application/json", b'"'),
        (b"application/octet-stream", b""),
    ):
        payload = Payload(content_type)
        payload.feed(first)
        for _ in range(4):
            payload.feed(piece)
        tracemalloc.start()
        try:
            for _ in range(956):
                payload.feed(piece)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < MIB


def test_long_json_counts_by_its_bytes() -> None:
    def json_said(body: bytes) -> list[bytes]:
        payload = Payload(b"application/json")
        for at in range(0, len(body), 1000):
            payload.feed(body[at : at + 1000])
        return payload.parts()

    most = b'"%b"' % (b"a" * (JSON_MOST_BYTES - 2))
    assert json_said(most)[2] == b"json" and json_said(b" " + most)[2] == b"raw"


def test_an_encoded_body_counts_by_its_bytes_and_its_encoding() -> None:
    def encoded(encoding: bytes, body: bytes = b'{"a": 1}') -> list[bytes]:
        payload = Payload(b"application/json", encoding)
        payload.feed(body)
        return payload.parts()

    assert encoded(b"gzip")[2] == b"raw" and encoded(b"gzip") != encoded(b"br")
    assert encoded(b"GZIP ") == encoded(b"gzip") and encoded(b"identity") == encoded(b"", b'{"a":1}')


def test_the_charset_of_a_text_counts() -> None:
    def text(content_type: bytes) -> list[bytes]:
        payload = Payload(content_type)
        payload.feed(b"\xe4")
        return payload.parts()

    assert text(b"text/plain; charset=latin1") != text(b"text/plain; charset=cp1251")
    assert text(b"text/plain; charset=UTF-8") == text(b"Text/Plain;charset=utf-8")


def test_reprs_show_the_way() -> None:
    assert repr(Payload(b"application/json")) == "<Payload application/json by json>"
    assert "multipart" in repr(Payload(b"multipart/mixed; boundary=x"))
    assert "by raw" in repr(Payload(b"text/plain"))
