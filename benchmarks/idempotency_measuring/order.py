"""The one thing that every contender of idempotency.py does: make an order, answer 300 bytes of JSON."""

from __future__ import annotations

import itertools
from typing import Any

from pydantic import BaseModel

PLAIN, KEYED, CACHED = "/plain", "/keyed", "/cached"
PLAIN_TRANSACTION, KEYED_TRANSACTION = "/plain-transaction", "/keyed-transaction"
COUNTS = "/counts"
_numbers = itertools.count(1)


class Order(BaseModel):
    item: str
    pieces: int
    note: str


class Made(BaseModel):
    id: int
    item: str
    pieces: int
    note: str
    lines: list[str]


def make(order: Order, number: int | None = None) -> Made:
    """Return the answer of the first and only run."""
    lines = [f"{order.item}, piece {piece}" for piece in range(order.pieces)]
    made = next(_numbers) if number is None else number
    return Made(id=made, item=order.item, pieces=order.pieces, note=order.note, lines=lines)


def asked(pieces: int = 3) -> dict[str, Any]:
    """Return what clients send."""
    return {"item": "a table lamp with a green shade", "pieces": pieces, "note": "to be delivered in the afternoon"}
