"""What a worker has under way, and what it remembers, passes to its successor."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from b1.clock import SystemClock
from b1.identity import Tokens
from b1.settings import Secret
from tests.real.client import Client
from tests.real.server import SECRET
from tests.real.steady import Changing, Talk
from tests.server.running import wait_for

pytestmark = pytest.mark.real

MODES = pytest.mark.parametrize("mode", ["handover", "serial"])
UPLOAD_BYTES = 200_000
WRITES_PER_MINUTE = 20
# Longer than idle connections are kept open at a stop, so that what ends now ends late.
DRAINING_S = 1.3


class TestWhatIsUnderWay:
    @MODES
    def test_uploads_pipelines_and_streams_end_well_and_their_connections_go_on(
        self, mode: str, tmp_path: Path
    ) -> None:
        with (
            Changing(tmp_path, B1_REPLACEMENT=mode) as server,
            Talk(server.wait_ready().port) as upload,
            Talk(server.port) as pipeline,
            Talk(server.port) as stream,
        ):
            [old] = server.workers()
            upload.send(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % UPLOAD_BYTES)
            upload.send(b"x" * (UPLOAD_BYTES // 2))
            stream.ask("/stream")
            stream.wait_begun()
            pipeline.send(b"GET /slow?s=0.7 HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n" * 7)
            server.send(signal.SIGHUP)
            if mode == "handover":
                new = server.wait_loading(2)
                wait_for(lambda: server.body("/pid") == str(new))  # from now on the old one drains
            upload.send(b"x" * (UPLOAD_BYTES // 2))
            assert (200, str(UPLOAD_BYTES)) == upload.answer()
            assert [200] * 8 == [pipeline.answer()[0] for _ in range(8)]
            time.sleep(DRAINING_S)
            server.set("gate", "end")
            status, text = stream.answer()
            assert (200, "and end") == (status, text[-7:])
            stream.ask("/pid")  # its head came before anybody knew of a replacement, and promised a kept connection
            assert 200 == stream.answer()[0]
            assert str(server.wait_alone(but=[old])) == server.body("/pid")


class TestStateInMemory:
    """Without Redis and Postgres there is nobody else who remembers."""

    @MODES
    def test_a_key_is_replayed_and_a_spent_quota_stays_spent(self, mode: str, tmp_path: Path) -> None:
        variables = {"ENABLE_RATE_LIMITING": "1", "AUTH_JWT_SECRET": SECRET, "B1_REPLACEMENT": mode}
        with Changing(tmp_path, **variables) as server:
            ann, bob = (_signed_in(server.wait_ready().port, actor) for actor in ("ann", "bob"))
            first = bob.post("/orders", {}, Idempotency_Key="first")
            statuses = [ann.post("/orders", {}, Idempotency_Key=f"k{i}").status for i in range(WRITES_PER_MINUTE + 1)]
            server.replace()
            after = ann.post("/orders", {}, Idempotency_Key="after")
            again = bob.post("/orders", {}, Idempotency_Key="first")
            assert [200] * WRITES_PER_MINUTE + [429] == statuses
            assert (429, "RATE_LIMIT_EXCEEDED") == (after.status, after.code)
            assert (first.body, "true") == (again.body, again.headers.get("idempotent-replayed"))


def _signed_in(port: int, actor: str) -> Client:
    token = Tokens(Secret(SECRET), SystemClock()).issue(actor, {"org": "1", "tier": "pro"}, ttl_s=600)
    return Client(port, token)
