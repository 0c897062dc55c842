"""What earlier versions stored is understood, and so is what a later one may add to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from b1.alerts.alert import transition_from
from b1.alerts.book import Book
from b1.alerts.journal import Journal
from b1.errors import StoreUnavailable
from b1.governor.replacing import Breaker
from b1.idempotency.record import decode, encode
from b1.link import Link, LinkOptions
from b1.slots import SlotRecord, Slots
from b1.store.memory import MemoryStore
from b1.store.passing.frames import START, pack, unpack
from tests.previous import story

versions = pytest.mark.parametrize("version", story.VERSIONS)


def _frozen(version: str, name: str) -> bytes:
    return (story.FOLDER / version / name).read_bytes()


@pytest.fixture
async def link(redis_url: str, tmp_path: Path) -> AsyncIterator[Link]:
    link = Link(LinkOptions(redis_url, deadline_s=10, slots_dir=tmp_path / "slots"))
    story.redis_at(link, 0)  # registers the scripts, which are loaded when it starts
    await link.start()
    yield link
    await link.aclose()


@versions
@pytest.mark.parametrize("more", [None, {"later": "x", "z9": "1"}], ids=["as-it-was", "with-more-fields"])
async def test_values_in_redis_are_understood_and_used(version: str, more: dict[str, str] | None, link: Link) -> None:
    await story.restore(link, json.loads(_frozen(version, "redis.json")), more=more)
    store = story.redis_at(link, 10)
    await story.find(store)
    await story.find_shared(store)
    await story.go_on(store)


async def test_every_kind_of_value_is_frozen(link: Link) -> None:
    store = story.redis_at(link, 0)
    await story.write(store)
    await story.write_shared(store)
    now = await story.dump(link)
    assert {name: list(value) for name, value in now.items()} == {
        name: list(value) for name, value in json.loads(_frozen(story.VERSIONS[-1], "redis.json")).items()
    }


@versions
async def test_a_hand_over_is_understood_and_used(version: str) -> None:
    clock = story.clock_at(0)
    store = MemoryStore(story.MIB, clock)
    assert (await store.absorb(_frozen(version, "hand-over.1.bin"))).damaged == 0
    clock.advance(10)
    await story.find(store)
    absorbed = await store.absorb(_frozen(version, "hand-over.2.bin"))
    assert (absorbed.damaged, absorbed.unknown, absorbed.own, absorbed.no_room) == (0, (), 0, 0)
    assert absorbed.tags == ("t",)
    assert (await store.claim("idempotency:1:late", b"f", lease_ms=1000)).record == b"late"
    assert [(await store.spend([story.HOUR])).allowed for _ in range(2)] == [True, False]


@versions
@pytest.mark.parametrize("name", ["hand-over.1.bin", "hand-over.2.bin"])
async def test_a_hand_over_of_a_later_minor_version_is_understood(version: str, name: str) -> None:
    frames = [frame for frame in unpack(_frozen(version, name)) if frame is not None]
    later = [pack(frame.kind, {"later": [{}], **frame.fields}, bytes(frame.blob)) for frame in frames]
    later.insert(1, pack("new!", {"k": ["a"]}, b"\x00"))
    as_it_was, with_more = MemoryStore(story.MIB, story.clock_at(5)), MemoryStore(story.MIB, story.clock_at(5))
    expected = await as_it_was.absorb(_frozen(version, name))
    absorbed = await with_more.absorb(START + b"".join(later))
    assert (absorbed.taken, absorbed.damaged, absorbed.unknown) == (expected.taken, 0, ("new!",))


@versions
async def test_a_hand_over_that_lacks_sections_gives_the_others(version: str) -> None:
    frames = [frame for frame in unpack(_frozen(version, "hand-over.1.bin")) if frame is not None]
    for missing in range(1, len(frames) - 1):
        some = [pack(f.kind, f.fields, bytes(f.blob)) for at, f in enumerate(frames) if at != missing]
        absorbed = await MemoryStore(story.MIB, story.clock_at(5)).absorb(START + b"".join(some))
        assert (absorbed.refused, absorbed.damaged) == ("", 0)


@versions
@pytest.mark.parametrize("name", story.RECORDS)
def test_a_record_is_replayed_as_it_was(version: str, name: str) -> None:
    assert decode(_frozen(version, f"record.{name}.bin")) == story.RECORDS[name]


@pytest.mark.parametrize("name", story.RECORDS)
def test_a_record_of_another_version_is_refused_and_never_replayed_as_something_else(name: str) -> None:
    data = bytearray(encode(story.RECORDS[name]))
    data[0] += 1
    with pytest.raises(StoreUnavailable):
        decode(bytes(data))


def _with_more(value: Any) -> Any:
    if isinstance(value, dict):
        return {"later": {"a": [1]}, **{name: _with_more(part) for name, part in value.items()}}
    return [_with_more(part) for part in value] if isinstance(value, list) else value


@versions
@pytest.mark.parametrize("change", [lambda found: found, _with_more], ids=["as-it-was", "with-more-fields"])
def test_the_alert_journal_is_understood(version: str, change: Callable[[Any], Any], tmp_path: Path) -> None:
    changed = change(json.loads(_frozen(version, "alerts.json")))
    (tmp_path / "alerts.json").write_text(json.dumps(changed))
    left = Journal(tmp_path).read()
    book = Book(cooldown_s=300)
    book.adopt(left["book"], with_cooldowns=True)
    assert [(alert.name, alert.severity.value) for alert in book.firing] == [("B1MemoryHigh", "warning")]
    assert [transition_from(record).id for record in left["waiting"]] == ["msg_1"]


@versions
def test_replacements_count_against_the_breaker(version: str, tmp_path: Path) -> None:
    (tmp_path / "replacements.json").write_bytes(_frozen(version, "replacements.json"))
    breaker = Breaker(tmp_path / "replacements.json", story.clock_at(10))
    assert len(breaker.recent()) == 1
    assert [breaker.allow() for _ in range(3)] == [True, True, False]


@versions
def test_a_breaker_file_of_a_later_version_stops_no_replacement(version: str, tmp_path: Path) -> None:
    noted = json.loads(_frozen(version, "replacements.json"))
    for later in ({"at": noted}, [*noted, {"at": 1}, None, "x"]):
        (tmp_path / "replacements.json").write_text(json.dumps(later))
        assert Breaker(tmp_path / "replacements.json", story.clock_at(10)).allow()


@versions
@pytest.mark.parametrize("more", [b"", b"later fields"], ids=["as-it-was", "with-more-fields"])
def test_slot_files_say_who_held_them_and_what_is_not_understood_is_doubted(
    version: str, more: bytes, tmp_path: Path
) -> None:
    slots = Slots(tmp_path / "held" / "slots", "pg", 2)
    (tmp_path / "held" / "slots").mkdir(parents=True)
    for number in range(2):
        text = _frozen(version, f"slot.{number}")
        (tmp_path / "held" / "slots" / f"pg.{number}").write_bytes(text.rstrip() + b" " + more if more else text)
    slots.open()
    doubtful = SlotRecord(0, is_clean=False)
    expected = (SlotRecord(4242, is_clean=False), SlotRecord(4243, is_clean=True)) if not more else (doubtful, doubtful)
    assert slots.records() == expected
    slots.close()
