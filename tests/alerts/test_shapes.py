"""Bodies field for field, and signatures against published vectors."""

from __future__ import annotations

import json

import pytest

from b1.alerts.alert import (
    Alert,
    Severity,
    Transition,
    bounded_annotations,
    transition_from,
)
from b1.alerts.shapes import fingerprint, render
from b1.alerts.signing import make_signer
from b1.errors import InvalidSetting
from b1.outbound import Signer
from tests.alerts.receiver import SECRET

FIRING = Transition(
    "msg_1",
    Alert(
        "B1MemoryCritical",
        Severity.CRITICAL,
        "1600 MiB of 1750 MiB in use",
        {"level": "critical", "bytes": "1677721600", "limit": "1835008000"},
        1_750_000_000.25,
    ),
    "box-1",
    1_750_000_000.25,
)
RESOLVED = Transition(
    "msg_2",
    Alert("B1MemoryHigh", Severity.WARNING, "much", {"level": "normal"}, 1_750_000_000.0, 1_750_000_060.0),
    "box-1",
    1_750_000_060.0,
)


def test_the_body_has_alertmanagers_fields() -> None:
    labels = {"alertname": "B1MemoryCritical", "severity": "critical", "instance": "box-1"}
    annotations = {
        "summary": "1600 MiB of 1750 MiB in use",
        "level": "critical",
        "bytes": "1677721600",
        "limit": "1835008000",
    }
    assert json.loads(render("alertmanager", FIRING, "https://app.example/dashboard")) == {
        "version": "4",
        "groupKey": '{}:{alertname="B1MemoryCritical"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "b1",
        "groupLabels": {"alertname": "B1MemoryCritical"},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "https://app.example/dashboard",
        "alerts": [
            {
                "status": "firing",
                "labels": labels,
                "annotations": annotations,
                "startsAt": "2025-06-15T15:06:40.250Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "https://app.example/dashboard",
                "fingerprint": fingerprint(labels),
            }
        ],
    }


def test_a_resolved_alert_says_when_it_ended() -> None:
    document = json.loads(render("alertmanager", RESOLVED, ""))
    (alert,) = document["alerts"]
    assert (document["status"], alert["status"], alert["endsAt"]) == (
        "resolved", "resolved", "2025-06-15T15:07:40.000Z",
    )  # fmt: skip


def test_beginning_and_end_share_a_fingerprint() -> None:
    end = Transition("msg_3", Alert("A", Severity.WARNING, "", {}, 1.0, 2.0), "box-1", 2.0)
    begin = Transition("msg_4", Alert("A", Severity.WARNING, "", {}, 1.0), "box-1", 1.0)
    found = {json.loads(render("alertmanager", one, ""))["alerts"][0]["fingerprint"] for one in (begin, end)}
    assert len(found) == 1


def test_the_fingerprint_is_that_of_prometheus() -> None:
    # Both from the tests of prometheus/common.
    assert int(fingerprint({}), 16) == 14695981039346656037
    assert int(fingerprint({"name": "garland, briggs", "fear": "love is not enough"}), 16) == 5799056148416392346


def test_an_escalation_ends_the_milder_series() -> None:
    alert = Alert("Disk", Severity.CRITICAL, "full", {}, 1.0)
    document = json.loads(render("alertmanager", Transition("m", alert, "box", 5.0, Severity.WARNING), ""))
    assert [(one["labels"]["severity"], one["status"]) for one in document["alerts"]] == [
        ("critical", "firing"),
        ("warning", "resolved"),
    ]
    assert document["commonLabels"] == {"alertname": "Disk", "instance": "box"}


def test_slack_gets_text_and_blocks_without_markup_of_ours() -> None:
    alert = Alert("A", Severity.WARNING, "a <b> & c", {"level": "high"}, 1.0)
    document = json.loads(render("slack", Transition("m", alert, "box", 1.0), "https://app.example"))
    assert document["text"] == "[WARNING] A: a &lt;b&gt; &amp; c"
    assert "*level:* high" in document["blocks"][0]["text"]["text"]
    assert document["blocks"][1]["text"]["text"] == "<https://app.example|Look at it>"


def test_teams_gets_an_adaptive_card() -> None:
    document = json.loads(render("teams", FIRING, ""))
    (attachment,) = document["attachments"]
    card = attachment["content"]
    assert (document["type"], attachment["contentType"], card["type"], card["version"]) == (
        "message", "application/vnd.microsoft.card.adaptive", "AdaptiveCard", "1.4",
    )  # fmt: skip
    assert card["body"][0]["text"] == "[CRITICAL] B1MemoryCritical"
    assert {"title": "bytes", "value": "1677721600"} in card["body"][1]["facts"]


@pytest.mark.parametrize("shape", ["alertmanager", "slack", "teams"])
def test_the_largest_message_is_bounded(shape: str) -> None:
    annotations = bounded_annotations({f"name-{n}": "x" * 10_000 for n in range(100)})
    alert = Alert("A" * 100, Severity.CRITICAL, "s" * 500, annotations, 1.0)
    assert len(render(shape, Transition("m", alert, "box", 1.0), "")) < 80_000


def test_texts_that_cannot_be_encoded_are_still_told() -> None:
    alert = Alert("A", Severity.WARNING, "", bounded_annotations({"file": "\udcff.bin"}), 1.0)
    assert b"?.bin" in render("alertmanager", Transition("m", alert, "box", 1.0), "")


def test_a_transition_survives_being_written_down() -> None:
    assert transition_from(json.loads(json.dumps(FIRING.as_record()))) == FIRING
    assert transition_from(json.loads(json.dumps(RESOLVED.as_record()))) == RESOLVED


def test_the_signature_is_that_of_the_published_vector() -> None:
    headers = dict(Signer(SECRET).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', 1614265330.9))
    assert headers == {
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_two_secrets_give_two_signatures_while_one_replaces_the_other() -> None:
    both = dict(Signer(f"{SECRET} whsec_c2Vjb25kIHNlY3JldCBvZiB0aGlzIHRlc3Q").headers("m", b"{}", 1.0))
    alone = dict(Signer(SECRET).headers("m", b"{}", 1.0))
    first, second = both["webhook-signature"].split(" ")
    assert first == alone["webhook-signature"]
    assert second.startswith("v1,") and second != first


@pytest.mark.parametrize("text", ["", "plain", "whsec_", "whsec_***", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
def test_a_secret_that_is_none_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        make_signer(text)
    assert text not in ("", "whsec_", "whsec_***") or "=*** does not parse" in str(refused.value)
    assert "MfKQ" not in str(refused.value)
