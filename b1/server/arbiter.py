"""gunicorn's arbiter, with the one thing that it lacks: a worker is replaced by a successor that exists before it goes.

Its own SIGHUP kills the worker at once, hears no signal until that one has drained, and ends the whole service when the
new code does not start. Here SIGHUP and SIGTTIN fork a successor beside the worker; the successor decides by the memory
that there is whether it loads the application beside its predecessor or after it (`b1.server.succession`), and asks for the
predecessor's end with SIGTTOU. gunicorn has no setting for its arbiter's class: `b1.server.master` changes it in place.
"""

from __future__ import annotations

import signal
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from b1.server.ending import EndingCounts
from b1.server.passage import Passage, Predecessor, ReplacementCounts

_ONE, _TWO = 1, 2


class B1Arbiter(Arbiter):  # type: ignore[misc]  # gunicorn publishes no types
    """One worker, and for moments its successor."""

    _passage: Passage | None = None
    num_workers: int
    replacements: ReplacementCounts
    endings: EndingCounts
    _last_ended: Any = None
    _superseded: Any = None
    _retiring: Any = None  # was told to end, because its successor asked for it
    _due: str | None = None  # a replacement that waits for the present one to end
    replace_after: tuple[int, int] = (0, 0)
    """Requests after which a worker asks for its successor, and the most that chance adds; zero: never."""

    def handle_hup(self) -> None:
        """Read the settings again and replace the worker."""
        self.log.info("Hang up: %s", self.master_name)
        self._stats["reloads"] += 1
        old_address = self.cfg.address
        workers = self.num_workers
        self.replace_after = (0, 0)
        self.app.reload()
        self.setup(self.app)
        self.num_workers = workers  # setup takes the setting, and an overlap may be on
        self.log.reopen_files()
        if self.cfg.address != old_address:
            self.log.warning("the address has changed and needs a restart; still at %s", old_address)
        self.cfg.on_reload(self)
        self.succeed("reload")

    def handle_ttin(self) -> None:
        """Replace the worker: asked for by itself (memory, age) or by a person."""
        self.succeed(None)

    def handle_ttou(self) -> None:
        """A successor is ready, or waits for the memory of its predecessor: the older of two workers ends."""
        youngest = max(self.WORKERS.values(), key=lambda worker: worker.age, default=None)
        if len(self.WORKERS) < _TWO or youngest is None or not youngest.will.asks_for_end:
            return
        if youngest is self._superseded:
            return  # it asked a moment before it was killed
        self._retiring = min(self.WORKERS.values(), key=lambda worker: worker.age)
        self.num_workers = _ONE
        self.manage_workers()

    def succeed(self, reason: str | None) -> None:
        """Fork a successor; while one is on its way, a new reload replaces it and anything else is answered by it."""
        workers = sorted(self.WORKERS.values(), key=lambda worker: worker.age)
        if not workers:
            return  # whoever comes next has the new settings
        youngest = workers[-1]
        if len(workers) == _ONE and youngest.phase_cell.phase == "serving":
            self._fork_successor(youngest, reason)
        elif reason is not None:
            self._due = reason
            if len(workers) > _ONE and not youngest.will.asks_for_end:
                # Its code or its settings are old, and its predecessor does not stop for it yet.
                self._superseded = youngest
                self.kill_worker(youngest.pid, signal.SIGKILL)

    def manage_workers(self) -> None:
        """As gunicorn does it; and begin the replacement that had to wait until its worker serves."""
        if self._due is not None and len(self.WORKERS) == _ONE:
            reason, self._due = self._due, None
            self.succeed(reason)
        super().manage_workers()

    def reap_workers(self) -> None:
        """As gunicorn does it, but a successor that does not start changes nothing while its predecessor lives."""
        while True:
            before = dict(self.WORKERS)
            try:
                super().reap_workers()
            except HaltServer as halt:
                failed = [worker for pid, worker in before.items() if pid not in self.WORKERS]
                if not self.WORKERS:
                    raise
                for worker in failed:
                    self._note_failure(worker, halt)
                continue
            self._note_ended([worker for pid, worker in before.items() if pid not in self.WORKERS])
            return

    def _note_ended(self, ended: list[Any]) -> None:
        """Keep who has left something to the next worker, and tell survivors whether there will be one."""
        if ended:
            self.num_workers = _ONE
        for worker in ended:
            if worker.predecessor is None or worker.phase_cell.phase != "booting":
                self._last_ended = worker  # otherwise what its predecessor left waits for somebody else
        for survivor in self.WORKERS.values():
            if not any(worker.age > survivor.age for worker in ended):
                continue  # nobody on the way to it was killed, or crashed
            if survivor is self._retiring:
                self.num_workers = _TWO  # it has begun to end: somebody has to come
            else:
                survivor.will.has_heir = False

    def stop(self, graceful: bool = True) -> None:
        """As gunicorn does it; nobody leaves anything to a successor any more."""
        for worker in self.WORKERS.values():
            worker.will.has_heir = False
        super().stop(graceful)

    def introduce(self, worker: Any) -> None:
        """Tell a worker, before its fork, whom it succeeds and how that one reaches it."""
        if self._passage is None:
            self._passage = Passage()
            self.replacements = ReplacementCounts()
            self.endings = EndingCounts()
        worker.passage = self._passage
        worker.replacements, worker.endings = self.replacements, self.endings
        worker.replace_after = self.replace_after
        living = sorted(self.WORKERS.values(), key=lambda other: other.age)
        predecessor = living[0] if living else self._last_ended
        if predecessor is not None and predecessor.will.has_heir:
            worker.predecessor = Predecessor(predecessor.pid, predecessor.will)

    def _fork_successor(self, worker: Any, reason: str | None) -> None:
        if reason is not None:
            worker.will.reason = reason
        worker.will.has_heir = True
        self.log.info("worker %s gets a successor (%s)", worker.pid, worker.will.reason)
        self.num_workers = _TWO
        self.manage_workers()

    def _note_failure(self, worker: Any, halt: HaltServer) -> None:
        self.num_workers = _ONE
        worker.tmp.close()
        [survivor] = list(self.WORKERS.values())[:1]
        survivor.will.has_heir = False
        self.log.error("successor %s: %s Worker %s goes on.", worker.pid, halt.reason, survivor.pid)
        self.cfg.child_exit(self, worker)
