"""gunicorn's hooks, which run in the master: one worker whatever is asked for, and a note of how each worker ended.

`nworkers_changed` is the one hook that gunicorn calls on every path that sets the number (start, reload, TTIN, TTOU),
and at the start it runs before an application would be preloaded, so everything that may not be changed is put right
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from b1.server.ending import Ending, EndingLog
from b1.server.options import master_options

# One worker is the profile; a replacement overlaps with its predecessor (SIGTTIN, then SIGTTOU).
OVERLAP = 2

# What nobody may change: each would break a promise of the profile.
FIXED: Mapping[str, Any] = {
    "workers": 1,  # a second one doubles the memory and shares one core
    "worker_class": "b1.server.worker.B1Worker",  # bounds what arrives, and stops without losing the lifespan's end
    "preload_app": False,  # connections and slots are opened in the worker, and a replacement gets fresh code
    "max_requests": 0,  # loses a request per connection each time; the governor decides when a worker is replaced
    "reuse_port": False,  # the listening socket is the master's: requests wait in it while a worker is replaced
}


def nworkers_changed(arbiter: Any, new: int, old: int | None) -> None:
    """Hold the number of workers at one, two while a replacement overlaps, and put the fixed settings right."""
    wrong = [name for name, value in FIXED.items() if _configured(arbiter.cfg, name) != value]
    for name in wrong:
        arbiter.cfg.set(name, FIXED[name])
    if wrong:
        arbiter.log.warning("settings of gunicorn that the profile fixes were put back: %s", ", ".join(wrong))
        arbiter.worker_class = arbiter.cfg.worker_class
    wanted = FIXED["workers"] if "workers" in wrong else min(new, OVERLAP)
    if wanted != new:
        arbiter.num_workers = wanted


def child_exit(arbiter: Any, worker: Any) -> None:
    """Note how a worker ended, for the health report: gunicorn itself only logs it."""
    ending = Ending.of(worker)
    if not ending.is_clean:
        arbiter.log.error("worker %s ended while %s%s", ending.pid, ending.phase, ", blocked" * ending.timed_out)
    try:
        EndingLog(master_options().state_dir).append(ending)
    except OSError as error:
        arbiter.log.warning("how worker %s ended cannot be noted: %s", ending.pid, error)


def _configured(cfg: Any, name: str) -> Any:
    return cfg.settings[name].value
