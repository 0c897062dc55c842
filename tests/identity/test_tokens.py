"""A token is believed only if we signed it, for us, and for now."""

import base64
import json

import pytest

from b1.clock import ManualClock
from b1.identity import InvalidToken, Tokens
from b1.settings import Secret


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.fixture
def tokens(clock: ManualClock) -> Tokens:
    return Tokens(Secret("s" * 32), clock)


def test_a_token_carries_its_claims(tokens: Tokens) -> None:
    claims = tokens.verify(tokens.issue("actor-1", {"role": "MEMBER"}, ttl_s=60))
    assert (claims["sub"], claims["role"]) == ("actor-1", "MEMBER")


def test_an_independent_library_agrees(tokens: Tokens, clock: ManualClock) -> None:
    import jwt

    options = {"verify_exp": False, "verify_iat": False}
    ours = jwt.decode(tokens.issue("a", ttl_s=60), "s" * 32, algorithms=["HS256"], options=options)
    assert ours["sub"] == "a"
    theirs = jwt.encode({"sub": "b", "exp": clock.wall() + 60}, "s" * 32, algorithm="HS256")
    assert tokens.verify(theirs)["sub"] == "b"


def test_a_token_ends(tokens: Tokens, clock: ManualClock) -> None:
    token = tokens.issue("actor-1", ttl_s=60)
    clock.advance(64)
    tokens.verify(token)
    clock.advance(2)
    with pytest.raises(InvalidToken):
        tokens.verify(token)


def test_another_secret_is_a_forgery(tokens: Tokens, clock: ManualClock) -> None:
    with pytest.raises(InvalidToken):
        tokens.verify(Tokens(Secret("t" * 32), clock).issue("actor-1", ttl_s=60))


@pytest.mark.parametrize(
    "claims",
    [{}, {"sub": ""}, {"sub": 5}, {"sub": "a", "exp": None}, {"sub": "a", "exp": "soon"}, {"sub": "a", "exp": True},
     {"sub": "a", "exp": 1e400}, {"sub": "a", "exp": 9e9, "nbf": 8e9}],
)  # fmt: skip
def test_claims_that_do_not_hold_are_refused(tokens: Tokens, claims: dict[str, object]) -> None:
    signed = f"{encoded({'alg': 'HS256'})}.{encoded(claims)}"
    signature = base64.urlsafe_b64encode(tokens._sign(signed.encode())).rstrip(b"=").decode()
    with pytest.raises(InvalidToken):
        tokens.verify(f"{signed}.{signature}")


@pytest.mark.parametrize("algorithm", ["none", "HS512", "RS256", ""])
def test_the_token_does_not_choose_the_algorithm(tokens: Tokens, algorithm: str) -> None:
    signed = f"{encoded({'alg': algorithm})}.{encoded({'sub': 'a', 'exp': 9e9})}"
    signature = base64.urlsafe_b64encode(tokens._sign(signed.encode())).rstrip(b"=").decode()
    with pytest.raises(InvalidToken):
        tokens.verify(f"{signed}.{signature}")
    with pytest.raises(InvalidToken):
        tokens.verify(f"{signed}.")


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "a.b", "é.é.é", "a.b.c.d", "x" * 9000, "=.=.=", "!.!.!"])
def test_garbage_is_refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(InvalidToken):
        tokens.verify(token)


def test_issuer_and_audience_are_demanded_when_configured(clock: ManualClock) -> None:
    strict = Tokens(Secret("s" * 32), clock, issuer="me", audience="api")
    assert strict.verify(strict.issue("a", ttl_s=60))["sub"] == "a"
    for other in (Tokens(Secret("s" * 32), clock), Tokens(Secret("s" * 32), clock, issuer="me", audience="other")):
        with pytest.raises(InvalidToken):
            strict.verify(other.issue("a", ttl_s=60))
