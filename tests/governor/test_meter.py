"""The meter reads every shape of machine: version 2, version 1, nested, unlimited, shared, without anything."""

from pathlib import Path

import pytest

from b1.governor.inject import Injection
from b1.governor.meter import MemoryMeter
from b1.host import MemoryLimit
from b1.units import MIB
from tests.governor.fakes import Machine, mib

NO_LIMIT = "9223372036854771712"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def meter(machine: Machine, *, configured: int = 1750, injection: Path | None = None) -> MemoryMeter:
    return MemoryMeter(
        MemoryLimit(configured * MIB, "configured"),
        root=machine.root,
        injection=Injection(injection) if injection else None,
    )


def read(machine: Machine) -> tuple[float, str, float, str]:
    reading = meter(machine).read(0)
    return mib(reading.used_bytes), reading.used_source, mib(reading.limit_bytes), reading.limit_source


def test_version_two_of_a_container_is_a_working_set_and_a_limit(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/\n")
    machine.group_v2("/", limit=str(640 * MIB), used_mib=200, file_mib=50)
    assert (150, "cgroup v2 working set", 640, "cgroup v2") == read(machine)


def test_version_one_of_a_container_is_a_working_set_and_a_limit(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "4:memory:/docker/abc\n")
    machine.group_v1("/", limit=str(640 * MIB), used_mib=200, file_mib=50)
    assert (150, "cgroup v1 working set", 640, "cgroup v1") == read(machine)


def test_a_container_that_sees_the_hosts_path_is_found_by_its_mount(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "4:memory:/docker/abc/inner\n")
    machine.write(
        "proc/self/mountinfo", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw master:1 - cgroup cgroup rw,memory\n"
    )
    machine.group_v1("/", limit=str(900 * MIB), used_mib=300)
    machine.group_v1("/inner", limit=str(640 * MIB))
    assert (100, "cgroup v1 working set", 640, "cgroup v1") == read(machine)


@pytest.mark.parametrize("unlimited", [NO_LIMIT, "9223372036854775807", "-1", "max", str(1 << 62), "", "many"])
def test_an_unlimited_group_leaves_the_configured_limit(machine: Machine, unlimited: str) -> None:
    machine.write("proc/self/cgroup", "4:memory:/\n")
    machine.group_v1("/", limit=unlimited)
    assert (1750, "configured") == read(machine)[2:]


def test_a_real_b1_is_limited_by_what_the_host_still_has(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "4:memory:/container\n")
    machine.group_v1("/", limit=NO_LIMIT, used_mib=66)
    machine.available(450)
    assert (66, 66 + 450 - 96) == (read(machine)[0], read(machine)[2])


def test_the_least_of_nested_groups_is_named(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/slice/app\n")
    machine.group_v2("/slice", limit=str(512 * MIB), used_mib=150, pids="")
    machine.group_v2("/slice/app", limit=str(800 * MIB), used_mib=150)
    assert (512, "cgroup v2 above ours") == read(machine)[2:]


def test_a_limit_that_only_version_one_can_tell_of_counts(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "4:memory:/docker/abc\n")
    machine.group_v1("/", limit=NO_LIMIT)
    machine.write("sys/fs/cgroup/memory/memory.stat", f"total_inactive_file 0\nhierarchical_memory_limit {300 * MIB}\n")
    assert 300 == read(machine)[2]


def test_where_a_group_stalls_whoever_allocates_is_a_limit_too(machine: Machine) -> None:
    machine.group_v2("/", limit=str(900 * MIB))
    machine.write("sys/fs/cgroup/memory.high", str(700 * MIB))
    assert (700, "cgroup v2") == read(machine)[2:]


def test_a_shared_group_is_not_what_we_hold(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/\n")
    machine.group_v2("/", limit=str(640 * MIB), used_mib=300, pids="1\n7\n42\n900\n")
    # 60 + 18 are ours of 300, so others hold 222 of the 640.
    assert (78, "processes", 640 - 222, "cgroup v2, shared with others") == read(machine)


def test_a_stranger_in_a_group_below_makes_it_shared(machine: Machine) -> None:
    machine.group_v2("/", limit=str(640 * MIB))
    machine.write("sys/fs/cgroup/below/deeper/cgroup.procs", "900\n")
    assert "processes" == read(machine)[1]


def test_a_process_of_another_namespace_makes_it_shared(machine: Machine) -> None:
    machine.group_v2("/", limit=str(640 * MIB), pids="0\n1\n7\n42\n")
    assert "processes" == read(machine)[1]


def test_a_successor_beside_us_is_ours(machine: Machine) -> None:
    machine.process(7, private_mib=18, parent=1, cmdline="gunicorn: master", children=[42, 43])
    machine.process(43, private_mib=40, parent=7)
    machine.group_v2("/", limit=str(640 * MIB), pids="1\n7\n42\n43\n")
    assert "cgroup v2 working set" == read(machine)[1]
    machine.group_v2("/", limit=str(640 * MIB), pids="1\n7\n42\n43\n900\n")
    assert 60 + 18 + 40 == read(machine)[0]


def test_without_groups_the_exact_shares_of_worker_and_master_count(machine: Machine) -> None:
    machine.process(42, private_mib=60, parent=7, pss_mib=63, swap_mib=4)
    machine.process(7, private_mib=18, parent=1, cmdline="gunicorn: master", children=[42], pss_mib=20)
    one = meter(machine)
    reading = one.read(0)
    assert (63 + 4 + 20, 4) == (mib(reading.used_bytes), mib(reading.swapped_bytes))
    machine.process(42, private_mib=90, parent=7, pss_mib=63, swap_mib=4)
    assert 87 + 30 == mib(one.read(0.5).used_bytes)  # cheap in between: what grew privately


def test_a_parent_that_is_no_gunicorn_is_not_ours(machine: Machine) -> None:
    machine.process(7, private_mib=500, parent=1, cmdline="bash", children=[42])
    assert 60 == read(machine)[0]


def test_a_machine_without_any_of_it_still_has_an_answer(tmp_path: Path) -> None:
    reading = MemoryMeter(MemoryLimit(1750 * MIB, "configured"), root=tmp_path).read(0)
    assert (1750, "configured", "processes") == (mib(reading.limit_bytes), reading.limit_source, reading.used_source)
    assert reading.used_bytes > 10 * MIB  # from the C library's view of this very process


@pytest.mark.parametrize("text", ["", "garbage", "-5", "12 13", " \n"])
def test_a_usage_that_cannot_be_read_falls_back_to_processes(machine: Machine, text: str) -> None:
    machine.group_v2("/", limit=str(640 * MIB))
    machine.write("sys/fs/cgroup/memory.current", text)
    assert (78, "processes", 640) == read(machine)[:3]


def test_a_limit_that_changes_is_seen_within_five_seconds(machine: Machine) -> None:
    machine.group_v2("/", limit=str(640 * MIB))
    one = meter(machine)
    assert 640 == mib(one.read(0).limit_bytes)
    machine.group_v2("/", limit=str(400 * MIB))
    assert 640 == mib(one.read(4.9).limit_bytes)
    assert 400 == mib(one.read(5).limit_bytes)
    machine.group_v2("/", limit=str(500 * MIB))
    assert 500 == mib(one.read(5.5, exactly=True).limit_bytes)


def test_a_group_that_vanishes_does_not_stop_the_reading(machine: Machine) -> None:
    machine.group_v2("/", limit=str(640 * MIB))
    one = meter(machine)
    one.read(0)
    (machine.root / "sys/fs/cgroup/memory.current").unlink()
    assert 60 == mib(one.read(0.5).used_bytes)  # this process alone, until it looks around again
    assert 78 == mib(one.read(11).used_bytes)


def test_injected_pressure_replaces_the_measured_one(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "inject-pressure"
    one = meter(machine, injection=file)
    assert not one.read(0).is_injected
    file.write_text("0.87\n")
    reading = one.read(0.5)
    assert (0.87, True, "injected") == (round(reading.ratio, 4), reading.is_injected, reading.used_source)
    assert 78 == mib(one.used_bytes())  # a step's yield is always measured


def test_without_injection_nobody_looks_for_the_file(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "inject-pressure").write_text("0.99")
    assert not meter(machine).read(0).is_injected


@pytest.mark.parametrize("text", ["", "off", "OFF\n", "high", "-0.1", "2.5", "nan", "0.9 0.8"])
def test_what_is_no_ratio_means_the_measured_pressure(tmp_path: Path, text: str) -> None:
    file = tmp_path / "inject"
    file.write_text(text)
    assert Injection(file).ratio() is None
