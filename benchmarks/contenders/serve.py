"""Serve one contender with uvicorn, uvloop and httptools on one core: ``python -m contenders.serve APP PORT CORE [b1]``.

With ``b1`` connections are served by b1's protocol, and the heap is settled after the start, as in a worker of ``b1 run``;
everything else is the same.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

import uvicorn


def main(app: str, port: str, core: str, kind: str = "uvicorn") -> None:
    if core != "any":
        os.sched_setaffinity(0, {int(core)})
    http: Any = _protocol() if kind == "b1" else "httptools"
    config = uvicorn.Config(
        app, host="127.0.0.1", port=int(port), loop="uvloop", http=http, access_log=False, log_level="warning"
    )
    (_Settled if kind == "b1" else uvicorn.Server)(config).run()


class _Settled(uvicorn.Server):
    """A server that does what our worker does before its first request."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        from b1.host import read_host
        from b1.plan import make_plan
        from b1.server.serving import settle_heap
        from b1.settings import Settings

        await super().startup(sockets)
        settle_heap(make_plan(read_host(os.environ), Settings.from_env(os.environ)).gc_threshold)


def _protocol() -> Any:
    from b1.clock import SystemClock
    from b1.server.heads import HeadLimits
    from b1.server.protocol import B1Protocol
    from b1.server.refusals import Refusals

    limits = HeadLimits(limit_bytes=32_768, limit_fields=100, timeout_s=10.0)
    return partial(B1Protocol, limits=limits, refusals=Refusals(SystemClock()))


if __name__ == "__main__":
    main(*sys.argv[1:])
