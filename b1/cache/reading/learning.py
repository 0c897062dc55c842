"""Where dictionaries come from: trained here when little else is to do, or fetched when an entry names one.

A dictionary lies in the shared store under its own digest, beside the entries that need it. It goes when everything is
invalidated, and then so have they.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from b1.cache.options import LONGEST_S
from b1.cache.packing.dictionaries import Dictionaries, id_of
from b1.cache.packing.envelopes import Envelopes
from b1.cache.reading.shared import Shared, State, store_key
from b1.cache.reading.tasks import Tasks

_TAGS = ("\x1fd",)


class Learning:
    """Samples, trains, stores and fetches.

    Args:
        is_busy: while it says so nothing is trained: the samples keep until later.
    """

    def __init__(self, dictionaries: Dictionaries, tasks: Tasks, *, is_busy: Callable[[], bool]) -> None:
        self._dictionaries = dictionaries
        self._tasks = tasks
        self._is_busy = is_busy
        self._shared: Shared | None = None
        self._envelopes: Envelopes | None = None
        self._under_way: set[int | str] = set()

    def __repr__(self) -> str:
        return f"<Learning {self._dictionaries!r} under_way={len(self._under_way)}>"

    def __len__(self) -> int:
        return len(self._dictionaries)

    def through(self, shared: Shared, envelopes: Envelopes) -> None:
        """Store and fetch there."""
        self._shared = shared
        self._envelopes = envelopes

    def saw(self, namespace: str, value: bytes) -> None:
        """Take a value as a sample; train in the background when there are enough of them and nothing else is to do."""
        if self._dictionaries.sample(namespace, value) and not self._is_busy():
            self._begin(namespace, lambda: self._train(namespace))

    def wanted(self, namespace: str, dictionary_id: int) -> None:
        """Fetch a dictionary that an entry was written with."""
        self._begin(dictionary_id, lambda: self._fetch(namespace, dictionary_id))

    def _begin(self, name: int | str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._shared is None or name in self._under_way:
            return
        self._under_way.add(name)

        async def run() -> None:
            try:
                await work()
            finally:
                self._under_way.discard(name)

        if not self._tasks.own(run(), "b1-cache-learn"):
            self._under_way.discard(name)

    async def _train(self, namespace: str) -> None:
        dictionary = await self._dictionaries.train(namespace)
        if dictionary is None or self._shared is None or self._envelopes is None:
            return
        name = _name(dictionary.id)
        answer = await self._shared.ask(name, None, _TAGS)
        if answer is None:
            return
        envelope = self._envelopes.seal_plain(name, dictionary.data, _TAGS)
        place = store_key(name, None)
        await self._shared.keep(place, envelope, _TAGS, answer.vector, life_s=LONGEST_S, fresh_s=LONGEST_S)

    async def _fetch(self, namespace: str, dictionary_id: int) -> None:
        if self._shared is None:
            return
        name = _name(dictionary_id)
        answer = await self._shared.ask(name, store_key(name, None), _TAGS)
        if answer is not None and answer.state is State.FRESH and id_of(answer.value) == dictionary_id:
            self._dictionaries.adopt(namespace, answer.value)


def _name(dictionary_id: int) -> str:
    return f"\x1fdictionary:{dictionary_id:08x}"
