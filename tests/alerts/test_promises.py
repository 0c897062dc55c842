"""The promises of the webhook, against real receivers, with the signature checked by the Standard Webhooks library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from b1.alerts import Alerts, MemoryAlerts
from b1.alerts.alert import Alert, Severity, Transition
from b1.alerts.webhook import Outcome, Result, Webhook
from b1.clock import ManualClock, SystemClock
from b1.governor import Level
from tests.alerts.receiver import SECRET, Received, answer, fast_options, receiving, until
from tests.alerts.receiver import state_dir as state_dir
from tests.alerts.test_service import at, started

OTHER_SECRET = "whsec_bmV3IHNlY3JldCBvZiB0d2VudHkgYnl0ZXM="
TRANSITION = Transition("msg_1", Alert("A", Severity.WARNING, "s", {}, 1.0), "box", 1.0)


def verified(request: Received, secret: str = SECRET) -> Any:
    """Return the body as the library parses it once the signature holds."""
    return Verifier(secret).verify(request.body, request.headers)


class TestSignature:
    @pytest.mark.parametrize("form", ["alertmanager", "slack", "teams"])
    async def test_each_form_is_verified_by_the_library(self, form: str) -> None:
        async with receiving() as receiver:
            alerts = await started(fast_options(f"{form}+{receiver.url}"))
            MemoryAlerts(alerts).on_level(Level.NORMAL, Level.HIGH, at(82))
            (request,) = await receiver.wait_for(1)
            await alerts.aclose()
        body = verified(request)
        assert "1435 MiB of 1750 MiB in use (82 %)" in json.dumps(body, ensure_ascii=False)
        assert {"alertmanager": "alerts", "slack": "blocks", "teams": "attachments"}[form] in body

    async def test_each_repeat_is_verified_anew_under_its_one_id(self) -> None:
        async with receiving(answer(500), answer(503), answer(429)) as receiver:
            alerts = await started(fast_options(receiver.url))
            alerts.fire("A", "critical", "bad")
            requests = await receiver.wait_for(4)
            await alerts.aclose()
        assert 1 == len({(request.id, json.dumps(verified(request))) for request in requests})

    async def test_both_secrets_verify_while_one_replaces_the_other(self) -> None:
        async with receiving() as receiver:
            alerts = await started(fast_options(receiver.url, secret=f"{SECRET} {OTHER_SECRET}"))
            alerts.fire("A", "critical", "bad")
            (request,) = await receiver.wait_for(1)
            await alerts.aclose()
        assert verified(request) == verified(request, OTHER_SECRET)

    @pytest.mark.parametrize(
        "changed",
        [{"webhook-id": "msg_other"}, {"webhook-timestamp": "1"}, {"webhook-signature": "v1,AAAA"}],
        ids=lambda one: next(iter(one)),
    )
    async def test_what_was_changed_on_the_way_is_refused(self, changed: dict[str, str]) -> None:
        async with receiving() as receiver:
            alerts = await started(fast_options(receiver.url))
            alerts.fire("A", "critical", "bad")
            (request,) = await receiver.wait_for(1)
            await alerts.aclose()
        with pytest.raises(WebhookVerificationError):
            Verifier(SECRET).verify(request.body, request.headers | changed)
        with pytest.raises(WebhookVerificationError):
            Verifier(OTHER_SECRET).verify(request.body, request.headers)


class TestAddresses:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_leads_nowhere(self, status: int) -> None:
        async with receiving() as elsewhere, receiving(answer(status, f"Location: {elsewhere.url}")) as receiver:
            alerts = await started(fast_options(receiver.url))
            alerts.fire("A", "critical", "bad")
            await receiver.wait_for(2)
            await until(lambda: alerts.snapshot().delivered == 1)
            assert ([], 1) == (elsewhere.requests, alerts.snapshot().failed)
            assert "redirects are not followed" in str(alerts.snapshot().last_failure)
            await alerts.aclose()

    async def test_a_name_that_is_rebound_wins_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked, tried = _rebinding(["93.184.216.34"], ["127.0.0.1"], ["169.254.169.254"]), Recorded()
        monkeypatch.setattr(asyncio, "open_connection", tried.connect)
        options = fast_options("http://alerts.example.com/", allow_private=False)
        webhook = Webhook("http://alerts.example.com/", options, SystemClock(), resolve=asked)
        outcomes = [await webhook.post(TRANSITION) for _ in range(3)]
        assert ["93.184.216.34"] == tried.hosts  # what was judged, literally; the name never reaches the connection
        assert [Result.FAILED] * 3 == [one.result for one in outcomes]
        assert ["refused by the test", "not public", "not public"] == [_short(one) for one in outcomes]

    async def test_of_public_and_private_addresses_only_the_public_ones_are_tried(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = Recorded()
        monkeypatch.setattr(asyncio, "open_connection", tried.connect)
        found = ["10.0.0.1", "93.184.216.34", "::1", "2606:4700::1111", "169.254.169.254"]
        options = fast_options("https://alerts.example.com/", allow_private=False)
        await Webhook("https://alerts.example.com/", options, SystemClock(), resolve=_rebinding(found)).post(TRANSITION)
        assert ["93.184.216.34", "2606:4700::1111"] == tried.hosts

    @pytest.mark.parametrize("address", ["169.254.169.254", "168.63.129.16", "10.1.2.3", "127.0.0.1", "fe80::1"])
    async def test_what_may_not_be_connected_to_waits_and_says_which_setting_allows_it(
        self, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = Recorded()
        monkeypatch.setattr(asyncio, "open_connection", tried.connect)
        options = fast_options("http://alerts.example.com/", allow_private=False)
        alerts = Alerts(options, SystemClock(), resolve=_rebinding([address]))
        await alerts.start()
        alerts.fire("A", "critical", "bad")
        await until(lambda: alerts.snapshot().failed >= 1)
        assert ([], 1) == (tried.hosts, alerts.snapshot().waiting)
        assert "B1_ALERT_ALLOW_PRIVATE=1" in str(alerts.snapshot().last_failure)
        await alerts.aclose()


class TestNothingIsLost:
    async def test_a_message_leaves_after_the_journal_knows_it_also_while_another_is_under_way(
        self, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post, known = Webhook.post, []

        async def look_first(webhook: Webhook, transition: Transition) -> Outcome:
            journal = await asyncio.to_thread((state_dir / "alerts.json").read_text)
            known.append(transition.id in [record["id"] for record in json.loads(journal)["waiting"]])
            return await post(webhook, transition)

        monkeypatch.setattr(Webhook, "post", look_first)
        async with receiving() as receiver:
            alerts = await started(fast_options(receiver.url, state_dir=state_dir))
            await until(lambda: alerts.snapshot().is_owner)
            for number in range(30):
                alerts.fire(f"A{number}", "warning", "")
                await asyncio.sleep(0.001 * (number % 3))
            await receiver.wait_for(30)
            await alerts.aclose()
        assert [True] * 30 == known

    async def test_a_wall_clock_that_is_put_right_by_years_drops_nothing(self) -> None:
        clock = JumpingClock()
        async with receiving(*[answer(500)] * 3) as receiver:
            alerts = await started(fast_options(receiver.url), clock)
            alerts.fire("A", "critical", "bad")
            await until(lambda: alerts.snapshot().failed >= 1)
            clock.jump(50 * 365 * 86_400)
            alerts.fire("B", "warning", "")
            await until(lambda: _delivered_while_time_passes(alerts, clock, 2))
            clock.jump(-100 * 365 * 86_400)
            alerts.resolve("A")
            await until(lambda: _delivered_while_time_passes(alerts, clock, 3))
            await alerts.aclose()
        assert 0 == alerts.snapshot().dropped
        ended = receiver.requests[-1].document["alerts"][0]
        assert ended["startsAt"] <= ended["endsAt"]

    async def test_every_transition_that_the_bound_allows_arrives_once_the_receiver_is_back(self) -> None:
        async with receiving(*[answer(500)] * 12) as receiver:
            alerts = await started(fast_options(receiver.url, cooldown_s=0.0, queue_limit=64))
            await until(lambda: alerts.snapshot().is_owner)
            for number in range(32):
                alerts.fire(f"A{number}", "warning", "")
                alerts.resolve(f"A{number}")
            await until(lambda: alerts.snapshot().delivered == 64)
            await alerts.aclose()
        said = {(request.id, request.said) for request in receiver.requests}
        expected = {(f"A{number}", status) for number in range(32) for status in ("firing", "resolved")}
        assert (64, expected, 0) == (len(said), {one for _, one in said}, alerts.snapshot().dropped)


class TestCooldownAndEscalation:
    async def test_a_worse_turn_is_told_at_once_whatever_the_cooldown(self, clock: ManualClock) -> None:
        async with receiving() as receiver:
            alerts = await started(fast_options(receiver.url, cooldown_s=300), clock)
            alerts.fire("Queue", "warning", "long")
            await receiver.wait_for(1)
            alerts.fire("Queue", "critical", "longer")
            alerts.fire("Queue", "warning", "long again")
            _, escalated = await receiver.wait_for(2)
            await alerts.aclose()
        told = [(one["labels"]["severity"], one["status"]) for one in escalated.document["alerts"]]
        assert [("critical", "firing"), ("warning", "resolved")] == told
        assert 2 == len(receiver.requests)


class JumpingClock(ManualClock):
    """A clock whose wall time can be set, as an operator or NTP does."""

    def jump(self, seconds: float) -> None:
        self._wall += seconds


class Recorded:
    """Notes where a connection would have gone."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    async def connect(self, host: str, *_: object, **__: object) -> Any:
        self.hosts.append(host)
        raise ConnectionRefusedError("refused by the test")


def _rebinding(*found: list[str]) -> Callable[[str, int], Any]:
    answers = list(found)

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    return resolve


def _short(outcome: Outcome) -> str:
    return "not public" if "is not public" in outcome.cause else outcome.cause


def _delivered_while_time_passes(alerts: Alerts, clock: ManualClock, count: int) -> bool:
    clock.advance(0.05)
    alerts._touch()  # the pause is on a clock that stands still: let the sender look at it again
    assert alerts._sender is not None
    alerts._sender._news.set()
    return alerts.snapshot().delivered >= count
