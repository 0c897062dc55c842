"""Pantry with a way to die: at the point that a file names, the worker kills itself as `kill -9` would.

``b1 run tests.real.doomed:app`` with DOOMED_FOLDER, and nothing else may import this: it wraps methods of the library, so
that nothing of it is in production. Who wants a death writes the point's name into ``doom`` (`tests.real.points`); the
first request that gets there takes the file away and dies, once. ``linger`` holds seconds to wait inside the transaction.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
from collections.abc import Callable
from typing import Any

from app.main import app
from b1.asgi.middleware.exchange import Exchange
from b1.idempotency import Attempt, Idempotency, Transaction
from b1.idempotency.transactional import Deferred

__all__ = ["app"]

_COMMITTING_S = 0.003
_STORING_S = 0.001


def _is_here(point: str) -> bool:
    """Take the order if it is for `point`."""
    doom = os.path.join(os.environ["DOOMED_FOLDER"], "doom")
    try:
        with open(doom) as file:
            if file.read() != point:
                return False
        os.rename(doom, f"{doom}.{os.getpid()}")
    except FileNotFoundError:
        return False
    return True


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_before(owner: type, name: str, point: str) -> None:
    def wrap(whole: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(whole)
        async def doomed(*args: Any, **options: Any) -> Any:
            if _is_here(point):
                _die()
            return await whole(*args, **options)

        return doomed

    setattr(owner, name, wrap(getattr(owner, name)))


def _die_after(owner: type, name: str, point: str) -> None:
    def wrap(whole: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(whole)
        async def doomed(*args: Any, **options: Any) -> Any:
            result = await whole(*args, **options)
            if (name != "begin" or isinstance(result, Attempt)) and _is_here(point):
                _die()
            return result

        return doomed

    setattr(owner, name, wrap(getattr(owner, name)))


def _die_within(owner: type, name: str, point: str, most_s: float) -> None:
    """Die while the method waits for somebody else's answer, up to `most_s` after it began."""

    def wrap(whole: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(whole)
        async def doomed(*args: Any, **options: Any) -> Any:
            working = asyncio.ensure_future(whole(*args, **options))
            await asyncio.sleep(0)  # it has begun: what it asks for is written
            if not working.done() and _is_here(point):
                await asyncio.sleep(random.random() * most_s)
                _die()
            return await working

        return doomed

    setattr(owner, name, wrap(getattr(owner, name)))


def _linger_after(owner: type, name: str) -> None:
    def wrap(whole: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(whole)
        async def lingering(*args: Any, **options: Any) -> Any:
            result = await whole(*args, **options)
            try:
                with open(os.path.join(os.environ["DOOMED_FOLDER"], "linger")) as file:
                    wait_s = float(file.read())
            except FileNotFoundError:
                return result
            await asyncio.sleep(wait_s)
            return result

        return lingering

    setattr(owner, name, wrap(getattr(owner, name)))


_die_before(Idempotency, "begin", "before-claim")
_die_after(Idempotency, "begin", "claimed")
_linger_after(Transaction, "fetchrow")
_die_after(Transaction, "fetchrow", "in-transaction")
_die_within(Deferred, "commit", "committing", _COMMITTING_S)
_die_before(Deferred, "commit", "before-commit")
_die_after(Deferred, "commit", "committed")
_die_within(Attempt, "_give_back", "storing", _STORING_S)
_die_before(Exchange, "_deliver", "answering")
