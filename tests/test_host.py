"""The box is read from files, of every shape that kernels and containers give them."""

from pathlib import Path

import pytest

from b1.host import cpu_limit, memory_limit, read_host

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
