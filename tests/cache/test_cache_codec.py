"""Envelopes and dictionaries: what comes back is the value, or a miss with a cause, whatever lies in the store.

Ported in idea from HybridCache's PayloadTests (Gibberish, RoundTrip_Truncated, RoundTrip_Oversized, MalformedKeyDetected)
and FusionCache's CanDeserializeOldSnapshots.
"""

import asyncio
import random

import orjson
import pytest

from b1.cache.packing.codec import (
    COLD,
    EXTENDABLE,
    PACKED,
    RAW,
    Broken,
    Head,
    Packed,
    UnknownDictionary,
    open_sealed,
    pack,
    seal,
    unpack,
)
from b1.cache.packing.dictionaries import SAMPLES, Dictionaries, id_of
from b1.cache.packing.zstandard import Dictionary, Unreadable, Zstd, _zstd, train
from b1.clock import ManualClock

NAME, TAGS = "org\x1euser:1", ("a", "b")
HEAD = Head(RAW | COLD | EXTENDABLE, 1_750_000_000_000, 3_600_000, 3_900_000, 12, 0, 5)
MIB = 1024 * 1024


def sealed(payload: bytes = b"hello", head: Head = HEAD) -> bytes:
    return seal(NAME, TAGS, head, payload)


def cause(envelope: bytes, name: str = NAME) -> str:
    with pytest.raises(Broken) as caught:
        open_sealed(name, TAGS, envelope)
    return caught.value.cause


def test_an_envelope_gives_back_what_was_put_in() -> None:
    assert open_sealed(NAME, TAGS, sealed()) == (HEAD, b"hello", True)


def test_an_envelope_of_the_first_release_opens() -> None:
    """These bytes are never made anew: while version 1 is read, this is what it looks like."""
    first = bytes.fromhex(
        "6231" "01" "05" "000001977420dc00" "000927c0" "000a1220" "00000007" "00000000" "00000005"
        "3610a686" "d47b7adda40c1a12" "ae97166e" "68656c6c6f"
    )  # fmt: skip
    head = Head(RAW | COLD, 1_750_000_000_000, 600_000, 660_000, 7, 0, 5)
    assert open_sealed("user:1", ("k",), first) == (head, b"hello", True)


def test_other_tags_are_noticed() -> None:
    assert open_sealed(NAME, ("a",), sealed())[2] is False


def test_another_keys_envelope_is_none() -> None:
    assert cause(sealed(), "user:2") == "other_key"


@pytest.mark.parametrize("envelope", [b"", b"b1", b"\x00" * 200, b"{}", b"gibberish" * 50, b"123"])
def test_gibberish_is_none(envelope: bytes) -> None:
    assert cause(envelope) == "gibberish"


def test_every_truncation_is_noticed() -> None:
    whole = sealed()
    assert {cause(whole[:length]) for length in range(len(whole))} == {"gibberish", "damaged"}


def test_what_is_longer_than_it_was_is_noticed() -> None:
    assert cause(sealed() + b"x") == "damaged"


def test_every_flipped_bit_of_the_payload_is_noticed() -> None:
    whole = bytearray(sealed())
    for at in range(len(whole) - 5, len(whole)):
        whole[at] ^= 1
        assert cause(bytes(whole)) == "damaged"
        whole[at] ^= 1


def test_unknown_versions_and_flags_are_none() -> None:
    later, flagged = bytearray(sealed()), bytearray(sealed())
    later[2], flagged[3] = 2, 0x80
    assert (cause(bytes(later)), cause(bytes(flagged))) == ("version", "version")


def test_random_bytes_never_raise_anything_else() -> None:
    chance, zstd = random.Random(1), Zstd()
    whole = sealed()
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            head, payload, _ = open_sealed(NAME, TAGS, bytes(damaged))
            unpack(zstd, Packed(head.flags & PACKED, head.dictionary, payload), head.size, MIB, None)
        except Broken:
            continue


@pytest.mark.parametrize("level", [1, 3, 9])
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 100_000])
def test_compression_gives_back_what_was_put_in(level: int, size: int) -> None:
    zstd, value = Zstd(), (b"the same again and " * (size // 19 + 1))[:size]
    packed = pack(zstd, value, level=level, from_bytes=1024, saving=0.15)
    assert bool(packed.flags & PACKED) == (size >= 1024)
    assert unpack(zstd, packed, size, MIB, None) == value


def test_what_saves_too_little_stays_as_it_is() -> None:
    noise = random.Random(1).randbytes(5000)
    assert pack(Zstd(), noise, level=3, from_bytes=1024, saving=0.15) == Packed(0, 0, noise)


def test_a_bomb_is_refused_by_what_it_declares_and_by_what_it_is() -> None:
    zstd = Zstd()
    bomb = zstd.compress(b"\0" * (64 * MIB), 3)
    assert len(bomb) < 10_000
    for declared, found in ((64 * MIB, "too_large"), (1000, "unreadable"), (0, "unreadable")):
        with pytest.raises(Broken) as caught:
            unpack(zstd, Packed(PACKED, 0, bomb), declared, MIB, None)
        assert caught.value.cause == found


def test_a_frame_that_is_shorter_than_declared_or_followed_by_more_is_refused() -> None:
    zstd = Zstd()
    frame = zstd.compress(b"x" * 2000, 3)
    for data, size in ((frame, 2001), (frame[:-3], 2000), (frame + b"more", 2000), (b"", 10), (b"not a frame", 10)):
        with pytest.raises(Broken):
            unpack(zstd, Packed(PACKED, 0, data), size, MIB, None)


def test_an_unknown_dictionary_is_a_miss_with_a_name() -> None:
    with pytest.raises(UnknownDictionary) as caught:
        unpack(Zstd(), Packed(PACKED, 77, b"x"), 5, MIB, None)
    assert (caught.value.dictionary_id, caught.value.cause) == (77, "dictionary")


def test_gibberish_is_no_dictionary() -> None:
    for data in (b"", b"x", b"short"):
        with pytest.raises(Unreadable):
            Dictionary(1, data)


def small(number: int) -> bytes:
    chance = random.Random(number)
    return orjson.dumps(
        {
            "id": chance.randrange(10**6),
            "organizationId": chance.randrange(500),
            "displayName": f"{chance.choice(['Ann', 'Ben', 'Cem', 'Dua'])} {chance.choice(['Meyer', 'Okafor', 'Lin'])}",
            "role": chance.choice(["MEMBER", "MANAGER", "ORG_ADMIN"]),
            "createdAt": f"2026-0{chance.randint(1, 9)}-1{chance.randint(0, 9)}T0{chance.randint(0, 9)}:00:00Z",
            "isActive": chance.random() < 0.9,
            "preferences": {"language": chance.choice(["en", "de"]), "timezone": "Europe/Berlin"},
        }
    )


async def test_a_dictionary_is_trained_from_enough_samples_and_pays(clock: ManualClock) -> None:
    dictionaries = Dictionaries(clock, enabled=True, level=3)
    assert [dictionaries.sample("user", small(number)) for number in range(SAMPLES)] == [False] * (SAMPLES - 1) + [True]
    trained = await dictionaries.train("user")
    assert trained is not None
    assert (dictionaries.of("user"), dictionaries.known(trained.id)) == (trained, trained)
    zstd, value = Zstd(), small(5000)
    plain = pack(zstd, value, level=3, from_bytes=1024, saving=0.15)
    with_it = pack(zstd, value, level=3, from_bytes=1024, saving=0.15, dictionary=trained)
    assert (plain.flags, with_it.dictionary) == (0, trained.id)
    assert len(with_it.data) < len(value) / 2
    assert unpack(zstd, with_it, len(value), MIB, trained) == value


async def test_where_samples_have_nothing_in_common_there_is_no_dictionary(clock: ManualClock) -> None:
    dictionaries, chance = Dictionaries(clock, enabled=True, level=3), random.Random(1)
    for _ in range(SAMPLES):
        dictionaries.sample("noise", chance.randbytes(300))
    assert await dictionaries.train("noise") is None
    assert (len(dictionaries), dictionaries.sample("noise", b"x" * 100)) == (0, False)


def test_samples_are_bounded_and_the_namespace_with_the_fewest_gives_way(clock: ManualClock) -> None:
    dictionaries = Dictionaries(clock, enabled=True, level=3)
    for number in range(300):
        dictionaries.sample("many", bytes(4000))
        if number < 20:
            dictionaries.sample("few", bytes(4000))
    assert "sampled_bytes=" in repr(dictionaries)
    assert int(repr(dictionaries).split("sampled_bytes=")[1].rstrip(">")) <= 768 * 1024


async def test_the_last_two_dictionaries_of_a_namespace_are_kept(clock: ManualClock) -> None:
    dictionaries = Dictionaries(clock, enabled=True, level=3)
    datas = await asyncio.to_thread(
        lambda: [train([small(start + number) for number in range(800)], 4096) for start in (0, 10_000, 20_000)]
    )
    adopted = [dictionaries.adopt("user", data) for data in datas if data is not None]
    assert [one is not None for one in adopted] == [True] * 3
    assert [dictionaries.known(id_of(data or b"")) is not None for data in datas] == [False, True, True]
    assert dictionaries.of("user") is adopted[-1]
    for number in range(10):
        dictionaries.adopt(f"other{number}", datas[0] or b"")
    assert len(dictionaries) <= 3


def test_a_frame_that_asks_for_a_large_window_is_not_unpacked() -> None:
    zstd, data = _zstd(), b"a text that repeats itself" * 10
    for log, is_read in ((22, True), (23, False)):
        compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log})
        frame = compressor.compress(data) + compressor.flush()  # a stream does not say its size, so the window stays
        if is_read:
            assert data == Zstd().decompress(frame, len(data))
        else:
            with pytest.raises(Unreadable):
                Zstd().decompress(frame, len(data))
