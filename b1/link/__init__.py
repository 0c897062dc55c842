"""The one connection to Redis that carries everything; redis-py is imported when a `Link` is made, not before."""

from b1.link.link import Link
from b1.link.options import LinkOptions, LinkSnapshot, slots_directory
from b1.link.wire import ReplyError

__all__ = ["Link", "LinkOptions", "LinkSnapshot", "ReplyError", "slots_directory"]
