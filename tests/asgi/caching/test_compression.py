"""What clients accept is read strictly; a stored answer is compressed once, each encoding with a tag of its own."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from b1.asgi.caching import compression
from b1.asgi.caching.compression import GZIP, ZSTD, Compressor, is_text, preferences
from b1.asgi.options import CacheOptions
from b1.cache.packing.zstandard import Zstd
from tests.asgi.caching.world import Lines, World
from tests.asgi.raw import Reply

JSON = (b"content-type", b"application/json")
TEXT = b'{"name": "a text that repeats itself"},' * 100
OPTIONS = CacheOptions(ttl_s=60, vary="organization")


def accepting(value: bytes) -> dict[str, Any]:
    return {"headers": [(b"accept-encoding", value)]}


def decoded(reply: Reply) -> bytes:
    encoding = reply.headers.get("content-encoding")
    if encoding == "gzip":
        return gzip.decompress(reply.body)
    return Zstd().decompress(reply.body, len(TEXT)) if encoding == "zstd" else reply.body


def world(headers: Lines = (JSON,), body: bytes = TEXT, options: CacheOptions = OPTIONS) -> World:
    made = World(options)
    made.handler.body, made.handler.headers = body, list(headers)
    return made


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (b"gzip", (GZIP,)),
        (b"GZip", (GZIP,)),
        (b"x-gzip", (GZIP,)),
        (b"gzip, deflate, br, zstd", (ZSTD, GZIP)),
        (b"gzip;q=1.0, zstd;q=0.5", (GZIP, ZSTD)),
        (b"gzip ; q=0.001", (GZIP,)),
        (b"gzip;q=0", ()),
        (b"gzip;q=0.000", ()),
        (b"gzip;q=1.5", ()),
        (b"gzip;q=0.1234", ()),
        (b"gzip;q=-1", ()),
        (b"gzip;q=", ()),
        (b"gzip;q=a", ()),
        (b"gzip;level=1", ()),
        (b"*", (ZSTD, GZIP)),
        (b"*;q=0", ()),
        (b"gzip;q=0, *", (ZSTD,)),
        (b"*;q=0.1, gzip", (GZIP, ZSTD)),
        (b"identity", ()),
        (b"identity, gzip;q=0.5", ()),
        (b"identity;q=0.2, gzip;q=0.5", (GZIP,)),
        (b"identity;q=0", ()),
        (b"br", ()),
        (b"", ()),
        (b",,;q=1,\xff", ()),
    ],
)
def test_encodings_are_taken_in_the_clients_order(accept: bytes, expected: tuple[bytes, ...]) -> None:
    assert expected == preferences(accept)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/json", True), (b"Application/JSON; charset=utf-8", True), (b"text/html", True),
        (b"application/problem+json", True), (b"application/vnd.api+json;v=1", True), (b"image/svg+xml", True),
        (b"image/png", False), (b"application/zip", False), (b"application/octet-stream", False), (b"", False),
        (b"text/event-stream", False), (b"application/jsonish", False), (b"application/pdf", False),
    ],
)  # fmt: skip
def test_text_is_what_becomes_smaller(content_type: bytes, expected: bool) -> None:
    assert expected == is_text(content_type)


@pytest.mark.parametrize(("accept", "encoding"), [(b"gzip", "gzip"), (b"zstd", "zstd"), (b"br", None), (b"", None)])
async def test_each_client_gets_what_it_can_read(accept: bytes, encoding: str | None) -> None:
    made = world()
    replies = [await made.get(**accepting(accept)) for _ in range(2)]
    assert [encoding] * 2 == [reply.headers.get("content-encoding") for reply in replies]
    assert {TEXT} == {decoded(reply) for reply in replies}
    assert [str(len(reply.body)) for reply in replies] == [reply.headers["content-length"] for reply in replies]
    assert all("accept-encoding" in reply.headers["vary"] for reply in replies)


async def test_every_encoding_is_made_once_and_has_its_own_tag() -> None:
    made = world()
    wanted = (b"gzip", b"zstd", b"", b"gzip", b"zstd, gzip;q=0.1", b"")
    replies = [await made.get(**accepting(accept)) for accept in wanted]
    assert (1, 1) == (made.runs, made.responses.maker.compressor.done)  # zstd is how it lies there anyway
    tags = [reply.headers["etag"] for reply in replies]
    assert (3, tags[:3]) == (len(set(tags)), tags[3:])
    assert tags[0] == tags[2][:-1] + '-gzip"'


async def test_a_304_is_for_the_encoding_that_would_be_sent() -> None:
    made = world()
    tag = (await made.get(**accepting(b"gzip"))).headers["etag"].encode()
    statuses = [
        (await made.get(headers=[(b"if-none-match", tag), (b"accept-encoding", accept)])).status
        for accept in (b"gzip", b"zstd", b"identity")
    ]
    assert [304, 200, 200] == statuses


async def test_a_handlers_weak_tag_stays_weak() -> None:
    made = world([JSON, (b"etag", b'W/"v1"')])
    assert 'W/"v1-gzip"' == (await made.get(**accepting(b"gzip"))).headers["etag"]


@pytest.mark.parametrize(
    ("headers", "body", "options"),
    [
        pytest.param([JSON], b"x" * 1000, OPTIONS, id="small"),
        pytest.param([(b"content-type", b"image/png")], TEXT, OPTIONS, id="image"),
        pytest.param([], TEXT, OPTIONS, id="no-type"),
        pytest.param([JSON, (b"content-encoding", b"br")], TEXT, OPTIONS, id="encoded-already"),
        pytest.param([JSON, (b"cache-control", b"no-transform, max-age=9")], TEXT, OPTIONS, id="no-transform"),
        pytest.param([JSON], TEXT, CacheOptions(ttl_s=60, compress=False), id="opted-out"),
        pytest.param([JSON], zlib.compress(bytes(range(256)) * 40), OPTIONS, id="does-not-pay"),
    ],
)
async def test_some_bodies_stay_as_they_are(headers: Lines, body: bytes, options: CacheOptions) -> None:
    made = world(headers, body, options)
    replies = [await made.get(**accepting(b"gzip, zstd")) for _ in range(2)]
    assert [body, body] == [reply.body for reply in replies]
    assert not any(reply.headers.get("content-encoding") in ("gzip", "zstd") for reply in replies)


async def test_what_does_not_pay_is_not_tried_again() -> None:
    made = world(body=bytes(range(256)) * 8)
    made.handler.body = zlib.compress(b"".join(i.to_bytes(4, "big") for i in range(3000)), 9)
    for _ in range(4):
        await made.get(**accepting(b"gzip"))
    assert 1 >= made.responses.maker.compressor.done


async def test_an_answer_that_is_not_stored_is_compressed_too() -> None:
    made = world([JSON, (b"cache-control", b"private"), (b"etag", b'"v1"'), (b"set-cookie", b"a=b"), (b"vary", b"Foo")])
    reply = await made.get(**accepting(b"gzip"))
    assert ("gzip", TEXT, '"v1-gzip"', "a=b") == (
        reply.headers["content-encoding"], decoded(reply), reply.headers["etag"], reply.headers["set-cookie"]
    )  # fmt: skip
    assert {"foo", "accept-encoding"} <= set(reply.headers["vary"].split(", "))


async def test_an_invalidated_answer_does_not_come_back_with_a_new_encoding() -> None:
    """The encoding is made while an invalidation lands: what it was made of stays out."""
    made = World(CacheOptions(ttl_s=60, vary="organization", tags=("t",)))
    made.handler.body, made.handler.headers = TEXT, [JSON]
    await made.get()
    compressor: Any = made.responses.maker.compressor
    compress = compressor.compress

    async def overtaken(body: bytes, encoding: bytes) -> bytes | None:
        made.l1.invalidate(("t",))
        packed: bytes | None = await compress(body, encoding)
        return packed

    compressor.compress = overtaken
    await made.get(**accepting(b"gzip"))
    compressor.compress = compress
    made.handler.body = b"new"
    assert b"new" == (await made.get(**accepting(b"gzip"))).body


@pytest.mark.parametrize("encoding", [GZIP, ZSTD])
async def test_large_bodies_are_compressed_beside_the_loop(encoding: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def noting(original: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def compress(body: bytes) -> bytes:
            threads.append(threading.get_ident())
            return original(body)

        return compress

    for name in ("_gzip", "_zstd_elsewhere"):
        monkeypatch.setattr(compression, name, noting(getattr(compression, name)))
    packed = await Compressor().compress(TEXT * 100, encoding)
    assert packed is not None
    assert 1 == len(threads)
    assert threading.get_ident() not in threads


async def test_huge_bodies_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "COMPRESSED_MOST_BYTES", 1000)
    assert await Compressor().compress(TEXT, GZIP) is None


def test_a_thousand_different_headers_are_not_all_remembered() -> None:
    known = compression.Preferences()
    for number in range(1000):
        assert (GZIP,) == known.of(b"gzip, x%d" % number)
    assert len(known._known) <= 256
