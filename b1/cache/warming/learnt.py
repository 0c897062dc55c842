"""What use teaches: which answers and keys are read, so that they are there again after a restart.

Nothing is counted on the path of a hit. An answer is noted when it is made (a miss or a refresh, below the cache), a key
when a look at entries taken by chance finds it read; from then on each look counts what was read since the one before.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from dataclasses import replace

import orjson

from b1.cache.l1.table import L1
from b1.cache.names import entry_name, namespace_of
from b1.cache.packing.holding import is_ready_form
from b1.cache.warming.looking import look
from b1.cache.warming.options import WarmingOptions
from b1.cache.warming.popular import Popular
from b1.cache.warming.subjects import AnswerSubject, KeySubject, Subject, read, written
from b1.cache.warming.users import actor_versions
from b1.clock import Clock

log = logging.getLogger("b1.cache")

_FORMAT = 1
_OWNED = entry_name("", "")  # what stands between the organisation and the key in an entry's name
# Fewer than so many that are gone at once are no sign of anything.
_EMPTIED_LEAST = 8
_EMPTIED_PART = 0.9


class Learnt:
    """The subjects with their counts.

    Args:
        namespaces: of keys that can be loaded.
    """

    def __init__(self, l1: L1, clock: Clock, namespaces: Container[str], options: WarmingOptions) -> None:
        self._l1 = l1
        self._clock = clock
        self._namespaces = namespaces
        self._options = options
        self._subjects: dict[str, Subject] = {}
        self._popular = Popular(options.tracked, options.half_life_s, clock.monotonic, self._dropped)
        self._lives: dict[str, float] = {}  # of what was read: when its fresh time is over

    def __repr__(self) -> str:
        return f"<Learnt {self._popular!r}>"

    def __len__(self) -> int:
        return len(self._popular)

    def saw(self, name: str, subject: Subject, readings: float = 1.0) -> None:
        """Count a reading of what lies in L1 under this name."""
        if isinstance(subject, AnswerSubject) and not subject.is_small:
            return
        self._popular.add(name, readings)
        self._subjects[name] = subject

    def forget(self, name: str) -> None:
        """Count it no more: it cannot be warmed."""
        self._popular.drop(name)

    def top(self) -> list[tuple[str, Subject, float]]:
        """Return what is read most, as far as it may be warmed again, the most read first."""
        ranked = self._popular.top(self._options.top, self._options.least_count)
        found = [(name, self._subjects[name], count) for name, count in ranked]
        return [one for one in found if not isinstance(one[1], AnswerSubject) or self._is_believed(one[1])]

    def of(self, actor: str, organization: str | None) -> list[tuple[str, Subject, float]]:
        """Return what is read most for one user."""
        return [
            one
            for one in self.top()
            if isinstance(one[1], AnswerSubject)
            and one[1].principal is not None
            and (one[1].principal.actor, one[1].principal.organization) == (actor, organization)
        ]

    def sweep(self) -> bool:
        """Look at what is read; say whether most of it has gone before its time, all at once."""
        lost = kept = 0
        now_s = self._clock.monotonic()
        for name in list(self._subjects):
            ends_s = self._lives.get(name)
            if self._is_there(name):
                kept += ends_s is not None
            elif ends_s is not None and ends_s > now_s:
                lost += 1
        if self._namespaces:
            for name in self._l1.sample(self._options.sampled):
                if not is_ready_form(name):
                    self._sampled(name)
        return lost >= _EMPTIED_LEAST and lost >= _EMPTIED_PART * (lost + kept)

    def export(self) -> bytes:
        """Return what is read most, for a successor; empty: nothing is."""
        kept, size = [], 64
        for name, subject, count in self.top():
            one = written(name, subject, count)
            data = b"" if one is None else orjson.dumps(one)
            if one is not None and size + len(data) < self._options.export_limit_bytes:
                kept.append(one)
                size += len(data) + 1
        return orjson.dumps({"v": _FORMAT, "s": kept}) if kept else b""

    def absorb(self, data: bytes) -> int:
        """Take over what a predecessor left; return how many subjects those were. What cannot be read is left out."""
        try:
            read_all = orjson.loads(data)
            found = [read(one) for one in read_all["s"]] if read_all["v"] == _FORMAT else []
        except (KeyError, TypeError, ValueError):
            log.warning("what was left for warming cannot be read")
            return 0
        for name, subject, count in found[: self._options.tracked]:
            if name in self._popular:
                continue  # the second part of a hand-over repeats the first
            if isinstance(subject, AnswerSubject) and subject.principal is not None:
                # Whoever is forgotten from now on is forgotten here too.
                subject = replace(subject, versions=actor_versions(self._l1, subject.principal))
            self.saw(name, subject, max(0.0, count))
        return len(found)

    def _is_believed(self, subject: AnswerSubject) -> bool:
        """Say whether the principal was not forgotten since it was met here."""
        return not subject.versions or self._l1.are_current(subject.versions)

    def _is_there(self, name: str) -> bool:
        """Count a reading of one entry since the last look; say whether it is there."""
        found = look(self._l1, name, marks=True)
        if found is None:
            self._lives.pop(name, None)
            return False
        if found.is_read:
            self._popular.add(name)
        if found.is_used:
            self._lives[name] = found.expires_s
        return True

    def _sampled(self, name: str) -> None:
        if name in self._subjects:
            return
        organization, owned, key = name.rpartition(_OWNED)
        namespace = namespace_of(key)
        found = look(self._l1, name, marks=True) if ":" in key and namespace in self._namespaces else None
        if found is not None and found.is_read:
            self.saw(name, KeySubject(namespace, key, organization if owned else None))
            self._lives[name] = found.expires_s

    def _dropped(self, name: str) -> None:
        self._subjects.pop(name, None)
        self._lives.pop(name, None)
