"""A worker that cannot be helped is ended once, and not for ever."""

from pathlib import Path

from b1.clock import ManualClock
from b1.governor import Breaker, Replacement
from b1.governor.replacing import MOST, WITHIN_S


def ended_by(replacement: Replacement) -> list[str]:
    ended: list[str] = []
    replacement.through(lambda: ended.append("worker"))
    return ended


def test_the_worker_is_ended_once(tmp_path: Path, clock: ManualClock) -> None:
    replacement = Replacement(Breaker(tmp_path / "r.json", clock))
    ended = ended_by(replacement)
    assert [True, False, False] == [replacement.ask("memory") for _ in range(3)]
    assert ["worker"] == ended


def test_where_no_server_can_replace_nothing_is_noted(tmp_path: Path, clock: ManualClock) -> None:
    breaker = Breaker(tmp_path / "r.json", clock)
    assert not Replacement(breaker).ask("memory")
    assert [] == breaker.recent()


def test_workers_of_one_host_share_the_count_and_the_storm_ends(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "state" / "r.json"
    asked = []
    for _ in range(MOST + 2):
        replacement = Replacement(Breaker(path, clock))
        ended_by(replacement)
        asked.append(replacement.ask("memory"))
        clock.advance(10)
    assert [True] * MOST + [False] * 2 == asked
    clock.advance(WITHIN_S)
    later = Replacement(Breaker(path, clock))
    ended_by(later)
    assert later.ask("memory")


def test_a_file_of_garbage_counts_as_none(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "r.json"
    for text in ("", "5", "null", "{", "[null, true, 9e99]", '{"a": 1}', "\0"):
        path.write_text(text)
        assert [] == [at for at in Breaker(path, clock).recent() if at is not True]


def test_a_folder_that_cannot_be_written_does_not_keep_a_full_worker(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("")
    replacement = Replacement(Breaker(tmp_path / "file" / "r.json", clock))
    ended = ended_by(replacement)
    assert replacement.ask("memory")
    assert ["worker"] == ended
