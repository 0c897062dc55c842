"""Which requests are the same request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b1.idempotency.fingerprint import fingerprint, scope_digest, store_key

JSON = b"application/json"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def of(body: bytes = b"{}", **changes: Any) -> bytes:
    parts: dict[str, Any] = {
        "method": "POST",
        "template": "/things/{id}",
        "path_values": {"id": "1"},
        "query": b"",
        "content_type": JSON,
    }
    return fingerprint(body=body, **{**parts, **changes})


def scope(**changes: Any) -> bytes:
    parts: dict[str, Any] = {
        "organization": "7",
        "actor": "ann",
        "method": "POST",
        "template": "/things/{id}",
        "path_values": {"id": "1"},
        "key": "k",
    }
    return scope_digest(**{**parts, **changes})


SAME = {
    "member order": (b'{"a":1,"b":2}', b'{"b":2,"a":1}'),
    "nested order": (b'[{"a":{"x":1,"y":2}}]', b'[{"a":{"y":2,"x":1}}]'),
    "white space": (b'{"a":1}', b' {\n"a" : 1 } '),
    "escapes": (b'{"a":"\\u0041"}', b'{"a":"A"}'),
}
DIFFERENT = {
    "value": (b'{"a":1}', b'{"a":2}'),
    "array order": (b"[1,2]", b"[2,1]"),
    "nesting": (b"[[1],2]", b"[[1,2]]"),
    "text and number": (b'{"a":1}', b'{"a":"1"}'),
    "number as written": (b"[0.1]", b"[0.10000000000000000555]"),
    "huge numbers": (b"[1e400]", b"[1e401]"),
    "key and value": (b'{"a":"b"}', b'{"b":"a"}'),
    "moved boundary": (b'["ab","c"]', b'["a","bc"]'),
    "a member twice": (b'{"a":1,"a":2}', b'{"a":2}'),
    "NaN is bytes": (b"[NaN]", b"[ NaN]"),
    "broken is bytes": (b'{"a":', b'{"a": '),
    "falsy: null and nothing": (b"null", b""),
    "falsy: null and false": (b"null", b"false"),
    "falsy: false and 0": (b"false", b"0"),
    "falsy: 0 and empty text": (b"0", b'""'),
    "falsy: text and array": (b'""', b"[]"),
    "falsy: array and object": (b"[]", b"{}"),
    "lone surrogates": (b'"\\ud800"', b'"\\ud801"'),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME.keys())
def test_equal_values_are_one_payload(one: bytes, other: bytes) -> None:
    assert of(one) == of(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_different_payloads_differ(one: bytes, other: bytes) -> None:
    assert of(one) != of(other)


@given(VALUES, VALUES)
def test_json_is_equal_exactly_when_its_values_are(one: Any, other: Any) -> None:
    equal = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (of(json.dumps(one).encode()) == of(json.dumps(other, indent=1).encode())) == equal


def test_without_canonical_json_bytes_decide() -> None:
    assert of(b'{"a":1}', canonical_json=False) != of(b'{"a": 1}', canonical_json=False)


def test_other_types_count_by_their_bytes() -> None:
    assert of(b'{"a":1}', content_type=b"text/plain") != of(b'{"a": 1}', content_type=b"text/plain")


def test_deep_nesting_counts_by_bytes() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert of(deep) == of(deep) != of(deep + b" ")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "PUT"},
        {"template": "/other/{id}"},
        {"path_values": {"id": "2"}},
        {"path_values": {"name": "1"}},
        {"query": b"a=1"},
        {"content_type": b"text/json"},
    ],
)
def test_every_part_of_the_request_counts(changes: dict[str, Any]) -> None:
    assert of(**changes) != of()


def test_query_order_does_not_count() -> None:
    assert of(query=b"b=2&a=1") == of(query=b"a=1&b=2") != of(query=b"a=1&b=3")


def test_media_type_parameters_do_not_count() -> None:
    assert of(content_type=b"Application/JSON; charset=utf-8") == of()


def test_the_multipart_boundary_does_not_count() -> None:
    def form(boundary: bytes, value: bytes) -> bytes:
        body = b'--%s\r\ncontent-disposition: form-data; name="f"\r\n\r\n%s\r\n--%s--\r\n' % (boundary, value, boundary)
        return of(body, content_type=b"multipart/form-data; boundary=" + boundary)

    assert form(b"one", b"v") == form(b"another", b"v") != form(b"one", b"w")


@pytest.mark.parametrize(
    "changes",
    [
        {"organization": "8"},
        {"organization": None},
        {"actor": "bob"},
        {"method": "PUT"},
        {"template": "/things"},
        {"path_values": {"id": "2"}},
        {"key": "l"},
        {"organization": "7ann", "actor": ""},
    ],
)
def test_a_key_is_private_to_its_scope(changes: dict[str, Any]) -> None:
    assert scope(**changes) != scope()


def test_no_organization_is_not_an_empty_one() -> None:
    assert scope(organization=None) != scope(organization="")


def test_the_store_key_names_the_organization_and_nothing_personal() -> None:
    digest = bytes(range(32))
    written = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert store_key("7", digest) == f"idempotency:7:{written}"
    assert store_key(None, digest) == f"idempotency:-:{written}"
    assert not store_key("-", digest).startswith("idempotency:-:")


def test_an_odd_organization_is_hashed_in_the_store_key() -> None:
    name = store_key("ann@example.com {x}", scope())
    assert "ann" not in name and name.startswith("idempotency:~")
