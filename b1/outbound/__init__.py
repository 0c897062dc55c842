"""Single messages to services outside: one POST over a connection of its own, to an address that was judged first.

Alerts and CDN purges use it. It is no HTTP client (`wire.py` says what it leaves out), because one would cost megabytes
for a few messages an hour.
"""

from b1.outbound.addresses import is_public
from b1.outbound.answers import retry_after_s
from b1.outbound.pauses import backoff_s
from b1.outbound.resolver import Resolve, Resolver
from b1.outbound.signing import Signer
from b1.outbound.target import Target, parse_target
from b1.outbound.wire import AddressRefused, Answer, BadAnswer, Wire

__all__ = [
    "AddressRefused",
    "Answer",
    "BadAnswer",
    "Resolve",
    "Resolver",
    "Signer",
    "Target",
    "Wire",
    "backoff_s",
    "is_public",
    "parse_target",
    "retry_after_s",
]
