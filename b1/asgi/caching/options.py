"""What can be chosen for the response cache as a whole; what one route chooses is `b1.asgi.options.CacheOptions`."""

from __future__ import annotations

from dataclasses import dataclass, field

from b1.cache.packing.holding import HoldOptions

ANSWER_LIMIT_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCacheOptions:
    """Of the whole response cache.

    Attributes:
        answer_limit_bytes: larger bodies are sent and not stored.
        shared_limit_bytes: larger answers, with all their encodings, stay in this process: on the one connection to
            Redis everybody waits behind them.
        key_limit_bytes: requests whose path, query and varying headers are longer pass by the cache.
        wait_s: how long a request waits for another one that runs the same handler, before it runs it itself.
        waiters: how many may wait so; the next runs the handler itself.
        refreshes: how many handlers run in the background at a time.
        refresh_s: when a refresh in the background is given up.
        pause_s: after a failed refresh the stale answer is served for so long without another try.
        lease_ms: how long the other processes wait for ours to load; after it one of them loads too.
        writes: how many answers may be on their way to the shared store; the next is not sent there.
        stale_s: of routes that do not say: for how long after its time an answer is served while it is refreshed.
        error_s: of routes that do not say: for how long after its time it is served when the handler fails.
        compress_from_bytes: smaller bodies are not compressed.
        host: what handlers see as ``Host`` while their answer may be stored; None: the address of the server.
        is_origin_keyed: answers differ by ``Origin``. False where our own layer does the CORS for all routes.
        surrogate_header: such as ``Surrogate-Key``: tags for a CDN, separated by spaces; None: not sent.
        tag_header: such as ``Cache-Tag``: the same, separated by commas.
        tag_header_bytes: the longest such header; tags that do not fit are counted and left out.
        hold: how answers lie in the in-process map.
    """

    answer_limit_bytes: int = ANSWER_LIMIT_BYTES
    shared_limit_bytes: int = 256 * 1024
    key_limit_bytes: int = 2048
    wait_s: float = 5.0
    waiters: int = 1000
    refreshes: int = 2
    refresh_s: float = 10.0
    pause_s: float = 5.0
    lease_ms: int = 5000
    writes: int = 64
    stale_s: float = 30.0
    error_s: float = 300.0
    compress_from_bytes: int = 1024
    host: str | None = None
    is_origin_keyed: bool = True
    surrogate_header: str | None = None
    tag_header: str | None = None
    tag_header_bytes: int = 8192
    hold: HoldOptions = field(default_factory=HoldOptions)
