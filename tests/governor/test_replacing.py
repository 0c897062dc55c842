"""A worker that cannot be helped is replaced, and not for ever."""

from pathlib import Path

from b1.clock import ManualClock
from b1.governor import Breaker, Replacement
from b1.governor.replacing import AGAIN_AFTER_S, MOST, WITHIN_S


def asked_by(replacement: Replacement) -> list[tuple[str, bool]]:
    asked: list[tuple[str, bool]] = []

    def ask(reason: str, *, urgent: bool = False) -> None:
        asked.append((reason, urgent))

    replacement.through(ask)
    return asked


def test_the_server_is_asked_once_and_again_when_no_successor_came(tmp_path: Path, clock: ManualClock) -> None:
    breaker = Breaker(tmp_path / "r.json", clock)
    replacement = Replacement(breaker, clock)
    asked = asked_by(replacement)
    assert [True, False, False] == [replacement.ask("memory") for _ in range(3)]
    clock.advance(AGAIN_AFTER_S)
    assert replacement.ask("memory")
    assert [("memory", False)] * 2 == asked
    assert 2 == len(breaker.recent())


def test_an_urgent_wish_overtakes_one_that_is_under_way_and_counts_once(tmp_path: Path, clock: ManualClock) -> None:
    breaker = Breaker(tmp_path / "r.json", clock)
    replacement = Replacement(breaker, clock)
    asked = asked_by(replacement)
    assert [True, True, False] == [replacement.ask("memory", urgent=urgent) for urgent in (False, True, True)]
    assert [("memory", False), ("memory", True)] == asked
    assert 1 == len(breaker.recent())


def test_where_no_server_can_replace_nothing_is_noted(tmp_path: Path, clock: ManualClock) -> None:
    breaker = Breaker(tmp_path / "r.json", clock)
    assert not Replacement(breaker, clock).ask("memory")
    assert [] == breaker.recent()


def test_workers_of_one_host_share_the_count_and_the_storm_ends(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "state" / "r.json"
    asked = []
    for _ in range(MOST + 2):
        replacement = Replacement(Breaker(path, clock), clock)
        asked_by(replacement)
        asked.append(replacement.ask("memory"))
        clock.advance(10)
    assert [True] * MOST + [False] * 2 == asked
    clock.advance(WITHIN_S)
    later = Replacement(Breaker(path, clock), clock)
    asked_by(later)
    assert later.ask("memory")


def test_a_file_of_garbage_counts_as_none(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "r.json"
    for text in ("", "5", "null", "{", "[null, true, 9e99]", '{"a": 1}', "\0"):
        path.write_text(text)
        assert [] == [at for at in Breaker(path, clock).recent() if at is not True]


def test_a_folder_that_cannot_be_written_does_not_keep_a_full_worker(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("")
    replacement = Replacement(Breaker(tmp_path / "file" / "r.json", clock), clock)
    asked = asked_by(replacement)
    assert replacement.ask("memory")
    assert [("memory", False)] == asked
