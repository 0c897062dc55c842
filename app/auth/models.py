"""Bodies of the log-in and the membership answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, SecretStr, StringConstraints

from app.fields import without_nul

Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, to_lower=True, min_length=3, max_length=254),
    AfterValidator(without_nul),
]
# Argon2 reads every byte it is given; the cap keeps a megabyte of password from being hashed.
Password = Annotated[SecretStr, StringConstraints(min_length=1, max_length=1024)]


class LoginRequest(BaseModel):
    email: Email
    password: Password


class Actor(BaseModel):
    id: int
    email: str
    name: str


class Organization(BaseModel):
    """An organisation, and what the actor is in it."""

    id: int
    name: str
    role: str
    tier: str


class Membership(BaseModel):
    actor: Actor
    organizations: list[Organization]


class LoginAnswer(Membership):
    """`expiresIn` is in seconds."""

    accessToken: str
    tokenType: str
    expiresIn: int
