"""Services for an event loop in which nobody ran the lifespan: started at its first request, closed when the loop ends.

``TestClient(app)`` without ``with``, ``httpx.ASGITransport`` and ``uvicorn --lifespan off`` never say that the application
starts. The first makes a loop for each request: what the services hold in memory ends with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context

from b1.asgi.lifespan import Services

log = logging.getLogger("b1.lifespan")


class LateStart:
    """Starts services once per event loop.

    Args:
        begin: makes the services, and has requests served by them.
        end: takes that back; they are closed right afterwards.
    """

    def __init__(self, begin: Callable[[], Services], end: Callable[[Services], None]) -> None:
        self._begin = begin
        self._end = end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._has_told = False

    def __repr__(self) -> str:
        return f"<LateStart {'idle' if self._keeper is None or self._keeper.done() else 'started'}>"

    async def started(self) -> None:
        """Return when the services of the running loop have started.

        Raises:
            Exception: whatever their start raised; the next request tries again.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._ready is None:
            if not self._has_told:
                self._has_told = True
                log.warning(
                    "started at the first request: the server ran no lifespan (in tests: use `with TestClient(app)`, "
                    "to keep what is in memory from one request to the next)"
                )
            self._loop, self._ready = loop, loop.create_future()
            # In a context of its own: in the request's it would keep that request, and inherit its deadline.
            self._keeper = loop.create_task(self._keep(self._ready), name="b1-late-start", context=Context())
        await asyncio.shield(self._ready)

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        services: Services | None = None
        try:
            services = self._begin()
            await services.start()
            await services.take_over()
            services.mark_ready()
            ready.set_result(None)
            await asyncio.Event().wait()  # until whoever ends the loop cancels what still runs in it
        except Exception as error:  # noqa: BLE001 - the request that waits for the start gets it
            if self._ready is ready:
                self._loop = self._ready = None
            ready.set_exception(error)
        finally:
            ready.cancel()  # of no effect when it is done
            if services is not None:
                self._end(services)
                await services.aclose()
