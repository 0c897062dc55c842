"""What a client may send: bounds on bodies with and without a length, NULs, and whose address it is."""

from __future__ import annotations

import pytest

from b1.asgi.context import RequestContext
from b1.asgi.middleware.guard import Guard
from b1.types import ASGIApp, Receive, Scope, Send
from tests.asgi.raw import App, Reply, Unreadable, call, inside, nothing

CHUNKED = (b"transfer-encoding", b"chunked")


def guarded(app: ASGIApp, *, limit: int = 10, proxy: str = "none") -> ASGIApp:
    return inside(Guard(app, body_limit_bytes=limit, proxy=proxy))


def length(value: bytes) -> tuple[bytes, bytes]:
    return b"content-length", value


class TestBodyWithLength:
    async def test_over_the_cap_is_413_and_is_never_read(self) -> None:
        app = App()
        reply = await call(guarded(app), method="POST", headers=[length(b"11")], body=Unreadable())
        assert (reply.status, reply.code, app.runs) == (413, "BODY_TOO_LARGE", 0)

    async def test_exactly_the_cap_passes(self) -> None:
        app = App()
        assert (await call(guarded(app), method="POST", headers=[length(b"10")], body=b"x" * 10)).status == 200
        assert app.seen == [("/", b"x" * 10)]

    @pytest.mark.parametrize("value", [b"abc", b"-1", b"1.0", b"+1", b"", "²".encode(), b"9" * 5000])
    async def test_a_length_that_is_no_number_is_refused_unread(self, value: bytes) -> None:
        app = App()
        reply = await call(guarded(app), method="POST", headers=[length(value)], body=Unreadable())
        assert reply.status in (400, 413) and reply.code in ("MALFORMED_REQUEST", "BODY_TOO_LARGE")
        assert app.runs == 0


class TestBodyWithoutLength:
    async def test_over_the_cap_is_413_and_the_connection_ends(self) -> None:
        app = App()
        reply = await call(guarded(app), method="POST", headers=[CHUNKED], body=[b"x" * 6, b"x" * 6, b"x" * 6])
        assert (reply.status, reply.code, reply.starts) == (413, "BODY_TOO_LARGE", 1)
        assert reply.headers["connection"] == "close"
        assert app.runs == 0

    async def test_within_the_cap_passes_unchanged(self) -> None:
        app = App()
        assert (
            await call(guarded(app), method="POST", headers=[CHUNKED], body=[b"ab", b"", b"cdefghij"])
        ).status == 200
        assert app.seen == [("/", b"abcdefghij")]

    async def test_an_application_that_swallows_the_refusal_does_not_answer_for_us(self) -> None:
        async def careless(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await receive()
            except Exception:
                await App()(scope, _nothing, send)

        reply = await call(guarded(careless), method="POST", headers=[CHUNKED], body=[b"x" * 11])
        assert (reply.status, reply.code, reply.starts) == (413, "BODY_TOO_LARGE", 1)

    async def test_an_answer_that_has_begun_is_not_followed_by_a_second_one(self) -> None:
        async def early(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            scope["b1"].status = 200
            await receive()

        reply = await call(guarded(early), method="POST", headers=[CHUNKED], body=[b"x" * 11])
        assert (reply.status, reply.starts) == (200, 1)


@pytest.mark.parametrize("path", ["/a\0", "/\0/b"])
async def test_a_nul_in_the_path_is_400(path: str) -> None:
    app = App()
    reply = await call(guarded(app), path)
    assert (reply.status, reply.code, app.runs) == (400, "MALFORMED_REQUEST", 0)


class TestClientAddress:
    async def address(
        self, proxy: str, *headers: tuple[bytes, bytes], peer: tuple[str, int] | None = ("198.51.100.7", 1)
    ) -> str:
        contexts: list[RequestContext] = []
        layer = inside(Guard(App(), body_limit_bytes=1, proxy=proxy), contexts=contexts)
        await call(layer, headers=headers, client=peer)
        return contexts[0].client

    async def test_without_a_proxy_the_socket_is_believed_and_nothing_else(self) -> None:
        forged = (b"x-forwarded-for", b"203.0.113.1"), (b"client-ip", b"203.0.113.1")
        assert await self.address("none", *forged) == "198.51.100.7"

    async def test_behind_one_proxy_the_last_hop_counts_not_what_the_client_wrote(self) -> None:
        assert await self.address("1", (b"x-forwarded-for", b"6.6.6.6, 203.0.113.1")) == "203.0.113.1"

    async def test_the_platforms_front_end_adds_a_port(self) -> None:
        assert await self.address("azure", (b"x-forwarded-for", b"6.6.6.6, 203.0.113.1:4711")) == "203.0.113.1"

    async def test_nobody_at_the_other_end_is_unknown_and_still_counted(self) -> None:
        assert await self.address("none", peer=None) == "unknown"


async def test_other_scopes_pass_untouched() -> None:
    app = App()
    await Guard(app, body_limit_bytes=1, proxy="none")({"type": "websocket"}, nothing, nothing)
    assert app.seen == [("websocket", b"")]


async def test_a_get_without_a_body_costs_nothing() -> None:
    app = App()
    reply: Reply = await call(guarded(app, limit=1))
    assert (reply.status, app.runs) == (200, 1)


async def _nothing() -> dict[str, object]:
    return {"type": "http.request", "body": b"", "more_body": False}
