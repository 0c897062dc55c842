"""Who owns a claim, and whether that process is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from b1.store.owner import NOBODY, OWNER, is_gone, own_name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say: nobody is ever gone there")

NAMED = "import sys, time; from b1.store.owner import own_name; print(own_name().hex(), flush=True); time.sleep(600)"


class Child:
    """Another process, and its name."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", NAMED], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.name = bytes.fromhex(self.process.stdout.readline())

    def kill(self) -> None:
        """Kill it, and leave it unburied."""
        os.kill(self.process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def bury(self) -> None:
        self.process.wait()


@pytest.fixture
def child() -> Iterator[Child]:
    one = Child()
    yield one
    one.process.kill()
    one.process.wait()
    assert one.process.stdout is not None
    one.process.stdout.close()


def test_a_process_is_gone_from_the_moment_it_is_killed(child: Child) -> None:
    assert not is_gone(child.name)
    child.kill()
    assert is_gone(child.name)  # a zombie still has its number
    child.bury()
    assert is_gone(child.name)


def test_a_name_is_the_same_each_time_and_never_that_of_another(child: Child) -> None:
    assert own_name() == own_name() != child.name
    assert not is_gone(own_name())


def test_a_number_that_was_given_again_is_not_the_process_that_had_it() -> None:
    host, number, began = OWNER.unpack(own_name())
    assert is_gone(OWNER.pack(host, number, began - 1))


def test_of_another_host_nothing_is_known() -> None:
    _, number, began = OWNER.unpack(own_name())
    assert not is_gone(OWNER.pack(b"else", number, began - 1))


@pytest.mark.parametrize("name", [NOBODY, b"short", bytes(16), bytes(17)])
def test_what_is_no_name_is_never_gone(name: bytes) -> None:
    assert not is_gone(name)
