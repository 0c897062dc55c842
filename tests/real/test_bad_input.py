"""What clients should not send: every answer is a clear problem document, never a 500, and the server serves afterwards."""

from __future__ import annotations

import base64
import hmac
import json
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.real.client import EXPENSE, Answer, Client
from tests.real.server import SECRET, Started

pytestmark = pytest.mark.real

JSON = {"Content-Type": "application/json"}
CAP = 64 * 1024  # of the entity gateway; B1_BODY_LIMIT below is the cap of the others


@pytest.fixture(scope="module")
def pantry(tmp_path_factory: pytest.TempPathFactory, pantry_url: str) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("pantry")
    with Started(folder, DATABASE_URL=pantry_url, B1_LIMIT_SCALE="1000", B1_BODY_LIMIT="200KiB") as server:
        yield server


@pytest.fixture(scope="module")
def user(pantry: Started) -> Client:
    return pantry.client.log_in()


@pytest.fixture(autouse=True)
def _nothing_is_lost(pantry: Started, user: Client) -> Iterator[None]:
    """After whatever was sent the same worker serves, and its log has no traceback."""
    workers = pantry.workers()
    yield
    assert user.get("/v1/finance/balance").status == 200
    assert pantry.workers() == workers
    assert "Traceback" not in pantry.log


def assert_problem(answer: Answer, status: int, code: str) -> None:
    """Check that the answer is a complete problem document of this kind."""
    assert (status, code) == (answer.status, answer.code), answer
    found = answer.json
    assert {"type", "title", "status", "detail", "code", "requestId"} <= {*found}
    assert (found["status"], found["requestId"]) == (status, answer.headers["x-request-id"])


def spend(user: Client, body: bytes, **headers: str) -> Answer:
    named = {**JSON, "Idempotency-Key": str(uuid.uuid4()), **headers}
    return user.call("POST", "/v1/finance/expenses", body, named)


def expense(**changes: Any) -> bytes:
    return json.dumps({**EXPENSE, **changes}).encode()


class TestBodies:
    @pytest.mark.parametrize("path", ["/v1/finance/expenses", "/auth/login", "/v1/entities", "/nowhere"])
    def test_over_the_cap_with_a_length(self, user: Client, path: str) -> None:
        answer = user.call("POST", path, b"x" * 250_000, {**JSON, "Idempotency-Key": "k"})
        assert_problem(answer, 413, "BODY_TOO_LARGE")

    @pytest.mark.parametrize("path", ["/v1/finance/expenses", "/auth/login", "/v1/entities"])
    def test_over_the_cap_without_a_length(self, user: Client, path: str) -> None:
        pieces = iter([b"x" * 50_000] * 5)
        answer = user.call("POST", path, pieces, {**JSON, "Idempotency-Key": "k"}, encode_chunked=True)
        assert_problem(answer, 413, "BODY_TOO_LARGE")

    def test_a_length_that_is_announced_and_never_sent_is_refused_at_once(self, user: Client) -> None:
        head = (
            b"POST /v1/finance/expenses HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n"
        )
        assert_problem(user.raw(head), 413, "BODY_TOO_LARGE")

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"{", id="half an object"),
            pytest.param(b"{'propertyId': 1}", id="Python's quotes"),
            pytest.param(expense()[:-1] + b',"description":"\xff\xfe"}', id="invalid UTF-8"),
            pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, id="10 000 levels"),
            pytest.param(b"[" * 100_000, id="100 000 open brackets"),
            pytest.param(b"\x00" * 100, id="NULs"),
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/finance/expenses", "/v1/entities", "/auth/login"])
    def test_what_is_no_json(self, user: Client, path: str, body: bytes) -> None:
        answer = user.call("POST", path, body, {**JSON, "Idempotency-Key": str(uuid.uuid4())})
        assert answer.status in (400, 413, 422), answer
        assert answer.code in ("MALFORMED_REQUEST", "BAD_REQUEST", "VALIDATION_FAILED", "BODY_TOO_LARGE")

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"null", id="null"),
            pytest.param(b"[]", id="a list"),
            pytest.param(b'"text"', id="text"),
            pytest.param(b"{}", id="no members"),
            pytest.param(expense(amountCents="500"), id="a number as text"),
            pytest.param(expense(amountCents=5.5), id="half a cent"),
            pytest.param(expense(amountCents=True), id="a truth as a number"),
            pytest.param(expense(amountCents=-1), id="less than nothing"),
            pytest.param(expense(amountCents=10**30), id="more than 64 bits"),
            pytest.param(expense(propertyId=2**63), id="one more than 64 bits"),
            pytest.param(expense(description="a\0b"), id="NUL in text"),
            pytest.param(expense(category="\0"), id="NUL in a name"),
            pytest.param(expense(description="\ud800"), id="half a character"),
            pytest.param(expense(description="x" * 1001), id="text too long"),
            pytest.param(expense(currency="inr"), id="a currency that is none"),
            pytest.param(expense(expenseDate="yesterday"), id="a date that is none"),
            pytest.param(expense(expenseDate="9999-12-31T23:59:59Z"), id="a year that is none"),
            pytest.param(expense(paymentMode="barter"), id="a choice that is none"),
            pytest.param(expense().replace(b"50000", b"NaN"), id="NaN"),
            pytest.param(expense().replace(b"50000", b"1e400"), id="infinity"),
        ],
    )
    def test_json_that_is_no_expense(self, user: Client, body: bytes) -> None:
        answer = spend(user, body)
        assert_problem(answer, 422, "VALIDATION_FAILED")
        assert answer.json["errors"]

    def test_a_number_of_5000_digits(self, user: Client) -> None:
        answer = spend(user, expense().replace(b"50000", b"9" * 5000))
        assert answer.status in (400, 422) and answer.code is not None

    def test_a_property_of_nobody(self, user: Client) -> None:
        assert_problem(spend(user, expense(propertyId=10**9)), 422, "PROPERTY_UNKNOWN")

    def test_a_member_given_twice_counts_as_its_last_and_is_written_once(self, user: Client) -> None:
        body, key = expense()[:-1] + b', "amountCents": 7}', str(uuid.uuid4())
        first, second = (spend(user, body, **{"Idempotency-Key": key}) for _ in range(2))
        assert (first.status, first.json["amountCents"]) == (201, 7)
        assert second.body == first.body

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param({"entity_type": "CUSTOMER", "name": "a\0b"}, id="NUL"),
            pytest.param({"entity_type": "CUSTOMER", "a\0b": 1}, id="NUL in a name"),
            pytest.param({"entity_type": "CUSTOMER", "name": "\ud800"}, id="half a character"),
            pytest.param({"entity_type": "CUSTOMER", "n": 10**30}, id="a huge number"),
            pytest.param({"entity_type": "A\0"}, id="NUL in the type"),
            pytest.param({"entity_type": 5}, id="a type that is a number"),
            pytest.param({"entity_type": "CUSTOMER", "id": 0}, id="an id of zero"),
            pytest.param({"entity_type": "CUSTOMER", "deep": json.loads("[" * 30 + "]" * 30)}, id="30 levels"),
        ],
    )
    @pytest.mark.parametrize("operation", ["CREATE", "READ"])
    def test_attributes_that_cannot_be_stored(self, user: Client, operation: str, data: dict[str, Any]) -> None:
        answer = user.post("/v1/entities", {"operation": operation, "entity_data": data})
        assert answer.status in (400, 422) and answer.code in ("VALIDATION_FAILED", "MALFORMED_REQUEST"), answer

    @pytest.mark.parametrize("operation", ["read", "", 1, None, ["READ"], {"READ": 1}])
    def test_operations_that_are_none(self, user: Client, operation: Any) -> None:
        answer = user.post("/v1/entities", {"operation": operation, "entity_data": {"entity_type": "CUSTOMER"}})
        assert_problem(answer, 422, "VALIDATION_FAILED")

    def test_a_wrong_content_type_is_not_read_as_json(self, user: Client) -> None:
        answer = spend(user, expense(), **{"Content-Type": "text/plain"})
        assert answer.status in (415, 422) and answer.code is not None


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/%",
            "/%00",
            "/v1/entities/%00",
            "/v1/entities/1%00",
            "/v1/entities/..%2f..%2fetc",
            "/v1/entities/%ff%fe",
            "/v1/entities/9223372036854775808",
            "/v1/entities/-1",
            "/v1/entities/1e3",
            pytest.param("/" + "a" * 10_000, id="long"),
        ],
    )
    def test_strange_paths(self, user: Client, path: str) -> None:
        answer = user.raw(_get(path, user))
        assert answer.status in (400, 404, 422) and answer.code is not None, answer

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=-1", "limit=1e9", "limit=" + "9" * 5000, "cursor=%00", "cursor=abc", "propertyId=%ff"],
    )
    def test_strange_queries(self, user: Client, query: str) -> None:
        answer = user.raw(_get(f"/v1/finance/expenses?{query}", user))
        assert_problem(answer, 422, "VALIDATION_FAILED")

    @pytest.mark.parametrize("query", ["%00=%00", "&&&===", "%", "%ff=%ff", "a" * 5000 + "=1"])
    def test_queries_that_mean_nothing_change_nothing(self, user: Client, query: str) -> None:
        assert user.raw(_get(f"/v1/finance/balance?{query}", user)).status == 200


def _get(path: str, user: Client, *fields: bytes) -> bytes:
    authorization = user.headers.get("Authorization", "").encode()
    lines = [b"GET " + path.encode() + b" HTTP/1.1", b"Host: x", b"Authorization: " + authorization, *fields]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


class TestHeaders:
    def test_ten_thousand(self, user: Client) -> None:
        answer = user.raw(_get("/v1/finance/balance", user, *(b"A%d: b" % number for number in range(10_000))))
        assert_problem(answer, 431, "HEADERS_TOO_LARGE")

    def test_one_megabyte(self, user: Client) -> None:
        assert_problem(user.raw(_get("/", user, b"Long: " + b"x" * 1_000_000)), 431, "HEADERS_TOO_LARGE")

    @pytest.mark.parametrize(
        "key", ["", "a b", "a,b", "a;b", '"a', "x" * 256, "é", "a\tb"], ids=lambda key: repr(key)[:10]
    )
    def test_keys_that_are_none(self, user: Client, key: str) -> None:
        head = _post_head(user, b"Idempotency-Key: " + key.encode())
        assert_problem(user.raw(head + expense()), 400, "IDEMPOTENCY_KEY_INVALID")

    def test_two_keys(self, user: Client) -> None:
        head = _post_head(user, b"Idempotency-Key: a", b"Idempotency-Key: b")
        assert_problem(user.raw(head + expense()), 400, "IDEMPOTENCY_KEY_INVALID")

    def test_two_kinds_of_key_that_differ(self, user: Client) -> None:
        head = _post_head(user, b"Idempotency-Key: a", b"X-Idempotency-Key: b")
        assert_problem(user.raw(head + expense()), 400, "IDEMPOTENCY_KEY_INVALID")


def _post_head(user: Client, *fields: bytes) -> bytes:
    length = b"Content-Length: %d" % len(expense())
    head = _get("/v1/finance/expenses", user, b"Content-Type: application/json", length, *fields)
    return head.replace(b"GET ", b"POST ", 1)


class TestTenants:
    def test_a_foreign_organisation_and_an_unknown_one_are_told_apart_by_nothing(self, user: Client) -> None:
        answers = [
            user.get("/v1/finance/balance", X_Organization_Id=name)
            for name in ("2", "999999", "0", "-1", "abc", "1 2", "9" * 40, "%00")
        ]
        for answer in answers:
            assert_problem(answer, 403, "ORGANIZATION_FORBIDDEN")
        bodies = [{**answer.json, "requestId": None} for answer in answers]
        assert bodies == [bodies[0]] * len(bodies)
        # What costs time would tell, too: neither header nor length may differ.
        assert len({(len(answer.body), *sorted({*answer.headers} - {"x-request-id"})) for answer in answers}) == 1

    def test_the_own_one_by_name_is_served(self, user: Client) -> None:
        assert user.get("/v1/finance/balance", X_Organization_Id="1").status == 200


def token(claims: dict[str, Any] | None = None, *, secret: str = SECRET, header: dict[str, Any] | None = None) -> str:
    """Make a token of the given claims, signed or not."""
    known = {"sub": "1", "iat": int(time.time()), "exp": int(time.time()) + 600}
    parts = [header or {"alg": "HS256", "typ": "JWT"}, {**known, **(claims or {})}]
    signed = b".".join(_encoded(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + _encoded(hmac.digest(secret.encode(), signed, "sha256"))).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class TestTokens:
    def test_the_test_can_make_a_good_one(self, pantry: Started) -> None:
        assert Client(pantry.port, token()).get("/v1/finance/balance").status == 200

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(token({"exp": 1}), id="expired"),
            pytest.param(token({"exp": None}), id="never expires"),
            pytest.param(token({"exp": "tomorrow"}), id="expires in words"),
            pytest.param(token({"nbf": 10**11}), id="not valid yet"),
            pytest.param(token({"sub": 1}), id="a subject that is a number"),
            pytest.param(token(secret="another secret of 32 characters!!"), id="forged"),
            pytest.param(token(header={"alg": "HS384"}), id="another algorithm"),
            pytest.param(token(header={"alg": "none"}), id="none, signed"),
            pytest.param(token(header={"alg": "none"}).rpartition(".")[0] + ".", id="none"),
            pytest.param(token()[:-2] + "AA", id="a changed signature"),
            pytest.param("", id="nothing"),
            pytest.param("a.b.c", id="no base64"),
            pytest.param("..", id="empty parts"),
            pytest.param("a" * 9000, id="too long"),
        ],
    )
    def test_bad_ones_are_401_and_one_answer_for_all(self, pantry: Started, bad: str) -> None:
        answer = Client(pantry.port, bad).get("/v1/finance/balance")
        assert_problem(answer, 401, "INVALID_TOKEN")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json["detail"] == answer.json["title"]

    def test_an_account_that_does_not_exist_is_401(self, pantry: Started) -> None:
        for subject in ("999999", "abc", "9" * 40, "\0"):
            answer = Client(pantry.port, token({"sub": subject})).get("/v1/finance/balance")
            assert_problem(answer, 401, "UNAUTHENTICATED")

    def test_another_scheme_is_401(self, pantry: Started) -> None:
        answer = pantry.client.get("/v1/finance/balance", Authorization="Basic dXNlcjpjaGFuZ2VtZQ==")
        assert answer.status == 401 and answer.code is not None

    def test_no_token_is_401_before_the_body_is_looked_at(self, pantry: Started) -> None:
        assert_problem(spend(pantry.client, b"{"), 401, "UNAUTHENTICATED")


def test_unknown_routes_and_methods(user: Client) -> None:
    assert_problem(user.get("/v1/nowhere"), 404, "NOT_FOUND")
    assert_problem(user.call("PATCH", "/v1/finance/expenses"), 405, "METHOD_NOT_ALLOWED")


def test_a_body_that_never_ends_leaves_no_claim(user: Client) -> None:
    key = str(uuid.uuid4())
    head = _post_head(user, b"Idempotency-Key: " + key.encode())
    with socket.create_connection(("127.0.0.1", user.port)) as half:
        half.sendall(head + expense()[:-5])
    assert user.spend(key).status == 201
