"""The suite in several processes: which of them runs which file, and under which names.

A file is never split, because its module fixtures are servers. Every process has its own servers, ports, databases and
folders; what a test counts is counted at those. What only the whole machine has is in one queue: `_ONE_AT_A_TIME`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# They make control groups beside the one that every process of the suite is in, or fill memory: never two at once.
_ONE_AT_A_TIME = (
    "tests/box/",
    "tests/cli/test_box.py",
    "tests/governor/test_real_memory.py",
    "tests/real/test_memory_",
)
_LONG_WITHOUT_SERVERS = ("tests/watchdog/test_watchdog.py",)
_LONGEST_NAME = 64


def scope_of(name: str) -> str:
    """Return what of the suite stays together with the test called `name`: its file, or the one queue."""
    file = name.partition("::")[0]
    return "the whole machine" if file.startswith(_ONE_AT_A_TIME) else file


def make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Return a scheduler that hands out whole files, in the order of `slow_files_first`."""
    from xdist.scheduler import LoadScopeScheduling  # only there in a process that distributes

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False  # it would begin with the many small tests and end with one long file
    return ByFile(config, log)


def slow_files_first(items: list[pytest.Item]) -> None:
    """Begin with the files that wait for real servers: no process shall be left alone with a long one at the end."""
    slow = {_file(item) for item in items if item.get_closest_marker("real") is not None} | {*_LONG_WITHOUT_SERVERS}
    items.sort(key=lambda item: _file(item) not in slow)


def name_of(value: object, argument: str) -> str | None:
    """Return the name of a parameter that is too long to be read; it may be random, and all processes have to agree."""
    return argument if isinstance(value, str | bytes) and len(value) > _LONGEST_NAME else None


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
