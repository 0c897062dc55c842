"""What a box may use, and what its report says."""

from __future__ import annotations

import pytest

from b1.box import Limits, choose_limits
from b1.box.report import Report, Sample, Usage
from b1.errors import ConfigurationError
from b1.units import MIB

LIMITS = Limits(64 * MIB, 0, 0.5)


def test_profiles_are_those_of_the_contract() -> None:
    docker = choose_limits("docker", machine_swap_bytes=8192 * MIB)
    service = choose_limits("app-service", machine_swap_bytes=8192 * MIB)
    assert (docker.memory_bytes, docker.swap_bytes, docker.cpus) == (1750 * MIB, 0, 1.0)
    assert (service.memory_bytes, service.swap_bytes, service.cpus) == (640 * MIB, 2048 * MIB, 1.0)


@pytest.mark.parametrize(("has_mib", "gets_mib"), [(0, 0), (512, 512), (4096, 2048)])
def test_a_box_gets_no_more_swap_than_the_machine_has_and_says_so(has_mib: int, gets_mib: int) -> None:
    limits = choose_limits("app-service", machine_swap_bytes=has_mib * MIB)
    assert (limits.swap_bytes, bool(limits.notes)) == (gets_mib * MIB, gets_mib < 2048)


@pytest.mark.parametrize("wanted", [{"memory_bytes": MIB}, {"cpus": 0.0}, {"cpus": float("nan")}])
def test_a_box_in_which_nothing_can_run_is_refused(wanted: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        choose_limits("docker", machine_swap_bytes=0, **wanted)  # type: ignore[arg-type]


def test_a_report_says_what_is_unknown() -> None:
    report = Report(["x"], 137, 1.0, "cgroup v2", LIMITS, Usage(oom_kills=1), Sample(MIB), 2, ["a note"])
    text = report.as_text()
    assert "peak unknown" in text and "out-of-memory kills 1" in text and "b1 box: a note" in text
    assert report.as_json()["memory"]["oomKills"] == 1
    assert report.as_json()["cpu"]["throttledSeconds"] is None
