"""Memory that is appended to, consumed from its head, and back with the system; and the small parts of the map."""

from __future__ import annotations

import itertools
import random
import sys
from mmap import PAGESIZE

import pytest

from b1.cache.l1.ghost import Ghost
from b1.cache.l1.index import MERGED_AT, MERGED_EVERY, MOST_ENTRIES, PAGE_BYTES, PLACES, SPLIT_AT, SPREAD_BITS, Index
from b1.cache.l1.items import packed, unpacked
from b1.cache.l1.layout import (
    ALIGNED_BITS,
    ALIGNED_BYTES,
    DIGEST_MASK,
    HEADER,
    HEADER_BYTES,
    HIT,
    MOST_SEGMENTS,
    PLACE_BITS,
    STALE,
    STALE_AT,
    Header,
    digest_of,
    item_bytes,
    key_of,
    name_of,
)
from b1.cache.l1.segments import MOST_SEGMENT_BYTES, RELEASED_BYTES, Queue, Segment, segment_bytes
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
    assert PAGESIZE == segment.append((b"x" * 10,))
    assert 0 == segment.append((b"x" * 10,))
    assert 2 * PAGESIZE == segment.append((b"x" * 2 * PAGESIZE,))
    assert 3 * PAGESIZE == segment.resident_bytes
    segment.close()


def test_what_was_consumed_is_given_back_while_the_rest_can_be_read() -> None:
    segment = Segment(1, MIB, Queue())
    count = 4 * RELEASED_BYTES // 1024
    for number in range(count):
        segment.append((bytes([number % 256]) * 1024,))
    touched = segment.resident_bytes
    returned = sum(segment.consume(1024) for _ in range(count // 2))
    assert (touched // 2, touched - touched // 2) == (returned, segment.resident_bytes)
    assert (count, count // 2 * 1024) == (segment.count, segment.head)
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


def test_a_hit_reads_the_beginning_of_the_header() -> None:
    header = Header(1, 2, 3, 4, 5, 6.0, 7, 8, 9, 10, 11.0, 12)
    data = HEADER.pack(*header)
    assert 48 == HEADER_BYTES
    assert (1, 2, 4, 5, 6.0, 7) == HIT.unpack_from(data, 0)
    assert (11.0,) == STALE.unpack_from(data, STALE_AT)


def test_every_place_fits_into_32_bits() -> None:
    assert MOST_SEGMENT_BYTES == 2 ** (PLACE_BITS + ALIGNED_BITS)
    assert MOST_SEGMENTS << PLACE_BITS < 2**32
    assert 2**ALIGNED_BITS == ALIGNED_BYTES


@pytest.mark.parametrize("content", range(20))
def test_items_begin_where_a_place_can_name_them(content: int) -> None:
    segment = Segment(1, PAGESIZE, Queue())
    segment.append((bytes(HEADER_BYTES), b"x" * content))
    assert (0, item_bytes(content)) == (segment.end % ALIGNED_BYTES, segment.end)
    segment.close()


@pytest.mark.parametrize("key", ["", "plain", "ä\0x", "\udcff lone", "\ud83d\ude00", "\U0001f600", "x" * 70_000])
def test_keys_come_back_as_they_were(key: str) -> None:
    assert key == key_of(name_of(key))


def test_a_digest_is_never_what_a_free_place_says() -> None:
    class Zero(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 1 << 40

    assert 1 == digest_of(Zero("k"))
    assert all(0 < digest_of(f"k{number}") <= DIGEST_MASK for number in range(1000))


class Names:
    """The keys that an index would find in the segments."""

    def __init__(self) -> None:
        self.of: dict[int, bytes] = {}

    def put(self, index: Index, digest: int, place: int) -> None:
        self.of[place] = b"%d" % digest
        index.reserve(digest)
        index.put(digest, place)

    def get(self, index: Index, digest: int) -> int | None:
        return index.get(digest, b"%d" % digest)


class TestIndex:
    @pytest.fixture
    def names(self) -> Names:
        return Names()

    # Digests by chance; those that crowd one part of a page; and those that all belong to one page, however it is split.
    @pytest.mark.parametrize(
        ("digests", "most"),
        [
            (range(1, DIGEST_MASK, 104_729), 3000),
            (range(PLACES - 3, DIGEST_MASK, PLACES * 4099), 300),
            (range(1, 2**SPREAD_BITS), 400),
        ],
    )
    def test_it_is_a_dictionary(self, names: Names, digests: range, most: int) -> None:
        index, plain = Index(64 * MIB, names.of.__getitem__), dict[int, int]()
        choose = random.Random(1)
        some = [digests[number] for number in choose.sample(range(len(digests)), most)]
        for step in range(1, 20_000):
            digest = choose.choice(some)
            if digest not in plain:
                names.put(index, digest, step)
                plain[digest] = step
            elif choose.random() < 0.5:
                index.move(digest, plain[digest], step)
                names.of[step] = names.of[plain[digest]]
                plain[digest] = step
            else:
                index.remove(digest, plain.pop(digest))
            assert len(plain) == len(index)
        assert {digest: plain.get(digest) for digest in some} == {digest: names.get(index, digest) for digest in some}
        assert sorted(plain.values()) == sorted(place for places in index.places(7) for place in places)

    def test_growing_and_shrinking_are_one_page_at_a_time(self, names: Names) -> None:
        index = Index(64 * MIB, names.of.__getitem__)
        digests = random.Random(2).sample(range(1, DIGEST_MASK), 50_000)
        sizes = [index.table_bytes]
        for place, digest in enumerate(digests):
            names.put(index, digest, place)
            sizes.append(index.table_bytes)
        assert 4096 * len(digests) // SPLIT_AT < index.table_bytes < 4 * 4096 * len(digests) // SPLIT_AT
        for place, digest in enumerate(digests):
            index.remove(digest, place)
            sizes.append(index.table_bytes)
        assert max(abs(after - before) for before, after in itertools.pairwise(sizes)) <= 2 * PAGE_BYTES
        assert (0, 0) == (sizes[0], sizes[-1])

    def test_what_is_left_of_it_lies_close_together(self, names: Names) -> None:
        index = Index(64 * MIB, names.of.__getitem__)
        digests = random.Random(3).sample(range(1, DIGEST_MASK), 40_000)
        for place, digest in enumerate(digests):
            names.put(index, digest, place)
        for place in range(30_000):
            index.remove(digests[place], place)
        assert index.table_bytes <= 2 * PAGE_BYTES * 10_000 // (MERGED_AT - MERGED_EVERY) + PAGE_BYTES
        assert all(place == names.get(index, digests[place]) for place in range(30_000, 40_000))

    def test_keys_of_one_digest_are_told_apart_and_bounded(self, names: Names) -> None:
        index = Index(64 * MIB, names.of.__getitem__)
        for place in range(MOST_ENTRIES):
            names.of[place] = b"key %d" % place
            index.reserve(77)
            index.put(77, place)
        with pytest.raises(OSError, match="space"):
            index.reserve(77)
        assert list(range(MOST_ENTRIES)) == [index.get(77, b"key %d" % place) for place in range(MOST_ENTRIES)]
        assert index.get(77, b"another") is None
        index.reserve(78 + 2**SPREAD_BITS)
        for place in range(MOST_ENTRIES):
            index.remove(77, place)
            assert index.get(77, b"key %d" % place) is None
        assert 0 == index.table_bytes

    def test_without_memory_to_map_it_stays_as_it_was(self, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_memory(*_: object, **__: object) -> None:
            raise OSError(12, "Cannot allocate memory")

        index = Index(64 * MIB, names.of.__getitem__)
        digests = random.Random(4).sample(range(1, DIGEST_MASK), SPLIT_AT)
        for place, digest in enumerate(digests):
            names.put(index, digest, place)
        monkeypatch.setattr("b1.cache.l1.index.mmap", no_memory)
        with pytest.raises(OSError, match="memory"):
            index.reserve(digests[0])
        assert list(range(SPLIT_AT)) == [names.get(index, digest) for digest in digests]

    def test_a_large_budget_has_a_longer_directory(self) -> None:
        lengths = [len(Index(limit, Names().of.__getitem__).rows) for limit in (1, MIB, 64 * MIB, 2**50)]
        assert [1, 64, 4096, 2**21] == lengths


class TestGhost:
    def test_who_was_added_lately_is_remembered(self) -> None:
        ghost = Ghost(8192)
        for number in range(1000):
            ghost.add(digest_of(f"k{number}"))
        remembered = sum(ghost.has(digest_of(f"k{number}"), 1000) for number in range(1000))
        assert remembered > 850  # some share a slot, whatever the seed of the hashes is

    def test_who_was_added_too_long_ago_is_not(self) -> None:
        ghost = Ghost(8192)
        ghost.add(digest_of("first"))
        for number in range(1000):
            ghost.add(digest_of(f"k{number}"))
        assert not ghost.has(digest_of("first"), 500)

    def test_hardly_anybody_else_is_taken_for_one(self) -> None:
        ghost = Ghost(8192)
        for number in range(8192):
            ghost.add(digest_of(f"k{number}"))
        assert sum(ghost.has(digest_of(f"other{number}"), 8192) for number in range(10_000)) < 10

    def test_it_never_grows(self) -> None:
        ghost = Ghost(100)
        for number in range(10_000):
            ghost.add(digest_of(f"k{number}"))
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
