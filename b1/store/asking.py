"""A decision as it is asked of Redis and answered: both are packed, as ``lua/enter.lua`` describes.

Packing and unpacking are most of what a decision costs this process, so a question that is asked again is packed once: who
keeps its charges as `Charges` finds it there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct, pack
from typing import Any

from b1.errors import StoreUnavailable
from b1.store.base import Balance, Charge, Penalty, Spent
from b1.store.terms import Offender, Terms

_log = logging.getLogger("b1.store")

_KINDS = {"window": 0, "bucket": 1, "lease": 2}
_HEAD, _CHARGE = Struct(">BH"), Struct(">BBIIII")
_BALANCE = 6
# Named tuples made by their own constructors cost twice as much, and several are made for every request.
_new = tuple.__new__
_blank = object.__new__
_set_key, _set_quota, _set_window_ms, _set_cost, _set_shadow, _set_kind, _set_burst = (
    Charge.__dict__[name].__set__ for name in ("key", "quota", "window_ms", "cost", "shadow", "kind", "burst")
)


class Question:
    """What is asked again and again, ready to be sent.

    Attributes:
        keys: complete names.
        packed: the argument, for a caller who holds nothing.
        command: the whole call, once it was made; only where nothing of it changes from call to call.
        offender: for whom it was made.
        layout: of the answer.
    """

    __slots__ = ("command", "keys", "layout", "offender", "packed")

    def __init__(self, prefix: str, charges: Sequence[Charge], offender: Offender | None) -> None:
        self.keys = [prefix + charge.key for charge in charges]
        if offender is not None:
            self.keys.append(prefix + offender.key)
        self.packed = _packed(charges, offender)
        self.command: bytes | None = None
        self.offender = offender
        self.layout = layout_of(len(charges), has_offender=offender is not None)


class Charges(tuple[Charge, ...]):
    """Charges that are asked about for every request of a caller: they remember how one store asks."""

    question: Question | None = None


def question_of(prefix: str, charges: Sequence[Charge], terms: Terms) -> Question:
    """Return what to ask, without the holder; the last one that was asked about these `Charges` costs nothing."""
    offender = None if terms.is_forced else terms.offender
    if type(charges) is not Charges:
        return Question(prefix, charges, offender)
    question = charges.question
    if question is None or question.offender is not offender:
        question = charges.question = Question(prefix, charges, offender)
    return question


def with_key(charge: Charge, key: str) -> Charge:
    """Return the same charge of another key; its numbers are known to be in order.

    `dataclasses.replace` would go through every check again, which costs a new caller five times as much.
    """
    copied = _blank(Charge)
    _set_key(copied, key)
    _set_quota(copied, charge.quota)
    _set_window_ms(copied, charge.window_ms)
    _set_cost(copied, charge.cost)
    _set_shadow(copied, charge.shadow)
    _set_kind(copied, charge.kind)
    _set_burst(copied, charge.burst)
    return copied


class Layout:
    """How the answer about so many charges is read."""

    __slots__ = ("_count", "_has_offender", "_struct")

    def __init__(self, count: int, *, has_offender: bool) -> None:
        self._count = count
        self._has_offender = has_offender
        self._struct = Struct(">?q" + "?IIqqq" * count + ("qqq" if has_offender else ""))

    def read(self, data: Any) -> Spent:
        """Return the decision.

        Raises:
            StoreUnavailable: this is no such answer.
        """
        if type(data) is not bytes or len(data) != self._struct.size:
            raise StoreUnavailable(f"the enter script answered {data!r}, expected {self._struct.size} bytes")
        numbers = self._struct.unpack(data)
        end = 2 + _BALANCE * self._count
        balances = tuple([_new(Balance, numbers[at : at + _BALANCE]) for at in range(2, end, _BALANCE)])
        penalty = _new(Penalty, numbers[end:]) if self._has_offender else None
        return _new(Spent, (numbers[0], numbers[1], balances, penalty))


class Asked:
    """Takes the reply to a question and tells the decision, in the call that reads it; None: it cannot be had.

    A `b1.link.pending.Receiver`. Whether the question was carried out is unknown when there is no decision.
    """

    __slots__ = ("_is_over", "_layout", "_tell")

    def __init__(self, layout: Layout, tell: Callable[[Spent | None], None]) -> None:
        self._layout = layout
        self._tell = tell
        self._is_over = False

    def done(self) -> bool:
        """Say whether it was told."""
        return self._is_over

    def set_result(self, value: Any, /) -> None:
        """Take the reply."""
        self._is_over = True
        try:
            spent = self._layout.read(value)
        except StoreUnavailable:
            self._tell(None)
            return
        try:
            self._tell(spent)
        except Exception:  # noqa: BLE001 - it would end the connection, which carries everybody's calls
            _log.exception("a decision could not be used")

    def set_exception(self, error: Any, /) -> None:
        """Take the news that there is no reply; the link has counted it."""
        self._is_over = True
        self._tell(None)


@lru_cache(maxsize=256)
def layout_of(count: int, *, has_offender: bool) -> Layout:
    """Return the layout of an answer."""
    return Layout(count, has_offender=has_offender)


def _packed(charges: Sequence[Charge], offender: Offender | None) -> bytes:
    about: tuple[int, ...] = ()
    if offender is not None:
        rule = offender.rule
        about = (offender.strikes, offender.knocks, rule.threshold, rule.decay_ms, rule.forget_ms, rule.apart_ms)
        about += rule.blocks_ms
    parts = [_HEAD.pack(len(charges), len(about))]
    for charge in charges:
        depth = charge.depth if charge.kind == "bucket" else 0
        parts.append(
            _CHARGE.pack(_KINDS[charge.kind], charge.shadow, charge.quota, charge.window_ms, charge.cost, depth)
        )
    return b"".join(parts) + pack(f">{len(about)}d", *about)
