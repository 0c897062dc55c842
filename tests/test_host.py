"""The box is read from files, of every shape that kernels and containers give them."""

from pathlib import Path

import pytest

from b1.host import cpu_limit, group_limit, memory_groups, memory_limit, read_counters, read_host, read_number

MIB = 1024**2
TOTAL = 4096 * MIB


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_control_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    limit = memory_limit(tmp_path, TOTAL)
    assert (limit.limit_bytes, limit.source) == (TOTAL, "machine")


@pytest.mark.parametrize(
    "text", ["max\n", "", "garbage", "-1", "9223372036854771712", "9223372036854775807", "0", "1 2", " \n"]
)
def test_a_limit_that_means_none_leaves_the_machine(tmp_path: Path, text: str) -> None:
    write(tmp_path, "sys/fs/cgroup/memory.max", text)
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", text)
    assert memory_limit(tmp_path, TOTAL).source == "machine"


def test_version_two_is_read_at_the_root_of_a_container(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", f"{1750 * MIB}\n")
    limit = memory_limit(tmp_path, TOTAL)
    assert (limit.limit_bytes, limit.source) == (1750 * MIB, "cgroup v2")


def test_version_one_is_read_at_the_root_of_a_container(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/abc\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{1750 * MIB}\n")
    limit = memory_limit(tmp_path, TOTAL)
    assert (limit.limit_bytes, limit.source) == (1750 * MIB, "cgroup v1")


def test_the_least_limit_of_nested_groups_counts(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/outer/inner\n")
    write(tmp_path, "sys/fs/cgroup/outer/memory.max", f"{512 * MIB}")
    write(tmp_path, "sys/fs/cgroup/outer/inner/memory.max", f"{800 * MIB}")
    assert memory_limit(tmp_path, TOTAL).limit_bytes == 512 * MIB


def test_a_limit_above_the_machine_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, "sys/fs/cgroup/memory.max", str(TOTAL * 2))
    assert memory_limit(tmp_path, TOTAL).limit_bytes == TOTAL


def test_the_groups_above_us_come_first_and_ours_last(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/outer/inner\n")
    for folder in ("", "outer/", "outer/inner/", "outer/inner/below/", "elsewhere/"):
        write(tmp_path, f"sys/fs/cgroup/{folder}memory.max", "max")
    found = [str(group.folder.relative_to(tmp_path)) for group in memory_groups(tmp_path)]
    assert found == ["sys/fs/cgroup", "sys/fs/cgroup/outer", "sys/fs/cgroup/outer/inner"]


def test_a_machine_with_both_versions_counts_memory_in_one(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/mine\n1:name=systemd:/mine\n0::/mine\n")
    write(
        tmp_path,
        "proc/self/mountinfo",
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
    )
    write(tmp_path, "sys/fs/cgroup/unified/mine/cgroup.procs", "1")
    write(tmp_path, "sys/fs/cgroup/memory/mine/memory.limit_in_bytes", str(640 * MIB))
    assert [1] == [group.version for group in memory_groups(tmp_path)]
    assert memory_limit(tmp_path, TOTAL).limit_bytes == 640 * MIB


@pytest.mark.parametrize(
    ("part", "group", "folder"),
    [
        ("/", "/docker/abc", "groups/docker/abc"),
        ("/docker/abc", "/docker/abc", "groups"),
        ("/docker/abc", "/docker/abc/inner", "groups/inner"),
        ("/docker/ab", "/docker/abc", "groups"),  # the beginning of a name is no folder above
        ("/docker/abc", "/", "groups"),
        ("/", "/../..", "groups"),
        ("/a\\040b", "/a b/inner", "groups/inner"),
    ],
)
def test_our_group_is_found_below_the_part_that_is_mounted(tmp_path: Path, part: str, group: str, folder: str) -> None:
    write(tmp_path, "proc/self/cgroup", f"0::{group}\n")
    write(tmp_path, "proc/self/mountinfo", f"30 1 0:26 {part} /groups rw shared:4 - cgroup2 cgroup2 rw\n")
    for name in ("", "inner/", "docker/abc/"):
        write(tmp_path, f"groups/{name}memory.max", "max")
    assert tmp_path / folder == memory_groups(tmp_path)[-1].folder


def test_the_mount_that_hides_another_counts(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/box\n")
    write(
        tmp_path,
        "proc/self/mountinfo",
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "99 31 0:32 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
    )
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", str(640 * MIB))
    assert memory_groups(tmp_path)[-1].folder == tmp_path / "sys/fs/cgroup/memory"


@pytest.mark.parametrize("text", ["", "garbage", "1 2 3 - cgroup2", "35 31 0:32 /\n"])
def test_mounts_that_cannot_be_read_leave_the_usual_places(tmp_path: Path, text: str) -> None:
    write(tmp_path, "proc/self/mountinfo", text)
    write(tmp_path, "sys/fs/cgroup/memory.max", str(640 * MIB))
    assert memory_limit(tmp_path, TOTAL).limit_bytes == 640 * MIB


@pytest.mark.parametrize(
    ("files", "limit_mib"),
    [
        ({"memory.max": "max", "memory.high": "max"}, None),
        ({"memory.max": str(640 * MIB), "memory.high": "max"}, 640),
        ({"memory.max": str(640 * MIB), "memory.high": str(500 * MIB)}, 500),
    ],
)
def test_a_version_two_group_states_up_to_two_limits(
    tmp_path: Path, files: dict[str, str], limit_mib: int | None
) -> None:
    for name, text in files.items():
        write(tmp_path, f"sys/fs/cgroup/{name}", text)
    limit = group_limit(memory_groups(tmp_path)[0])
    assert (limit_mib and limit_mib * MIB) == limit


@pytest.mark.parametrize(
    ("hierarchical", "limit_mib"), [(str(300 * MIB), 300), ("9223372036854771712", 640), ("0", 640), ("x", 640)]
)
def test_version_one_tells_of_limits_above_that_cannot_be_seen(
    tmp_path: Path, hierarchical: str, limit_mib: int
) -> None:
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", str(640 * MIB))
    write(tmp_path, "sys/fs/cgroup/memory/memory.stat", f"cache 1\nhierarchical_memory_limit {hierarchical}\n")
    assert memory_limit(tmp_path, TOTAL).limit_bytes == limit_mib * MIB


def test_counters_of_every_file_are_read_and_other_lines_left_out(tmp_path: Path) -> None:
    write(tmp_path, "file", "inactive_file 4096\nMemTotal:  12 kB\nName:\tgunicorn\nodd -1\n\nHugePages_Total: 0\n")
    assert read_counters(tmp_path / "file") == {"inactive_file": 4096, "MemTotal": 12288, "HugePages_Total": 0}
    assert read_counters(tmp_path / "absent") == {}


@pytest.mark.parametrize(("text", "number"), [("12\n", 12), ("max", None), ("", None), ("-1", None), ("1 2", None)])
def test_one_number_or_none(tmp_path: Path, text: str, number: int | None) -> None:
    write(tmp_path, "file", text)
    assert read_number(tmp_path / "file") == number


def test_a_cpu_quota_bounds_the_cores(tmp_path: Path) -> None:
    write(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert cpu_limit(tmp_path) == 0.5
    write(tmp_path, "sys/fs/cgroup/cpu.max", "max 100000\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "25000\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_limit(tmp_path) == 0.25


def test_no_quota_leaves_the_cores_of_the_affinity(tmp_path: Path) -> None:
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_limit(tmp_path) >= 1


def test_the_platform_is_recognised(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal:        1900180 kB\nMemFree: 1 kB\n")
    site = {"WEBSITE_SITE_NAME": "pantry", "WEBSITE_INSTANCE_ID": "1"}
    host = read_host(site, root=tmp_path)
    assert (host.platform, host.site_name, host.total_bytes) == ("app-service", "pantry", 1_900_180 * 1024)
    assert read_host({}, root=tmp_path).platform == "plain"
    write(tmp_path, ".dockerenv", "")
    assert read_host({}, root=tmp_path).platform == "container"


def test_an_unreadable_meminfo_falls_back_to_the_c_library(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal: many\n")
    assert read_host({}, root=tmp_path).total_bytes > 0


def test_the_time_to_stop_is_the_platforms(tmp_path: Path) -> None:
    site = {"WEBSITE_SITE_NAME": "pantry", "WEBSITE_INSTANCE_ID": "1"}
    assert 5.0 == read_host(site, root=tmp_path).stop_limit_s
    assert 60.0 == read_host({**site, "WEBSITES_CONTAINER_STOP_TIME_LIMIT": "60"}, root=tmp_path).stop_limit_s
    assert read_host({}, root=tmp_path).stop_limit_s is None
