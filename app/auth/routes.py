"""Log-in and membership over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.answers import json_answer
from app.auth import service
from app.auth.models import LoginAnswer, LoginRequest, Membership
from app.openapi import LOGIN_PROBLEMS, READING_PROBLEMS, SIGNED_IN
from app.profile import b1

router = APIRouter(prefix="/auth", tags=["auth"])


@router.post("/login", response_model=LoginAnswer, responses=LOGIN_PROBLEMS)
@b1.limit()  # the service charges failures, and only those
async def log_in(login: LoginRequest) -> Response:
    """Exchange an e-mail address and a password for an access token."""
    return json_answer(await service.log_in(login.email, login.password.get_secret_value()))


@router.get("/resolve-membership", response_model=Membership, responses=READING_PROBLEMS, openapi_extra=SIGNED_IN)
@b1.limit("membership")
async def resolve_membership() -> Response:
    """Say who the caller is and where they may act."""
    return json_answer(await service.resolve_membership(b1.principal().actor))
