"""The least candidate is the limit, and it says where it comes from."""

import pytest

from b1.governor.limit import GroupRoom, Holding, effective_limit
from b1.host import MemoryLimit
from b1.units import MIB

CONFIGURED = MemoryLimit(1750 * MIB, "B1_MEMORY_LIMIT")


def limit_of(
    *groups: GroupRoom, used: int = 100, swapped: int = 0, cached: int = 0, available: int | None = 8000
) -> tuple[float, str]:
    found = effective_limit(
        CONFIGURED,
        Holding(used * MIB, swapped * MIB, cached * MIB),
        groups,
        None if available is None else available * MIB,
    )
    return found.limit_bytes / MIB, found.source


def group(limit: int, used: int | None, *, alone: bool = False) -> GroupRoom:
    return GroupRoom("cgroup v2", limit * MIB, used if used is None else used * MIB, is_ours_alone=alone)


def test_with_room_everywhere_the_configured_limit_counts() -> None:
    assert (1750, "B1_MEMORY_LIMIT") == limit_of()


def test_a_group_of_ours_alone_limits_to_its_own_limit() -> None:
    assert (640, "cgroup v2") == limit_of(group(640, 130, alone=True))


def test_a_shared_group_leaves_what_the_others_do_not_hold() -> None:
    assert (440, "cgroup v2") == limit_of(group(640, 300))


def test_a_shared_group_whose_usage_is_unreadable_limits_to_its_limit() -> None:
    assert (640, "cgroup v2") == limit_of(group(640, None))


def test_the_least_of_nested_groups_counts() -> None:
    assert (512, "cgroup v2") == limit_of(group(800, 100, alone=True), group(512, 100))


def test_on_a_real_b1_the_host_is_the_limit() -> None:
    # Unlimited groups, 1.81 GiB of which the platform uses three quarters.
    assert (66 + 450 - 96, "what the host still has, less 96 MiB") == limit_of(used=66, available=450)


def test_a_host_without_room_presses_beyond_the_whole_limit() -> None:
    limit, _ = limit_of(used=66, available=50)
    assert limit < 66


def test_a_limit_is_never_below_one_byte() -> None:
    found = effective_limit(CONFIGURED, Holding(0), (), 0)
    assert 1 == found.limit_bytes


def test_page_cache_is_not_counted_twice() -> None:
    assert 100 - 30 + 450 - 96 == limit_of(available=450, cached=30)[0]


def test_memory_in_swap_is_ours_but_no_groups() -> None:
    assert 640 + 50 == limit_of(group(640, 400, alone=True), used=450, swapped=50)[0]


def test_without_a_number_of_the_host_the_others_count() -> None:
    assert (1750, "B1_MEMORY_LIMIT") == limit_of(available=None)


@pytest.mark.parametrize("used", [10, 100, 600])
def test_a_host_that_does_not_change_gives_a_limit_that_does_not_move_while_we_grow(used: int) -> None:
    assert 450 - 96 == limit_of(used=used, available=450 - used)[0]
