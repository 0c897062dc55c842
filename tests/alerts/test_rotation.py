"""URL and secret in files: another one counts without a restart, and nonsense in them changes nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from b1.alerts import AlertOptions, Alerts
from b1.alerts.rotation import LOOK_EVERY_S, Rotation
from b1.clock import ManualClock
from tests.alerts.receiver import SECRET, Received, answer, fast_options, receiving, until

OTHER_SECRET = "whsec_bmV3IHNlY3JldCBvZiB0d2VudHkgYnl0ZXM="


def options(folder: Path, url: str, **others: object) -> AlertOptions:
    (folder / "url").write_text(f"{url}\n")
    (folder / "secret").write_text(f"{SECRET}\n")
    return fast_options(url, url_file=folder / "url", secret_file=folder / "secret", **others)


async def started(chosen: AlertOptions, clock: ManualClock) -> Alerts:
    alerts = Alerts(chosen, clock, chance=lambda: 0.0)
    await alerts.start()
    await until(lambda: alerts.snapshot().is_owner)
    return alerts


async def test_a_new_secret_signs_the_next_message(tmp_path: Path) -> None:
    clock = ManualClock(wall=time.time())  # the library judges how old a message is
    async with receiving() as receiver:
        alerts = await started(options(tmp_path, receiver.url), clock)
        alerts.fire("A", "warning", "")
        await receiver.wait_for(1)
        (tmp_path / "secret").write_text(OTHER_SECRET)
        alerts.fire("B", "warning", "")
        first, second = await receiver.wait_for(2)
        await alerts.aclose()
    assert (True, False) == (signed(first, SECRET), signed(first, OTHER_SECRET))
    assert (False, True) == (signed(second, SECRET), signed(second, OTHER_SECRET))


async def test_a_new_url_gets_the_next_message(tmp_path: Path, clock: ManualClock) -> None:
    async with receiving() as old, receiving() as new:
        alerts = await started(options(tmp_path, old.url), clock)
        alerts.fire("A", "warning", "")
        await old.wait_for(1)
        (tmp_path / "url").write_text(new.url)
        alerts.fire("B", "warning", "")
        (request,) = await new.wait_for(1)
        await alerts.aclose()
        assert (1, ("B", "firing")) == (len(old.requests), request.said)


async def test_what_waits_for_a_receiver_that_is_gone_or_asks_for_an_hour_goes_to_the_new_one(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with receiving(answer(429, "Retry-After: 3600"), answer(410)) as old, receiving() as new:
        alerts = await started(options(tmp_path, old.url), clock)
        alerts.fire("A", "warning", "")
        await until(lambda: alerts.snapshot().failed == 1)
        (tmp_path / "url").write_text(new.url)
        alerts.fire("B", "warning", "")  # news make it look at the files
        requests = await new.wait_for(2)
        assert {"A", "B"} == {request.said[0] for request in requests}
        (tmp_path / "url").write_text(old.url)
        alerts.fire("C", "warning", "")
        await until(lambda: alerts.snapshot().is_disabled)
        (tmp_path / "url").write_text(new.url)
        alerts.fire("D", "warning", "")
        assert ("D", "firing") == (await new.wait_for(3))[2].said
        await alerts.aclose()


@pytest.mark.parametrize("nonsense", ["", "\n", "ftp://secret", "https://", "\udcff"], ids=repr)
async def test_nonsense_in_the_file_changes_nothing_and_is_not_shown(
    tmp_path: Path, nonsense: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock(wall=time.time())
    async with receiving() as receiver:
        alerts = await started(options(tmp_path, receiver.url), clock)
        (tmp_path / "url").write_bytes(nonsense.encode("utf-8", "surrogateescape"))
        (tmp_path / "secret").unlink()
        alerts.fire("A", "warning", "")
        (request,) = await receiver.wait_for(1)
        await until(lambda: alerts.snapshot().waiting == 0)
        await alerts.aclose()
    assert signed(request, SECRET)
    assert "secret" not in caplog.text.replace(str(tmp_path), "")


async def test_files_are_looked_at_every_half_minute_and_a_change_is_news_once(
    tmp_path: Path, clock: ManualClock
) -> None:
    rotation = Rotation(options(tmp_path, "https://a.example/"), clock)
    assert LOOK_EVERY_S == rotation.due_in_s()
    clock.advance(LOOK_EVERY_S)
    assert 0.0 == rotation.due_in_s()
    assert await rotation.news() is None
    (tmp_path / "url").write_text("https://b.example/")
    assert [("https://b.example/", SECRET), None] == [await rotation.news() for _ in range(2)]
    assert LOOK_EVERY_S == rotation.due_in_s()


async def test_without_files_nobody_looks(clock: ManualClock) -> None:
    rotation = Rotation(fast_options("https://a.example/"), clock)
    assert (False, None) == (rotation.is_watched, rotation.due_in_s())


async def test_a_folder_that_hangs_delays_a_message_by_its_bound_alone(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b1.alerts.disk.DISK_S", 0.05)
    async with receiving() as receiver:
        alerts = Alerts(options(tmp_path, receiver.url), clock)
        stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def hang(work: object) -> None:
            await stuck

        monkeypatch.setattr("b1.alerts.disk._run_in_thread", hang)
        await alerts.start()
        alerts.fire("A", "critical", "")
        await receiver.wait_for(1)
        stuck.set_result(None)
        await alerts.aclose()


def signed(request: Received, secret: str) -> bool:
    try:
        Verifier(secret).verify(request.body, request.headers)
    except WebhookVerificationError:
        return False
    return True
