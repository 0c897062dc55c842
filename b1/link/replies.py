"""What a connection carries besides values: error replies, and the commands that cannot share it.

hiredis parses. It builds nested errors with the same function, so an error inside a list is a `ReplyError` too; a RESP3
``false`` is a value, which is why "nothing yet" is an object of our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from b1.errors import StoreUnavailable

if TYPE_CHECKING:
    import hiredis

# What a command's arguments may be; numbers are written in decimal.
Argument = str | bytes | int

NOTHING_YET = object()


class ReplyError(StoreUnavailable):
    """The server answered with an error; the connection is in order.

    Attributes:
        word: what the error starts with, such as ``NOSCRIPT``, ``OOM`` or ``WRONGTYPE``.
    """

    def __init__(self, word: str, message: str) -> None:
        super().__init__(f"Redis answered {word}: {message}")
        self.word = word


class Oversized(StoreUnavailable):
    """The command is larger than one connection for everybody should carry; nothing was sent."""


def new_reader() -> hiredis.Reader:
    """Return a parser that leaves bytes as they are."""
    import hiredis

    return hiredis.Reader(protocolError=hiredis.ProtocolError, replyError=_reply_error, notEnoughData=NOTHING_YET)


def _reply_error(text: str) -> Exception:
    word, _, message = text.partition(" ")
    return ReplyError(word, message)


def _spellings(words: str) -> frozenset[Any]:
    both = [*words.split(), *words.lower().split()]
    return frozenset([*both, *(word.encode() for word in both)])


# Subscriptions are confirmed by pushes instead of replies, the others block the line, change what the connection is, or
# belong to the link. In capitals or small letters: a lookup is what this may cost each call.
REFUSED = _spellings(
    "SUBSCRIBE UNSUBSCRIBE PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUNSUBSCRIBE MONITOR SYNC PSYNC "
    "MULTI EXEC DISCARD WATCH UNWATCH BLPOP BRPOP BLMOVE BLMPOP BRPOPLPUSH BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF "
    "HELLO AUTH RESET QUIT SELECT"
)

# After these the connection serves nobody: it became a replica, or no longer knows who we are.
FAREWELLS = frozenset({"READONLY", "NOAUTH"})
