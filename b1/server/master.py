"""gunicorn's hooks, which run in the master: one worker whatever is asked for, and a note of how each worker ended.

`nworkers_changed` is the one hook that gunicorn calls on every path that sets the number (start, reload, TTIN, TTOU),
and at the start it runs before an application would be preloaded, so everything that may not be changed is put right
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gunicorn.arbiter import Arbiter

from b1.server.arbiter import B1Arbiter
from b1.server.ending import Ending, EndingLog
from b1.server.options import master_options

# One worker is the profile; a successor overlaps with its predecessor.
OVERLAP = 2

# What nobody may change: each would break a promise of the profile.
FIXED: Mapping[str, Any] = {
    "workers": 1,  # a second one doubles the memory and shares one core
    "worker_class": "b1.server.worker.B1Worker",  # bounds what arrives, and stops without losing the lifespan's end
    "preload_app": False,  # connections and slots are opened in the worker, and a replacement gets fresh code
    "max_requests": 0,  # loses a request per connection each time; see `B1Arbiter.replace_after`
    "max_requests_jitter": 0,
    "reuse_port": False,  # the listening socket is the master's: requests wait in it while a worker is replaced
}

# Put back as well, but what they ask for is done: by us.
_HONOURED = frozenset({"max_requests", "max_requests_jitter"})


def nworkers_changed(arbiter: Any, new: int, old: int | None) -> None:
    """Hold the number of workers at one, two while a replacement overlaps, and put the fixed settings right."""
    _take_over(arbiter)
    wrong = [name for name, value in FIXED.items() if _configured(arbiter.cfg, name) != value]
    for name in wrong:
        arbiter.cfg.set(name, FIXED[name])
    if set(wrong) - _HONOURED:
        names = ", ".join(name for name in wrong if name not in _HONOURED)
        arbiter.log.warning("settings of gunicorn that the profile fixes were put back: %s", names)
        arbiter.worker_class = arbiter.cfg.worker_class
    wanted = FIXED["workers"] if "workers" in wrong else min(new, OVERLAP)
    if wanted != new:
        arbiter.num_workers = wanted


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Introduce a worker to its predecessor."""
    arbiter.introduce(worker)


def child_exit(arbiter: Any, worker: Any) -> None:
    """Note how a worker ended, for the health report: gunicorn itself only logs it."""
    ending = Ending.of(worker)
    arbiter.endings.note(ending)
    if not ending.is_clean:
        arbiter.log.error("worker %s ended while %s%s", ending.pid, ending.phase, ", blocked" * ending.timed_out)
    try:
        EndingLog(master_options().state_dir).append(ending)
    except OSError as error:
        arbiter.log.warning("how worker %s ended cannot be noted: %s", ending.pid, error)


def _take_over(arbiter: Any) -> None:
    """Make the arbiter ours, and note the age at which it replaces a worker before the setting is put back."""
    if type(arbiter) is Arbiter:
        arbiter.__class__ = B1Arbiter
    after, jitter = _configured(arbiter.cfg, "max_requests"), _configured(arbiter.cfg, "max_requests_jitter")
    if after:
        arbiter.replace_after = (after, jitter)


def _configured(cfg: Any, name: str) -> Any:
    return cfg.settings[name].value
