"""The mirror of the version table: in order, out of order, and what it says meanwhile. The pushes are made here."""

from __future__ import annotations

import asyncio
import random

import pytest

from b1.clock import ManualClock
from b1.store.mirror import Mirror
from b1.store.versions import compare
from tests.store.table import Table

TAGS = ("a", "b")


class Server:
    """A table, and a link to it that may be down."""

    def __init__(self, clock: ManualClock, *, has_pushes: bool = True) -> None:
        self.table = Table()
        self.is_up = True
        self.mirror = Mirror(clock, lambda: self.is_up, away_limit_s=30)
        self.mirror.connected(None, has_pushes=has_pushes)
        self.mirror.load(self.table.dump())

    def reconnect(self) -> bool:
        self.is_up = True
        self.mirror.connected(None, has_pushes=True)
        return self.mirror.load(self.table.dump())

    def lose_connection(self) -> None:
        self.is_up = False
        self.mirror.disconnected()

    def agrees(self) -> bool:
        return self.mirror.is_exact and self.mirror.vector(TAGS) == self.table.vector(TAGS)


@pytest.fixture
def server(clock: ManualClock) -> Server:
    return Server(clock)


@pytest.mark.parametrize(("hard", "soft"), [(["a"], []), ([], ["a"]), (["a", "b"], ["c"]), (None, [])])
def test_what_is_pushed_moves_the_vector(server: Server, hard: list[str] | None, soft: list[str]) -> None:
    before, changes = server.mirror.vector(TAGS), server.mirror.changes
    server.mirror.hear(server.table.invalidate(hard, soft))
    assert server.agrees()
    assert compare(before, server.mirror.vector(TAGS)) == ("soft" if hard == [] else "hard")
    assert server.mirror.changes > changes


def test_while_nothing_changes_the_vector_is_the_same(server: Server) -> None:
    changes, vector = server.mirror.changes, server.mirror.vector(TAGS)
    server.mirror.learn(TAGS, server.table.vector(TAGS))
    assert (server.mirror.changes, server.mirror.vector(TAGS)) == (changes, vector)


def test_a_gap_ends_exactness_until_the_table_was_read(server: Server) -> None:
    server.table.invalidate(["a"])
    server.mirror.hear(server.table.invalidate(["b"]))
    assert not server.mirror.is_exact
    assert server.mirror.is_lost.is_set()
    server.mirror.load(server.table.dump())
    assert server.agrees()


def test_reading_the_table_again_leaves_what_did_not_move(server: Server) -> None:
    kept, gone = server.mirror.vector(("c",)), server.mirror.vector(("a",))
    server.lose_connection()
    server.table.invalidate(["a"])
    assert server.reconnect()
    assert server.mirror.vector(("c",)) == kept
    assert compare(gone, server.mirror.vector(("a",))) == "hard"


def test_a_server_that_lost_its_data_makes_everything_stale_with_its_first_word(server: Server) -> None:
    before = server.mirror.vector(("c",))
    server.table = Table()
    server.mirror.hear(server.table.invalidate(["a"]))
    assert compare(before, server.mirror.vector(("c",))) == "hard"
    assert not server.mirror.is_exact
    server.mirror.load(server.table.dump())
    assert server.agrees()


@pytest.mark.parametrize("what", ["number", "version"])
def test_a_server_that_came_back_with_an_older_table_is_told_to_begin_anew(server: Server, what: str) -> None:
    older = server.table.dump()
    for _ in range(2):
        server.mirror.hear(server.table.invalidate(["a"]))
    server.lose_connection()
    if what == "version":  # others have changed so much there that its number is no smaller
        older = older[:15] + b"\x09" + older[16:]
    server.mirror.connected(None, has_pushes=True)
    assert not server.mirror.load(older)
    assert not server.mirror.is_exact


def test_what_was_pushed_after_the_table_was_sent_is_not_lost(server: Server) -> None:
    loop = asyncio.new_event_loop()
    reply: asyncio.Future[bytes] = loop.create_future()
    server.mirror.wait_for(reply)
    server.mirror.hear(server.table.invalidate(["a"]))  # before the reply: the table has it
    table = server.table.dump()
    reply.set_result(table)
    server.mirror.hear(server.table.invalidate(["b"]))  # after it, and before anybody could look at it
    server.mirror.load(table)
    loop.close()
    assert server.agrees()


def test_what_is_pushed_while_the_table_is_read_once_more_counts_at_once(server: Server) -> None:
    loop = asyncio.new_event_loop()
    server.mirror.wait_for(loop.create_future())
    server.mirror.hear(server.table.invalidate(["a"]))
    loop.close()
    assert server.agrees()


@pytest.mark.parametrize("head", [b"", b"x" * 16])
def test_a_head_that_is_another_one_ends_exactness(server: Server, head: bytes) -> None:
    server.mirror.check(server.table.dump()[:16])
    assert server.agrees()
    server.mirror.check(head)
    assert not server.mirror.is_exact


def test_own_invalidations_are_marked_until_the_server_has_counted_them(server: Server) -> None:
    before = server.mirror.vector(TAGS)
    mark = server.mirror.mark(["a"])
    marked = server.mirror.vector(TAGS)
    assert compare(before, marked) == "hard"
    server.mirror.hear_own(server.table.invalidate(["a"]))
    server.mirror.settle(mark)
    assert server.agrees()
    assert compare(marked, server.mirror.vector(TAGS)) == "hard"


def test_a_mark_survives_a_resync_that_does_not_know_of_it(server: Server) -> None:
    before = server.mirror.vector(TAGS)
    server.lose_connection()
    mark = server.mirror.mark(["a"], ["b"])
    server.reconnect()
    assert compare(before, server.mirror.vector(TAGS)) == "hard"
    server.mirror.hear_own(server.table.invalidate(["a"], ["b"]))
    server.mirror.settle(mark)
    assert compare(before, server.mirror.vector(TAGS)) == "hard"


def test_what_was_built_on_a_mark_is_stale_when_it_goes_even_if_others_counted_as_far(server: Server) -> None:
    server.lose_connection()
    mark = server.mirror.mark(["a"])
    built = server.mirror.vector(TAGS)
    server.table.invalidate(["a"])  # somebody else's
    server.reconnect()
    server.mirror.hear_own(server.table.invalidate(["a"]))
    server.mirror.settle(mark)
    assert compare(built, server.mirror.vector(TAGS)) == "hard"


def test_an_older_mark_goes_with_a_newer_one_and_not_the_other_way(server: Server) -> None:
    first, second = server.mirror.mark(["a"]), server.mirror.mark(["a"])
    server.mirror.settle(first)
    assert server.mirror.has_marks
    server.mirror.settle(second)
    assert not server.mirror.has_marks


@pytest.mark.parametrize("count", [1, 4096, 4097, 9000])
def test_any_number_of_tags_is_marked_and_settled(server: Server, count: int) -> None:
    tags = [f"t{number}" for number in range(count)]
    before = server.mirror.vector(tags[:1])
    mark = server.mirror.mark(tags)
    assert compare(before, server.mirror.vector(tags[:1])) == "hard"
    assert server.mirror.snapshot().marks <= 4097
    server.mirror.settle(mark)
    assert server.mirror.vector(tags[:1]) == before


def test_a_trip_that_knows_more_is_believed_and_the_table_read_again(server: Server) -> None:
    server.table.invalidate(["a"])
    server.mirror.learn(TAGS, server.table.vector(TAGS))
    assert not server.mirror.is_exact
    assert server.mirror.vector(TAGS) == server.table.vector(TAGS)


def test_a_trip_that_is_older_than_the_pushes_changes_nothing(server: Server) -> None:
    older = server.table.vector(TAGS)
    server.mirror.hear(server.table.invalidate(["a"]))
    server.mirror.learn(TAGS, older)
    assert server.agrees()


def test_a_connection_on_which_pushes_come_late_is_not_trusted_any_more(server: Server) -> None:
    for _ in range(3):
        late = server.table.invalidate(["a"])
        server.mirror.learn(TAGS, server.table.vector(TAGS))
        server.mirror.wait_for(None)
        server.mirror.load(server.table.dump())
        server.mirror.hear(late)
    assert not server.mirror.is_exact
    assert not server.mirror.is_lost.is_set()
    server.lose_connection()
    server.reconnect()
    assert server.agrees()


def test_without_pushes_trips_teach_and_nothing_is_exact(clock: ManualClock) -> None:
    server = Server(clock, has_pushes=False)
    server.table.invalidate(["a"])
    server.mirror.learn(TAGS, server.table.vector(TAGS))
    assert (server.mirror.is_exact, server.mirror.vector(TAGS)) == (False, server.table.vector(TAGS))
    server.table = Table()
    server.mirror.learn(TAGS, server.table.vector(TAGS))
    assert server.mirror.vector(TAGS) == server.table.vector(TAGS)


def test_what_is_here_while_the_server_is_away_is_fresh_for_thirty_seconds(server: Server, clock: ManualClock) -> None:
    before = server.mirror.vector(TAGS)
    server.lose_connection()
    clock.advance(29)
    server.mirror.pass_time()
    assert server.mirror.vector(TAGS) == before
    clock.advance(2)
    server.mirror.pass_time()
    built_away = server.mirror.vector(TAGS)
    assert compare(before, built_away) == "soft"
    clock.advance(30)
    server.mirror.pass_time()
    assert compare(built_away, server.mirror.vector(TAGS)) == "soft"
    server.reconnect()
    assert server.mirror.vector(TAGS) == before
    assert compare(built_away, before) == "soft"


def test_a_trip_that_was_answered_before_everything_was_invalidated_is_no_sign_of_disorder(server: Server) -> None:
    older, own = server.table.vector(TAGS), server.table.invalidate(["a"])
    server.mirror.hear(own)
    server.mirror.hear(server.table.invalidate(None))
    server.mirror.learn(TAGS, older)
    server.mirror.hear_own(own)
    assert server.agrees()


def test_a_silence_on_a_connection_that_lives_leaves_nothing_behind(server: Server, clock: ManualClock) -> None:
    before = server.mirror.vector(TAGS)
    server.is_up = False
    assert not server.mirror.is_exact
    clock.advance(31)
    assert not server.mirror.is_exact
    assert compare(before, server.mirror.vector(TAGS)) == "soft"
    server.is_up = True
    assert (server.mirror.is_exact, server.mirror.vector(TAGS)) == (True, before)


def test_a_server_that_does_not_count_makes_nothing_exact(server: Server, clock: ManualClock) -> None:
    before = server.mirror.vector(TAGS)
    server.mirror.is_away = True
    assert not server.mirror.is_exact
    clock.advance(31)
    server.mirror.pass_time()
    assert compare(before, server.mirror.vector(TAGS)) == "soft"
    server.mirror.note_return()
    assert (server.mirror.is_exact, server.mirror.vector(TAGS)) == (True, before)


def test_a_table_of_an_earlier_epoch_that_comes_back_is_followed(server: Server) -> None:
    first = server.table
    server.table = Table()
    server.mirror.connected(None, has_pushes=True)
    server.mirror.load(server.table.dump())
    late = first.invalidate(["a"])
    server.mirror.hear(late)
    assert server.agrees()
    server.table = first
    server.mirror.connected(None, has_pushes=True)
    server.mirror.load(first.dump())
    server.mirror.hear(first.invalidate(["b"]))
    assert server.agrees()


@pytest.mark.parametrize("message", [b"", b"x" * 23, b"x" * 25, b"x" * 33])
def test_a_push_that_nobody_understands_is_a_reason_to_read_the_table(server: Server, message: bytes) -> None:
    server.mirror.hear(message)
    assert not server.mirror.is_exact
    server.mirror.load(server.table.dump())
    assert server.agrees()


def test_something_else_is_no_table(server: Server) -> None:
    with pytest.raises(ValueError, match="the version table has 5 bytes"):
        server.mirror.load(b"short")


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_of_events_nothing_that_moved_looks_current(seed: int, clock: ManualClock) -> None:
    """Whatever is invalidated, lost, read again or restarted: exact means equal, and own invalidations always count."""
    chance, server = random.Random(seed), Server(clock)
    names = [f"t{number}" for number in range(6)]
    for _ in range(300):
        hard = None if chance.random() < 0.03 else chance.sample(names, chance.randint(0, 2))
        soft = chance.sample(names, chance.randint(0, 2))
        event = chance.random()
        before = server.mirror.vector(names)
        if event < 0.5:
            change = server.table.invalidate(hard, soft)
            if server.is_up and chance.random() < 0.9:
                server.mirror.hear(change)
            elif server.is_up:
                server.mirror.learn(names, server.table.vector(names))
        elif event < 0.7:
            mark = server.mirror.mark(hard, soft)
            assert before == server.mirror.vector(names) or hard is None or hard or soft
            if server.is_up:
                server.mirror.hear_own(server.table.invalidate(hard, soft))
                server.mirror.settle(mark)
            for name in names if hard is None else hard:
                own = server.mirror.vector((name,))
                assert compare(before[:8] + before[8 + 4 * (i := names.index(name)) : 12 + 4 * i], own) == "hard"
        elif event < 0.8:
            server.lose_connection()
            if chance.random() < 0.3:
                server.table = Table()
        elif not server.mirror.is_exact:
            server.reconnect()
        if server.mirror.is_exact and not server.mirror.has_marks:
            assert server.mirror.vector(names) == server.table.vector(names)
