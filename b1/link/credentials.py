"""Who we are to the server, when that changes with time: tokens that expire, passwords that are rotated in a file.

New credentials are sent on the living connection before the old ones end; the connection stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

_log = logging.getLogger("b1.link")
_FILE_CHECK_S = 30.0
_ASK_LIMIT_S = 10.0
# Of the time that a token has left, this much passes before the next one is asked for.
_RENEWED_AFTER = 0.75
_NEVER_SOONER_S = 1.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """What `AUTH` says.

    Attributes:
        password: or token.
        username: None for the default user.
        valid_s: how long it is good for; None for ever. New ones are asked for at three quarters of it.
    """

    password: str = field(repr=False)
    username: str | None = None
    valid_s: float | None = None

    def words(self) -> tuple[str, ...]:
        """Return the arguments of `AUTH`."""
        return (self.password,) if self.username is None else (self.username, self.password)

    def renew_after_s(self) -> float | None:
        """Return when to ask for the next ones; None for never."""
        return None if self.valid_s is None else max(_NEVER_SOONER_S, self.valid_s * _RENEWED_AFTER)


CredentialSource = Callable[[], Awaitable[Credentials]]


def from_url_file(path: Path) -> CredentialSource:
    """Take user and password from the URL in a file, which is read again every 30 s.

    For `REDIS_URL_FILE`: where the server is stays as it was at the start; the password may be rotated.
    """

    async def read() -> Credentials:
        parts = urlsplit((await asyncio.to_thread(path.read_text)).strip())
        username = unquote(parts.username) if parts.username else None
        # Good until the next look, so to say: unchanged ones are not sent again.
        return Credentials(unquote(parts.password or ""), username, valid_s=_FILE_CHECK_S / _RENEWED_AFTER)

    return read


def from_provider(provider: CredentialProvider, *, valid_s: float | None = None) -> CredentialSource:
    """Take them from a redis-py credential provider, such as the one for Entra ID."""

    async def ask() -> Credentials:
        words = await provider.get_credentials_async()
        return Credentials(words[-1], words[0] if len(words) == 2 else None, valid_s)

    return ask


class Remembered:
    """Asks a source and remembers the answer; redis-py's handshake uses it as a credential provider.

    Attributes:
        last: what was sent last.
    """

    def __init__(self, source: CredentialSource) -> None:
        self.last: Credentials | None = None
        self._source = source

    def __repr__(self) -> str:
        return f"Remembered({self.last!r})"

    async def ask(self) -> Credentials:
        """Ask the source."""
        self.last = await self._source()
        return self.last

    async def get_credentials_async(self) -> tuple[str, ...]:
        return (await self.ask()).words()

    def get_credentials(self) -> Any:
        raise NotImplementedError("the link connects with get_credentials_async")


async def keep_fresh(remembered: Remembered, send: Callable[[tuple[str, ...]], Awaitable[None]]) -> None:
    """Ask for new credentials before the present ones end, and send them; ends when they are for ever."""
    while remembered.last is not None and (wait_s := remembered.last.renew_after_s()) is not None:
        await asyncio.sleep(wait_s)
        before = remembered.last
        while not await _renewed(remembered, before, send):  # noqa: ASYNC110  # it polls somebody else's service
            # The old ones are good for a quarter of their time yet: several attempts.
            await asyncio.sleep(max(_NEVER_SOONER_S, wait_s / 12))


async def _renewed(
    remembered: Remembered, before: Credentials, send: Callable[[tuple[str, ...]], Awaitable[None]]
) -> bool:
    try:
        async with asyncio.timeout(_ASK_LIMIT_S):
            fresh = await remembered.ask()
        if fresh.words() != before.words():
            await send(fresh.words())
    except Exception as error:  # noqa: BLE001  # the source is somebody else's code; the connection lives meanwhile
        remembered.last = before
        _log.warning("redis credentials were not renewed", extra={"reason": f"{type(error).__name__}: {error}"})
        return False
    return True
