"""The one connection to Redis that carries everything; redis-py is imported when a `Link` is made, not before."""

from b1.link.credentials import Credentials, CredentialSource, from_provider, from_url_file
from b1.link.link import Line, Link
from b1.link.options import LinkOptions, LinkSnapshot, ReserveSnapshot, slots_directory
from b1.link.replies import Oversized, ReplyError
from b1.link.reserve import Reason
from b1.link.server import Server

__all__ = [
    "CredentialSource",
    "Credentials",
    "Line",
    "Link",
    "LinkOptions",
    "LinkSnapshot",
    "Oversized",
    "Reason",
    "ReplyError",
    "ReserveSnapshot",
    "Server",
    "from_provider",
    "from_url_file",
    "slots_directory",
]
