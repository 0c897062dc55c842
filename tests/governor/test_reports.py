"""Reports are ours alone, five at most, and never on a network share."""

import json
import os
import stat
from pathlib import Path

import pytest

from b1.governor.holdings import off_loop, top_types
from b1.governor.reports import Reports, mounted_as
from b1.units import GIB

SHARE = """\
24 1 8:1 / / rw - ext4 /dev/sda1 rw
30 24 0:9 / /home rw - cifs //account.file.core.windows.net/share rw
31 30 0:8 / /home/site/local rw - tmpfs tmpfs rw
"""


def machine(root: Path) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(SHARE)
    return root


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/tmp/b1", "ext4"), ("/home/b1", "cifs"), ("/home", "cifs"), ("/homestead", "ext4"), ("/home/site/local/x", "tmpfs")],
)  # fmt: skip
def test_the_nearest_mount_is_the_one_below_a_folder(tmp_path: Path, folder: str, kind: str) -> None:
    assert kind == mounted_as(Path(folder), root=machine(tmp_path))


def test_nothing_is_written_to_a_share(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cifs share; set B1_STATE_DIR"):
        Reports(Path("/home/b1-never-made"), root=machine(tmp_path)).write({}, Path("/home/b1-never-made/x"))


def test_what_can_be_written_is_known_without_writing(tmp_path: Path) -> None:
    Reports(tmp_path / "not" / "made" / "yet").check()
    assert [] == list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written to"):
        Reports(tmp_path / "file").check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        Reports(tmp_path).check()


def test_the_newest_five_are_kept(tmp_path: Path) -> None:
    reports = Reports(tmp_path / "state")
    paths = [reports.write({"number": number}, reports.path_at(1000.0 + number)) for number in range(8)]
    assert paths[-5:] == sorted((tmp_path / "state").iterdir())
    assert [3, 4, 5, 6, 7] == [json.loads(path.read_text())["number"] for path in paths[-5:]]


def test_a_clock_that_was_set_back_does_not_cost_the_newest(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    for number in range(5):
        reports.write({}, reports.path_at(5000.0 + number))
    newest = reports.write({"newest": True}, reports.path_at(1000.0))
    assert (True, 5) == (newest.exists(), len(list(tmp_path.iterdir())))


def test_only_we_may_read_them(tmp_path: Path) -> None:
    reports = Reports(tmp_path / "state")
    path = reports.write({}, reports.path_at(0))
    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    path = reports.write({"number": 1}, reports.path_at(5))
    path.with_suffix(".part").write_text("torn")
    assert path == reports.write({"number": 2}, reports.path_at(5))
    assert [path] == list(tmp_path.iterdir())


def test_types_are_counted_most_frequent_first() -> None:
    class Leaked:
        pass

    leaked = [Leaked() for _ in range(200_000)]
    counted = top_types()
    assert 200_000 == next(one["count"] for one in counted if one["type"].endswith("Leaked"))
    assert sorted((one["count"] for one in counted), reverse=True) == [one["count"] for one in counted]
    assert 200_000 == len(leaked)


def test_types_are_left_out_where_counting_them_would_need_what_is_left() -> None:
    assert [] == off_loop(1000)["types"]
    assert "more memory than is left" in off_loop(1000)["types_left_out"]
    assert off_loop(GIB)["types_left_out"] is None
