"""The host's slots. Two `Slots` objects in one process exclude each other as two processes do: flock goes by open file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from b1.errors import ConfigurationError
from b1.slots import SlotRecord, Slots


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "b1-0" / "digest"


@pytest.fixture
def one(folder: Path) -> Iterator[Slots]:
    slots = Slots(folder, "pg", 3)
    slots.open()
    yield slots
    slots.close()


@pytest.fixture
def other(folder: Path) -> Iterator[Slots]:
    slots = Slots(folder, "pg", 3)
    slots.open()
    yield slots
    slots.close()


def test_two_holders_together_never_take_more_than_the_count(one: Slots, other: Slots) -> None:
    taken = [slots.take() for slots in (one, other, one, other, one)]
    assert [slot is not None for slot in taken] == [True, True, True, False, False]
    assert {slot.index for slot in taken if slot is not None} == {0, 1, 2}


def test_a_freed_slot_can_be_taken_by_the_other(one: Slots, other: Slots) -> None:
    slots = [one.take() for _ in range(3)]
    assert other.take() is None
    assert slots[1] is not None
    slots[1].free()
    again = other.take()
    assert again is not None and again.index == 1


def test_the_record_of_a_slot_is_read_by_its_next_holder(one: Slots, other: Slots) -> None:
    slot = one.take()
    assert slot is not None
    assert slot.record == SlotRecord(0, is_clean=True)
    slot.note_open(4711)
    slot.free()
    spare = [other.take(), other.take()]
    taken = other.take()
    assert None not in spare and taken is not None
    assert taken.record == SlotRecord(4711, is_clean=False)
    taken.note_clean()
    assert SlotRecord(4711, is_clean=True) in other.records()


def test_a_clean_slot_is_preferred_to_a_doubtful_one(one: Slots, other: Slots) -> None:
    for number in (1, 2):
        slot = one.take()
        assert slot is not None
        slot.note_open(number)
    one.close()
    first = other.take()
    assert first is not None and first.record.is_clean
    second, third = other.take(), other.take()
    assert second is not None and third is not None
    assert {second.record.remote_id, third.record.remote_id} == {1, 2}


def test_a_torn_record_is_doubtful(one: Slots, folder: Path) -> None:
    (folder / "pg.0").write_text("47 op")
    (folder / "pg.1").write_text("x clean\n")
    assert [record.is_clean for record in one.records()] == [False, False, True]


def test_a_wish_is_seen_by_others_and_not_by_oneself(one: Slots, other: Slots) -> None:
    assert not one.others_want()
    other.want(True)
    assert one.others_want()
    assert not other.others_want()
    assert other.is_wanting
    other.want(False)
    assert not one.others_want()


def test_looking_keeps_ones_own_wish(one: Slots, other: Slots) -> None:
    one.want(True)
    other.want(True)
    assert one.others_want() and one.is_wanting
    other.want(False)
    assert other.others_want()


def test_a_killed_process_holds_nothing_and_wants_nothing(one: Slots, folder: Path) -> None:
    script = (
        "import sys, time, pathlib; from b1.slots import Slots\n"
        "s = Slots(pathlib.Path(sys.argv[1]), 'pg', 3); s.open(); slot = s.take(); slot.note_open(99); s.want(True)\n"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len([slot for slot in (one.take(), one.take(), one.take()) if slot is not None]) == 2
        assert one.others_want()
        process.send_signal(signal.SIGKILL)
    taken = one.take()
    assert taken is not None and taken.record == SlotRecord(99, is_clean=False)
    assert not one.others_want()


def test_a_forked_child_keeps_neither_locks_nor_the_socket(one: Slots, other: Slots) -> None:
    slot = one.take()
    assert slot is not None
    reader, writer = os.pipe()
    slot.note_open(7, socket_fd=writer)
    one.want(True)
    go_reader, go_writer = os.pipe()
    ready_reader, ready_writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_writer)
        os.write(ready_writer, b"!")
        os.read(go_reader, 1)  # lives on while the parent looks
        os._exit(0 if not one.is_open else 1)
    try:
        os.read(ready_reader, 1)
        one.close()
        os.close(writer)
        assert os.read(reader, 1) == b""  # end of file: nobody holds the other end
        assert len([slot for slot in (other.take(), other.take(), other.take()) if slot is not None]) == 3
        assert not other.others_want()
    finally:
        os.close(go_writer)
        _, status = os.waitpid(child, 0)
        for fd in (reader, go_reader, ready_reader, ready_writer):
            os.close(fd)
    assert os.waitstatus_to_exitcode(status) == 0


def test_files_are_private_and_not_inherited(one: Slots, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {"pg.0", "pg.1", "pg.2", "pg.want"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    ours = [int(name) for name in os.listdir("/proc/self/fd") if _points_into(name, folder)]
    assert len(ours) == 4
    assert not any(os.get_inheritable(fd) for fd in ours)


def test_a_folder_that_was_emptied_is_used_again(one: Slots, other: Slots, folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    taken = [slots.take() for slots in (one, other, one, other)]
    assert [slot is not None for slot in taken] == [True, True, True, False]


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder that belongs to somebody else")
    folder = tmp_path / "digest"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with pytest.raises(ConfigurationError, match="not a folder of user"):
        Slots(folder, "pg", 3).open()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "digest").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="not a folder"):
        Slots(tmp_path / "digest", "pg", 3).open()


def test_no_slots_at_all_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Slots(tmp_path, "pg", 0)


def test_closing_frees_and_may_be_repeated(one: Slots, other: Slots) -> None:
    for _ in range(3):
        one.take()
    one.close()
    one.close()
    assert repr(one).endswith("closed>")
    assert other.take() is not None


def _points_into(fd: str, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(str(folder))
    except OSError:
        return False
