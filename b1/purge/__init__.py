"""Purging the CDN in front: surrogate keys in, batched calls out, through an adapter for each kind of service.

Nothing here waits in a request's way, and what a CDN does not take is repeated with growing pauses.
"""

from b1.purge.adapters import Adapter, Batch, Cloudflare, Fastly, FrontDoor, Message, Webhook
from b1.purge.following import Following, FollowingSnapshot
from b1.purge.options import FollowingOptions, PurgeOptions
from b1.purge.queue import PurgeQueue, PurgeSnapshot

__all__ = [
    "Adapter",
    "Batch",
    "Cloudflare",
    "Fastly",
    "Following",
    "FollowingOptions",
    "FollowingSnapshot",
    "FrontDoor",
    "Message",
    "PurgeOptions",
    "PurgeQueue",
    "PurgeSnapshot",
    "Webhook",
]
