"""`ours` with a governor that takes no samples; all of it that stands on the request path is there."""

from __future__ import annotations

import asyncio

from b1.governor import Governor


async def _rest(_: Governor) -> None:
    await asyncio.Event().wait()


Governor._watch = _rest  # type: ignore[method-assign]  # before the application is made, which starts one

from contenders.ours import app  # noqa: E402

__all__ = ["app"]
