"""The worker: gunicorn's process around our ASGI server. Created in the master, lives after the fork.

Importing this module in the master is unavoidable (gunicorn asks for the class), so the protocol, the event loop and
the application are imported in the worker only.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import time
from dataclasses import asdict
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from b1 import logs
from b1.asgi.lifespan import REFUSALS_STATE, WORKERS_STATE
from b1.clock import SystemClock
from b1.host import MemoryLimit
from b1.plan import memory_wish
from b1.server.ending import EndingCounts, PhaseCell
from b1.server.options import ServerOptions, read_options
from b1.server.passage import Passage, Predecessor, ReplacementCounts, Will
from b1.server.serving import B1Server, StopTimes
from b1.server.succession import Replaced, Succession
from b1.types import ASGIApp

if TYPE_CHECKING:
    from b1.asgi.endpoints.health import LastReplacement, Workers

log = logging.getLogger("b1.server")

# After the application's shutdown nothing is left to do; a thread that does not end may not eat the time to stop.
EXIT_MAY_TAKE_S = 1.0

# How long a successor looks at the pace at which memory grows, and for how long it has to fit beside its predecessor.
PACE_S = 0.2
START_MAY_TAKE_S = 3.0


class B1Worker(UvicornWorker):  # type: ignore[misc]  # uvicorn-worker publishes no types
    """One process that serves: uvloop where it is installed, httptools with bounds, a stop that runs to its end."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "auto",
        "lifespan": "on",  # "auto" would serve an application whose start-up raised
        "proxy_headers": False,  # `guard` decides whom to believe; uvicorn's middleware believes the first address
        "server_header": False,
        "access_log": False,  # `observe` logs requests
    }

    wsgi: ASGIApp  # gunicorn's name for the application

    # Said by the arbiter, before the fork.
    passage: Passage
    predecessor: Predecessor | None = None
    replace_after: tuple[int, int] = (0, 0)
    replacements: ReplacementCounts
    endings: EndingCounts

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.phase_cell = PhaseCell()
        self.will = Will()
        self._last: LastReplacement | None = None

    def init_signals(self) -> None:
        """Until the server takes the signals, every stop is immediate: there is nothing to end yet."""
        super().init_signals()
        signal.signal(signal.SIGQUIT, _terminate)
        # The master sends SIGABRT to a worker whose loop no longer turns. This dumps every thread's stack first, and
        # from C: a Python handler would never run while the code that blocks holds the interpreter.
        faulthandler.enable(all_threads=True)

    def init_process(self) -> None:
        """Run the worker; returns when it has stopped."""
        self._options: ServerOptions = read_options()
        logs.configure(self._options.log_format, self._options.settings.log_level)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application, after the predecessor has gone if need be, and put the profile around one that has none."""
        graceful_s = float(self.cfg.graceful_timeout)
        self._succession = Succession(self.passage, self.will, self.predecessor, graceful_s=graceful_s)
        self._succession.make_way(self._options.settings.replacement, self._read_memory, self.notify)
        super().load_wsgi()
        from b1.profile import ensure_wrapped

        self.wsgi = ensure_wrapped(self.wsgi)

    async def _serve(self) -> None:
        from b1.server.heads import HeadLimits
        from b1.server.pace import PaceLimits
        from b1.server.protocol import B1Protocol
        from b1.server.refusals import Refusals

        plan = self._options.plan
        limits = HeadLimits(plan.header_limit_bytes, plan.header_limit_fields, plan.header_timeout_s)
        pace = PaceLimits(plan.transfer_least_bytes_per_s, plan.transfer_grace_s)
        self.config.app = self.wsgi
        refusals = Refusals(SystemClock())
        self.config.http = partial(B1Protocol, limits=limits, pace=pace, refusals=refusals)
        times = StopTimes.within(self.cfg.graceful_timeout)
        server = B1Server(
            self.config,
            times,
            self.phase_cell,
            self._succession,
            gc_threshold=plan.gc_threshold,
            replace_after=_with_chance(*self.replace_after),
            on_replaced=self._note_replaced,
            said={WORKERS_STATE: self._workers, REFUSALS_STATE: lambda: refusals.snapshot().by_reason},
        )
        # The sockets inside gunicorn's wrappers: uvloop closes a wrapper's descriptor twice, and by the second time the
        # number may belong to a database connection.
        await server.serve(sockets=[listening.sock for listening in self.sockets])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        _bound_the_exit()

    def _note_replaced(self, replaced: Replaced) -> None:
        from b1.asgi.endpoints.health import LastReplacement

        self.replacements.note(replaced.mode, replaced.reason)
        self._last = LastReplacement(replaced.mode, replaced.reason, replaced.pause_s, time.time())
        log.info("worker replaced", extra=asdict(replaced))

    def _workers(self) -> Workers:
        from b1.asgi.endpoints.health import Workers

        return Workers(self.endings.snapshot(), self.replacements.snapshot(), self._last)

    def _read_memory(self) -> tuple[int, int]:
        """Return what all of us will hold in a moment, at the present pace, and the effective limit."""
        from b1.governor.meter import MemoryMeter

        asked_bytes, source = memory_wish(self._options.settings)
        meter = MemoryMeter(MemoryLimit(asked_bytes, source))
        before = meter.read(time.monotonic(), exactly=True)
        time.sleep(PACE_S)
        now = meter.read(time.monotonic(), exactly=True)
        growth_bytes = max(0.0, now.used_bytes - before.used_bytes) / PACE_S * START_MAY_TAKE_S
        return now.used_bytes + int(growth_bytes), now.limit_bytes


def _with_chance(after: int, jitter: int) -> int | None:
    return after + random.randint(0, jitter) if after else None


def _terminate(number: int, frame: FrameType | None) -> None:
    """Die of SIGTERM, because SIGQUIT's own default writes a core file."""
    os.kill(os.getpid(), signal.SIGTERM)


def _bound_the_exit() -> None:
    """End the process even if a thread does not: the interpreter waits for threads without a limit."""
    signal.signal(signal.SIGALRM, _leave)
    signal.setitimer(signal.ITIMER_REAL, EXIT_MAY_TAKE_S)


def _leave(number: int, frame: FrameType | None) -> None:
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    log.warning("threads did not end and are left behind", extra={"threads": names[:10]})
    logging.shutdown()
    os._exit(0)
