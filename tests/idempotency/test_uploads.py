"""Large bodies: bounded memory, bounded disk, nothing left behind, and a broken upload that claims nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import File, UploadFile

from b1.asgi.body import ClientDisconnected
from b1.asgi.spooling import replay_spool, spool_body
from b1.errors import BodyTooLarge, BodyTooSlow, Overloaded
from b1.idempotency import IdempotencyOptions, ServiceOptions, SpoolOptions
from b1.idempotency.spool import Spool, Spools
from b1.types import Message, Receive, Scope, Send
from b1.units import KIB, MIB
from tests.idempotency.harness import Reply, World, post, until

SMALL = SpoolOptions(memory_bytes=4 * KIB, disk_bytes=64 * KIB)
PIECE = bytes(range(256)) * 12  # 3 KiB


def giving(*pieces: bytes, ends: bool = True) -> Receive:
    """The messages of a body; after the last piece either its end or the client's leaving."""
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b""} if ends else {"type": "http.disconnect"})

    async def receive() -> Message:
        return messages.pop(0)

    return receive


async def filled(spools: Spools, *pieces: bytes, limit_bytes: int = MIB, length: int | None = None) -> Spool:
    spool = spools.open()
    await spool_body(giving(*pieces), spool, lambda _: None, limit_bytes=limit_bytes, length=length)
    return spool


async def given(spool: Spool) -> list[Message]:
    again = replay_spool(spool, giving())
    messages = [await again()]
    while messages[-1]["more_body"]:
        messages.append(await again())
    return messages


async def closed(spools: Spools, *made: Spool) -> None:
    for one in made:
        one.close()
        one.close()
    await spools.aclose()


@pytest.mark.parametrize("count", [0, 1, 2, 5])
async def test_a_body_comes_out_as_it_went_in(count: int) -> None:
    spools, seen = Spools(SMALL), bytearray()
    spool = spools.open()
    await spool_body(giving(*[PIECE] * count), spool, seen.extend, limit_bytes=MIB)
    messages = await given(spool)
    assert b"".join(message["body"] for message in messages) == PIECE * count == bytes(seen)
    assert max(len(message["body"]) for message in messages) <= 6 * KIB
    await closed(spools, spool)


async def test_small_bodies_never_touch_the_disk() -> None:
    spools = Spools(SMALL)
    small, large = await filled(spools, PIECE), await filled(spools, PIECE, PIECE)
    assert (small.in_memory, large.in_memory) == (PIECE, None)
    assert (spools.snapshot().bodies, spools.snapshot().held_bytes) == (1, 2 * len(PIECE))
    assert "in memory" in repr(small) and "on disk" not in repr(small) and "in disk" in repr(large)
    await closed(spools, small, large)
    assert (spools.snapshot().bodies, spools.snapshot().held_bytes) == (0, 0) and "bodies=0" in repr(spools)


async def test_files_have_no_name_and_are_gone_when_closed(tmp_path: Path) -> None:
    spools = Spools(SpoolOptions(memory_bytes=1, disk_bytes=MIB, folder=str(tmp_path)))
    spool = await filled(spools, PIECE)
    assert (list(tmp_path.iterdir()), open_files(tmp_path)) == ([], 1)
    await closed(spools, spool)
    assert open_files(tmp_path) == 0


def open_files(folder: Path) -> int:
    """Count the files in `folder` that this process has open, with or without a name."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(folder))
    return count


async def test_the_disk_is_bounded_for_all_together() -> None:
    spools = Spools(SMALL)
    holders = [await filled(spools, *[PIECE] * 10) for _ in range(2)]
    with pytest.raises(Overloaded):
        await filled(spools, *[PIECE] * 10)
    holders[0].close()
    again = await filled(spools, *[PIECE] * 10)
    await closed(spools, again, *holders)


async def test_a_disk_that_fails_is_a_refusal(tmp_path: Path) -> None:
    spools = Spools(SpoolOptions(memory_bytes=1, folder=str(tmp_path / "nowhere")))
    spool = spools.open()
    with pytest.raises(Overloaded, match="no room"):
        await spool.write(PIECE)
    await closed(spools, spool)
    assert spools.snapshot().held_bytes == 0


async def test_a_body_over_its_limit_is_read_no_further() -> None:
    receive, spools = giving(PIECE, PIECE, PIECE), Spools(SMALL)
    spool = spools.open()
    with pytest.raises(BodyTooLarge):
        await spool_body(receive, spool, lambda _: None, limit_bytes=len(PIECE))
    assert (await receive())["body"] == PIECE  # the third piece is still there
    await closed(spools, spool, await filled(spools, PIECE, limit_bytes=len(PIECE)))


async def test_a_body_of_another_length_than_announced_is_broken() -> None:
    spools = Spools(SMALL)
    for length in (len(PIECE) - 1, len(PIECE) + 1):
        with pytest.raises(ClientDisconnected):
            await filled(spools, PIECE, length=length)
    await closed(spools, await filled(spools, PIECE, length=len(PIECE)))


async def test_silence_is_bounded() -> None:
    spools, held = Spools(SMALL), asyncio.Event()

    async def receive() -> Message:
        await held.wait()
        raise AssertionError

    with pytest.raises(BodyTooSlow):
        await spool_body(receive, spools.open(), lambda _: None, limit_bytes=MIB, silence_s=0.01)


async def test_a_trickle_is_bounded() -> None:
    trickle = iter(range(10_000))

    async def drops() -> Message:
        next(trickle)
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b".", "more_body": True}

    spools = Spools(SMALL)
    with pytest.raises(BodyTooSlow):
        await spool_body(drops, spools.open(), lambda _: None, limit_bytes=MIB, whole_s=0.05)


async def test_a_request_cancelled_while_it_writes_closes_behind_the_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spools = Spools(SpoolOptions(memory_bytes=KIB, folder=str(tmp_path)))
    at_disk, go_on = threading.Event(), threading.Event()
    real = Spool._append

    def slow(self: Spool, data: bytes) -> None:
        at_disk.set()
        assert go_on.wait(10)
        real(self, data)

    monkeypatch.setattr(Spool, "_append", slow)
    spool = spools.open()
    writing = asyncio.create_task(spool.write(PIECE * 2))
    await until(at_disk.is_set)
    writing.cancel()
    await until(writing.done)
    spool.close()
    assert spools.snapshot().bodies == 1  # its thread still uses the file
    go_on.set()
    await until(lambda: spools.snapshot().bodies == 0)
    await spools.aclose()
    assert open_files(tmp_path) == 0


def upload_of(world: World) -> Any:
    @world.app.post("/things", status_code=201)
    async def things(scan: Annotated[UploadFile, File()]) -> dict[str, Any]:
        return {"name": scan.filename, "size": len(await scan.read())}

    return world.serve(world.app)


def form(content: bytes, boundary: bytes = b"one", filename: bytes = b"a.jpg") -> bytes:
    head = b'Content-Disposition: form-data; name="scan"; filename="%b"' % filename
    return b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (boundary, head, content, boundary)


async def send_form(app: Any, body: bytes, boundary: bytes = b"one", **more: Any) -> Reply:
    pieces: list[Message] = [
        {"type": "http.request", "body": body[at : at + 4096], "more_body": at + 4096 < len(body)}
        for at in range(0, len(body), 4096)
    ]
    content_type = b"multipart/form-data; boundary=" + boundary
    return await post(app, messages=more.pop("messages", pieces), content_type=content_type, **more)


async def test_an_upload_is_one_effect_whatever_its_boundary() -> None:
    world = World(options=ServiceOptions(spool=SMALL))
    app, content = upload_of(world), PIECE * 10
    first = await send_form(app, form(content))
    again = await send_form(app, form(content, b"two"), b"two")
    assert (first.status, first.json) == (201, {"name": "a.jpg", "size": len(content)})
    assert (again.replayed, again.body) == (True, first.body)
    others = [form(content + b"."), form(content, filename=b"b.jpg")]
    assert [(await send_form(app, other)).code for other in others] == ["IDEMPOTENCY_KEY_REUSED"] * 2
    await world.service.aclose()
    assert world.service.snapshot().spooled_bytes == 0


@pytest.mark.parametrize("end", ["disconnect", "length"])
async def test_a_truncated_upload_claims_nothing_and_runs_nothing(end: str) -> None:
    world = World(options=ServiceOptions(spool=SMALL))
    app, body = upload_of(world), form(PIECE * 10)
    half: list[Message] = [{"type": "http.request", "body": body[:9000], "more_body": end == "disconnect"}]
    if end == "disconnect":
        half.append({"type": "http.disconnect"})
    length = ((b"content-length", str(len(body)).encode()),)
    broken = await send_form(app, body, messages=half, headers=length)
    assert (broken.starts, world.store.snapshot().keys, world.service.snapshot().in_flight) == (0, 0, 0)
    whole = await send_form(app, body, headers=length)
    assert (whole.status, whole.replayed) == (201, False)
    await world.service.aclose()
    assert world.service.snapshot().spooled_bytes == 0


async def test_uploads_that_find_no_room_are_refused_and_leave_no_claim() -> None:
    world = World(options=ServiceOptions(spool=SpoolOptions(memory_bytes=KIB, disk_bytes=2 * KIB)))
    refused = await send_form(upload_of(world), form(PIECE))
    assert (refused.status, refused.code, world.store.snapshot().keys) == (503, "OVERLOADED", 0)
    assert "retry-after" in refused.headers
    await world.service.aclose()


async def test_the_route_s_own_limit_counts() -> None:
    world = World(route=IdempotencyOptions(request_limit_bytes=100), body_limit_bytes=MIB)
    app = upload_of(world)
    assert (await send_form(app, form(b"x" * 200))).status == 413
    assert world.store.snapshot().keys == 0


async def test_a_handler_reads_on_after_its_client_left() -> None:
    go_on, got = asyncio.Event(), bytearray()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        message: Message = {"more_body": True}
        while message["more_body"]:
            message = await receive()
            got.extend(message["body"])
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    world = World(options=ServiceOptions(spool=SMALL))
    served, body = world.serve(app), PIECE * 10
    request = asyncio.create_task(post(served, raw=body, content_type=b"image/jpeg"))
    await until(lambda: world.service.snapshot().in_flight == 1)
    request.cancel()
    await until(request.done)
    go_on.set()
    await until(lambda: world.service.snapshot().in_flight == 0)
    again = await post(served, raw=body, content_type=b"image/jpeg")
    assert (bytes(got), again.status, again.replayed) == (body, 201, True)
    await world.service.aclose()
    assert world.service.snapshot().spooled_bytes == 0
