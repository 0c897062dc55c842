"""Who is calling: access tokens in, a `Principal` out, looked up at most every five minutes."""

from b1.identity.identity import Credentials, Identity, Resolver
from b1.identity.tokens import InvalidToken, Tokens

__all__ = ["Credentials", "Identity", "InvalidToken", "Resolver", "Tokens"]
