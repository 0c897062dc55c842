"""Answers of the reference routes."""

from __future__ import annotations

from pydantic import BaseModel


class Account(BaseModel):
    code: str
    name: str
    type: str


class Chart(BaseModel):
    """The chart of accounts, by code."""

    accounts: list[Account]
