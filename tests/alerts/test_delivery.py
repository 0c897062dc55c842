"""Real receivers on loopback: those that hang, fail, ask for time, redirect, close early, are gone, or are none of ours."""

from __future__ import annotations

import asyncio
import datetime
import logging
from email.utils import format_datetime
from pathlib import Path

import pytest

from b1.alerts import AlertOptions, Alerts
from b1.alerts.alert import Alert, Severity, Transition
from b1.alerts.webhook import Result, Webhook
from b1.clock import ManualClock, SystemClock
from b1.outbound import Resolver, backoff_s
from tests.alerts.receiver import (
    CLOSE,
    HANG,
    SECRET,
    answer,
    certificate,
    fast_options,
    is_authentic,
    receiving,
    until,
)

TRANSITION = Transition("msg_1", Alert("A", Severity.WARNING, "s", {}, 1.0), "box", 1.0)


async def post(options: AlertOptions, **others: object) -> tuple[Result, str, float | None]:
    assert options.url is not None
    outcome = await Webhook(options.url, options, SystemClock(), **others).post(TRANSITION)  # type: ignore[arg-type]
    return outcome.result, outcome.cause, outcome.retry_after_s


class Running:
    """Alerts that are started and closed."""

    def __init__(self, options: AlertOptions) -> None:
        self.alerts = Alerts(options, SystemClock(), chance=lambda: 0.0)

    async def __aenter__(self) -> Alerts:
        await self.alerts.start()
        return self.alerts

    async def __aexit__(self, *_: object) -> None:
        await self.alerts.aclose()


async def test_a_message_is_signed_and_complete() -> None:
    async with receiving() as receiver, Running(fast_options(receiver.url)) as alerts:
        alerts.fire("Disk", "critical", "full", {"used": 99})
        (request,) = await receiver.wait_for(1)
    assert is_authentic(request, SECRET)
    assert request.path == "/hook?key=secret"
    assert request.headers["content-type"] == "application/json"
    assert request.document["alerts"][0]["annotations"] == {"summary": "full", "used": "99"}


async def test_a_changed_body_is_not_authentic() -> None:
    async with receiving() as receiver, Running(fast_options(receiver.url)) as alerts:
        alerts.fire("Disk", "critical", "full")
        (request,) = await receiver.wait_for(1)
    request.body += b" "
    assert not is_authentic(request, SECRET)


async def test_without_a_secret_the_id_still_goes_along() -> None:
    async with receiving() as receiver, Running(fast_options(receiver.url, secret=None)) as alerts:
        alerts.fire("Disk", "critical", "full")
        (request,) = await receiver.wait_for(1)
    assert request.id.startswith("msg_")
    assert "webhook-signature" not in request.headers


@pytest.mark.parametrize(
    "bad",
    [
        answer(500), answer(502), answer(404), answer(429, "Retry-After: 0"), answer(503), CLOSE,
        answer(302, "Location: http://127.0.0.1:1/elsewhere"), answer(308, "Location: /hook"),
        b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 9, b"x" * 100_000 + b"\r\n\r\n",
    ],
    ids=["500", "502", "404", "429", "503", "closes", "302", "308", "cut", "ssh", "only-interim", "endless-head"],
)  # fmt: skip
async def test_what_is_not_taken_is_repeated_with_the_same_id_and_body(bad: bytes) -> None:
    async with receiving(bad, bad) as receiver, Running(fast_options(receiver.url)) as alerts:
        alerts.fire("Disk", "critical", "full")
        requests = await receiver.wait_for(3)
        await until(lambda: alerts.snapshot().delivered == 1)
        assert len({(request.id, request.body) for request in requests}) == 1
        assert all(is_authentic(request, SECRET) for request in requests)
        assert (len(requests), alerts.snapshot().failed, alerts.snapshot().waiting) == (3, 2, 0)


async def test_a_receiver_that_hangs_costs_an_attempt_its_deadline_and_nothing_else() -> None:
    async with receiving(HANG, HANG) as receiver, Running(fast_options(receiver.url, attempt_timeout_s=0.05)) as alerts:
        alerts.fire("Disk", "critical", "full")
        requests = await receiver.wait_for(3)
        assert len({request.id for request in requests}) == 1
        await until(lambda: alerts.snapshot().delivered == 1)
        assert alerts.snapshot().last_failure == "no answer within 0.05 s"


async def test_interim_answers_are_passed_over() -> None:
    reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(200)
    async with receiving(reply) as receiver:
        assert await post(fast_options(receiver.url)) == (Result.DELIVERED, "status 200", None)


async def test_there_is_never_more_than_one_connection() -> None:
    slow = [answer(500)] * 5
    async with receiving(*slow) as receiver, Running(fast_options(receiver.url)) as alerts:
        for number in range(20):
            alerts.fire(f"A{number}", "warning", "")
        await until(lambda: alerts.snapshot().delivered == 20)
        assert receiver.open_most == 1


async def test_a_receiver_that_is_gone_gets_nothing_any_more_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with receiving(answer(410)) as receiver, Running(fast_options(receiver.url)) as alerts:
        alerts.fire("A", "warning", "")
        await until(lambda: alerts.snapshot().is_disabled)
        alerts.fire("B", "critical", "")
        await asyncio.sleep(0.1)  # the only proof that nothing comes is that nothing came
        assert len(receiver.requests) == 1
    assert [r.levelno for r in caplog.records if "is gone (410)" in r.message] == [logging.ERROR]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("status", [429, 503])
async def test_the_time_that_a_receiver_asks_for_is_read(status: int) -> None:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=120)
    async with receiving(
        answer(status, "Retry-After: 7"),
        answer(status, f"Retry-After: {format_datetime(moment, usegmt=True)}"),
        answer(status, "Retry-After: soon"),
        answer(500, "Retry-After: 7"),
    ) as receiver:
        options = fast_options(receiver.url)
        asked = [(await post(options))[2] for _ in range(4)]
    assert asked[0] == 7
    assert asked[1] is not None and 60 < asked[1] <= 120
    assert asked[2:] == [None, None]


async def test_news_do_not_shorten_the_time_that_a_receiver_asked_for() -> None:
    async with receiving(answer(429, "Retry-After: 60")) as receiver, Running(fast_options(receiver.url)) as alerts:
        alerts.fire("A", "warning", "")
        await until(lambda: alerts.snapshot().failed == 1)
        alerts.fire("B", "critical", "")
        await asyncio.sleep(0.1)  # the only proof that nothing comes is that nothing came
        assert (len(receiver.requests), alerts.snapshot().waiting) == (1, 2)


async def test_news_shorten_our_own_pause() -> None:
    patient = {"backoff_first_s": 600, "backoff_max_s": 600}
    async with receiving(answer(500)) as receiver, Running(fast_options(receiver.url, **patient)) as alerts:
        alerts.fire("A", "warning", "")
        await until(lambda: alerts.snapshot().failed == 1)
        alerts.fire("B", "critical", "")
        await until(lambda: alerts.snapshot().delivered == 2)
        assert [request.said[0] for request in receiver.requests] == ["A", "B", "A"]


def test_pauses_double_up_to_the_longest_and_are_spread() -> None:
    full = [backoff_s(n, first_s=1, max_s=300, chance=1.0) for n in range(12)]
    assert full == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert backoff_s(4, first_s=1, max_s=300, chance=0.0) == 4
    assert backoff_s(10_000, first_s=1, max_s=300, chance=1.0) == 300


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_a_private_receiver_is_refused_unless_allowed(address: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return [address]

    async with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", "alerts.example.com")
        refused = await post(fast_options(url, allow_private=False), resolve=resolve)
        assert refused[:2] == (
            Result.FAILED,
            "the receiver's address is not public; B1_ALERT_ALLOW_PRIVATE=1 allows it",
        )
        assert receiver.requests == []
        allowed = await post(fast_options(url), resolve=resolve)
        assert allowed[0] is Result.DELIVERED


async def test_an_address_in_the_url_is_judged_like_one_from_the_resolver() -> None:
    async with receiving() as receiver:
        for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"):
            outcome = await post(fast_options(receiver.url.replace("127.0.0.1", host), allow_private=False))
            assert outcome[0] is Result.FAILED
        assert receiver.requests == []


async def test_private_addresses_among_public_ones_are_never_tried() -> None:
    tried: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        return ["10.0.0.1", "127.0.0.1"]

    async def connect(host: str, *_: object, **__: object) -> object:
        tried.append(host)
        raise ConnectionRefusedError("no")

    async with receiving() as receiver:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "open_connection", connect)
            outcome = await post(fast_options(receiver.url, allow_private=False), resolve=resolve)
    assert (outcome[0], tried) == (Result.FAILED, [])


async def test_a_dead_address_leads_to_the_next_one() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with receiving() as receiver:
        assert (await post(fast_options(receiver.url), resolve=resolve))[0] is Result.DELIVERED


async def test_the_addresses_found_last_are_used_when_the_resolver_fails() -> None:
    resolver = Resolver()
    answers: list[list[str] | OSError] = [["192.0.2.1"], OSError("no thread")]

    async def look_up(host: str, port: int) -> list[str]:
        found = answers.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolver, "_look_up", look_up)
        assert [await resolver.addresses("alerts.example.com", 443) for _ in range(2)] == [["192.0.2.1"]] * 2
    assert answers == []


async def test_a_resolver_that_hangs_is_not_started_twice_and_ends_with_the_attempt() -> None:
    resolver, started = Resolver(), []

    async def look_up(host: str, port: int) -> list[str]:
        started.append(host)
        await asyncio.Event().wait()
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolver, "_look_up", look_up)
        options = fast_options("http://alerts.example.com/", attempt_timeout_s=0.02)
        for _ in range(3):
            assert (await post(options, resolve=resolver.addresses))[1] == "no answer within 0.02 s"
        assert started == ["alerts.example.com"]
        running = resolver._running
        assert running is not None
        running.cancel()


async def test_tls_verifies_the_name_of_the_url_and_not_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    context, pem = certificate(tmp_path, "alerts.example.com")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    async with receiving(tls=context) as receiver:
        right = receiver.url.replace("127.0.0.1", "alerts.example.com")
        wrong = receiver.url.replace("127.0.0.1", "other.example.com")
        assert (await post(fast_options(right), resolve=resolve))[0] is Result.DELIVERED
        refused = await post(fast_options(wrong), resolve=resolve)
        assert refused[0] is Result.FAILED
        assert "certificate" in refused[1].lower()
        assert len(receiver.requests) == 1


async def test_nothing_is_started_without_a_receiver(clock: ManualClock) -> None:
    alerts = Alerts(fast_options(None), clock)
    before = asyncio.all_tasks()
    await alerts.start()
    assert asyncio.all_tasks() == before
    assert alerts.fire("A", "warning", "") is True
    assert (alerts.snapshot().firing, alerts.snapshot().waiting) == (("A",), 0)
    await alerts.aclose()
