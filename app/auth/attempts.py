"""How many log-ins may fail. Only failures are spent, so whoever knows the password is never kept waiting by success.

The account is counted by a digest of the address that was typed, whether such an account exists or not: existence must
not show in a header, and no e-mail address belongs into a counter's key.
"""

from __future__ import annotations

import hashlib
from typing import Final

from app.profile import b1
from b1 import Caller

# Nobody may guess much from one address, nor much about one account, nor (nearly) anything about one from the other.
_FROM_STRANGE_ADDRESS: Final = ("authentication", "authentication-address", "authentication-account")
_FROM_KNOWN_ADDRESS: Final = ("authentication-known", "authentication-address", "authentication-account")


class Attempts:
    """The failures of one account from one address."""

    __slots__ = ("_caller", "address_digest")

    def __init__(self, email: str) -> None:
        address = b1.client_address()
        account = hashlib.blake2b(email.encode(), digest_size=16).hexdigest()
        self._caller = Caller(address=address, actor=f"account:{account}")
        self.address_digest = hashlib.blake2b(f"{email}\0{address}".encode(), digest_size=16).digest()

    async def check(self, *, address_is_known: bool) -> None:
        """Pass if one more failure is affordable; nothing is spent.

        Raises:
            RateLimited: it is not.
        """
        await b1.enforce(_policies(address_is_known), self._caller, commit=False)

    async def spend(self, *, address_is_known: bool) -> None:
        """Count a failure; raises `RateLimited` when others have used up the rest in the meantime."""
        await b1.enforce(_policies(address_is_known), self._caller, commit=True)


def _policies(address_is_known: bool) -> tuple[str, ...]:
    return _FROM_KNOWN_ADDRESS if address_is_known else _FROM_STRANGE_ADDRESS
