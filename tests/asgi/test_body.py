"""A body is read whole, or not at all, and never waited for without end."""

import asyncio
from collections.abc import Iterable

import pytest

from b1.asgi.body import ClientDisconnected, read_body, replay_body
from b1.errors import BodyTooLarge, BodyTooSlow
from b1.types import Message, Receive


def sending(messages: Iterable[Message], *, pause_s: float = 0.0) -> Receive:
    """Give the messages in turn, then stay silent."""
    left = iter(messages)

    async def receive() -> Message:
        message = next(left, None)
        if message is None:
            await asyncio.Event().wait()
            raise AssertionError
        await asyncio.sleep(pause_s)
        return message

    return receive


def piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize("pieces", [[b""], [b"abc"], [b"a", b"", b"bc"], [b"", b""]])
async def test_the_pieces_come_back_as_one(pieces: list[bytes]) -> None:
    messages = [piece(one, more=number < len(pieces) - 1) for number, one in enumerate(pieces)]
    assert b"".join(pieces) == await read_body(sending(messages), 3)


@pytest.mark.parametrize("messages", [[piece(b"abcd", more=False)], [piece(b"ab"), piece(b"cd", more=False)]])
async def test_one_byte_too_many_is_refused(messages: list[Message]) -> None:
    with pytest.raises(BodyTooLarge):
        await read_body(sending(messages), 3)


async def test_half_a_body_is_none() -> None:
    with pytest.raises(ClientDisconnected):
        await read_body(sending([piece(b"a"), {"type": "http.disconnect"}]), 10)


@pytest.mark.parametrize("messages", [[], [piece(b"a")]])
async def test_silence_ends_the_wait(messages: list[Message]) -> None:
    with pytest.raises(BodyTooSlow):
        await read_body(sending(messages), 10, silence_s=0.01)


async def test_a_drip_ends_at_the_time_for_the_whole() -> None:
    with pytest.raises(BodyTooSlow):
        await read_body(sending((piece(b"") for _ in iter(int, 1)), pause_s=0.001), 10, silence_s=5, whole_s=0.05)


async def test_a_timeout_of_the_connections_own_passes_through() -> None:
    async def failing() -> Message:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await read_body(failing, 10)


async def test_the_body_is_given_again_and_then_the_connections_end() -> None:
    receive = replay_body(b"abc", sending([{"type": "http.disconnect"}]))
    assert [piece(b"abc", more=False), {"type": "http.disconnect"}] == [await receive(), await receive()]
