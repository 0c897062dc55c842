"""Memory that is appended to, consumed from its head, and back with the system; and the small parts of the map."""

from __future__ import annotations

import random
import sys
from mmap import PAGESIZE

import pytest

from b1.cache.l1.ghost import Ghost
from b1.cache.l1.index import Index
from b1.cache.l1.items import packed, unpacked
from b1.cache.l1.segments import HEADER_BYTES, RELEASED_BYTES, Queue, Segment, segment_bytes
from b1.cache.l1.sizes import object_bytes
from b1.cache.l1.tenants import Tenants
from b1.units import KIB, MIB


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(100_000, PAGESIZE), (4 * MIB, 64 * KIB), (64 * MIB, MIB), (512 * MIB, MIB)],
)
def test_a_segment_is_a_64th_of_the_budget_and_at_most_1_mib(limit: int, expected: int) -> None:
    assert expected == segment_bytes(limit)


def test_only_pages_that_were_written_to_are_counted() -> None:
    segment = Segment(1, MIB, Queue())
    assert 0 == segment.resident_bytes
    assert PAGESIZE == segment.append("a", (b"x" * 10,))
    assert 0 == segment.append("b", (b"x" * 10,))
    assert 2 * PAGESIZE == segment.append("c", (b"x" * 2 * PAGESIZE,))
    assert 3 * PAGESIZE == segment.resident_bytes
    segment.close()


def test_what_was_consumed_is_given_back_while_the_rest_can_be_read() -> None:
    segment = Segment(1, MIB, Queue())
    count = 4 * RELEASED_BYTES // 1024
    for number in range(count):
        segment.append(str(number), (bytes([number % 256]) * 1024,))
    touched = segment.resident_bytes
    returned = sum(segment.consume(1024) for _ in range(count // 2))
    assert (touched // 2, touched - touched // 2) == (returned, segment.resident_bytes)
    assert (str(count // 2), count // 2 * 1024) == segment.first()
    assert bytes([count // 2 % 256]) * 1024 == segment.data[count // 2 * 1024 : (count // 2 + 1) * 1024]
    if sys.platform == "linux":  # elsewhere the pages are only marked
        assert bytes(1024) == segment.data[:1024]
    segment.close()


def test_a_head_that_is_being_consumed_is_not_appended_to() -> None:
    queue = Queue()
    segment = Segment(1, PAGESIZE, queue)
    queue.begin(segment)
    assert segment is queue.head()
    assert queue.open is None
    queue.end(segment)
    segment.close()


def test_a_segment_can_be_left_from_the_middle() -> None:
    queue = Queue()
    segments = [Segment(number, PAGESIZE, queue) for number in range(3)]
    for segment in segments:
        queue.begin(segment)
    queue.end(segments[1])
    assert ([0, 2], 2) == ([one.number for one in queue.segments], queue.open.number if queue.open else None)
    for segment in segments:
        segment.close()


@pytest.mark.parametrize("tags", [(), ("a",), ("org:1", "ä:\0x", "\udcff lone"), ("a", ""), ("", "")])
def test_tags_come_back_as_they_were(tags: tuple[str, ...]) -> None:
    assert tags == unpacked(packed(tags))


def test_the_header_has_a_fixed_size() -> None:
    # `CHECKED_AT` depends on it.
    assert 40 == HEADER_BYTES


class TestIndex:
    def test_it_is_a_dictionary(self) -> None:
        index, plain = Index(MIB), {}
        choose = random.Random(1)
        for step in range(20_000):
            key = f"k{choose.randrange(2000)}"
            if choose.random() < 0.6:
                index.put(key, step)
                plain[key] = step
            else:
                assert plain.pop(key, None) == index.pop(key)
        assert len(plain) == len(index)
        assert plain == {key: index.get(key) for key in plain}

    def test_its_tables_shrink_one_after_the_other_and_nothing_is_lost(self) -> None:
        index = Index(MIB)
        for number in range(50_000):
            index.put(f"k{number}", number)
        full = index.table_bytes
        for number in range(1000, 50_000):
            index.pop(f"k{number}")
        assert full == index.table_bytes
        index.tidy(1)
        assert index.table_bytes > full // 2
        index.tidy(len(index.shards))
        assert index.table_bytes < full // 8
        assert list(range(1000)) == [index.get(f"k{number}") for number in range(1000)]

    def test_a_large_budget_has_more_tables(self) -> None:
        assert [16, 64, 1024] == [len(Index(limit).shards) for limit in (MIB, 64 * MIB, 4096 * MIB)]


class TestGhost:
    def test_who_was_added_lately_is_remembered(self) -> None:
        ghost = Ghost(8192)
        for number in range(1000):
            ghost.add(f"k{number}")
        remembered = sum(ghost.has(f"k{number}", 1000) for number in range(1000))
        assert remembered > 850  # some share a slot, whatever the seed of the hashes is

    def test_who_was_added_too_long_ago_is_not(self) -> None:
        ghost = Ghost(8192)
        ghost.add("first")
        for number in range(1000):
            ghost.add(f"k{number}")
        assert not ghost.has("first", 500)

    def test_hardly_anybody_else_is_taken_for_one(self) -> None:
        ghost = Ghost(8192)
        for number in range(8192):
            ghost.add(f"k{number}")
        assert sum(ghost.has(f"other{number}", 8192) for number in range(10_000)) < 10

    def test_it_never_grows(self) -> None:
        ghost = Ghost(100)
        for number in range(10_000):
            ghost.add(f"k{number}")
        assert 128 * 4 == ghost.held_bytes


class TestTenants:
    def test_a_share_counts_only_while_others_hold_something(self) -> None:
        tenants = Tenants(0.25)
        a = tenants.add("a", 500)
        assert not tenants.is_over(a, 1000)
        b = tenants.add("b", 1)
        assert (True, False) == (tenants.is_over(a, 1000), tenants.is_over(b, 1000))

    def test_who_holds_nothing_is_forgotten(self) -> None:
        tenants = Tenants(0.25)
        for number in range(1000):
            tenants.remove(tenants.add(f"t{number}", 10), 10)
        assert 0 == len(tenants)

    def test_nobody_is_never_over(self) -> None:
        tenants = Tenants(0.25)
        tenants.add("a", 1)
        tenants.add("b", 1)
        assert 0 == tenants.add("", 10_000)
        assert not tenants.is_over(0, 1000)

    @pytest.mark.parametrize("share", [0, -0.5, 1.5])
    def test_a_share_is_a_part(self, share: float) -> None:
        with pytest.raises(ValueError, match="share"):
            Tenants(share)


def test_the_size_of_an_object_has_its_parts_in_it_once() -> None:
    part = "x" * 1000
    assert object_bytes([part]) + 16 >= object_bytes([part, part]) > 1000
    assert object_bytes({"a": ("b" * 500, [b"c" * 500])}) > 1000


def test_slots_and_attributes_are_parts() -> None:
    class Slotted:
        __slots__ = ("one",)

    class Plain:
        pass

    slotted, plain = Slotted(), Plain()
    slotted.one = plain.one = "x" * 1000  # type: ignore[attr-defined]
    assert object_bytes(slotted) > 1000
    assert object_bytes(plain) > 1000


def test_an_object_that_says_what_it_holds_is_believed() -> None:
    class Says:
        def held_bytes(self) -> int:
            return 77

    assert 77 == object_bytes(Says())


def test_a_very_large_object_is_estimated_from_a_part_of_it() -> None:
    assert 100_000 * 40 < object_bytes([str(number) for number in range(100_000)]) < 100_000 * 4000
