"""The largest requests of the last minutes, and nothing more."""

from __future__ import annotations

import heapq
import random

from b1.clock import ManualClock
from b1.governor import LargeRequests
from b1.governor.large import KEPT, LEAST_BYTES, WINDOW_S


def sizes(large: LargeRequests) -> list[int]:
    return [one["bytes"] for one in large.recent()]


def test_a_request_is_shown_with_route_size_age_and_id(clock: ManualClock) -> None:
    large = LargeRequests(clock)
    large.note("/v1/uploads/file", 5_000_000, "abc")
    clock.advance(2.5)
    assert [{"route": "/v1/uploads/file", "bytes": 5_000_000, "ago_s": 2.5, "request_id": "abc"}] == large.recent()


def test_small_ones_are_nobodys_suspects(clock: ManualClock) -> None:
    large = LargeRequests(clock)
    large.note("/", LEAST_BYTES - 1, "a")
    large.note("/", LEAST_BYTES, "b")
    assert [LEAST_BYTES] == sizes(large)


def test_the_largest_are_kept_whatever_the_order(clock: ManualClock) -> None:
    large, seen, choose = LargeRequests(clock), [], random.Random(3)
    for _ in range(500):
        size = choose.randrange(LEAST_BYTES, 10**8)
        large.note("/", size, "")
        seen.append(size)
        assert heapq.nlargest(KEPT, seen) == sizes(large)


def test_what_is_older_than_five_minutes_makes_room(clock: ManualClock) -> None:
    large = LargeRequests(clock)
    for number in range(KEPT):
        large.note("/", 10**8 + number, "")
    clock.advance(WINDOW_S + 1)
    large.note("/", LEAST_BYTES, "new")
    assert [LEAST_BYTES] == sizes(large)
