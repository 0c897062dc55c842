"""What the reference tells a receiver to do works."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from b1.alerts.alert import Alert, Severity, Transition
from b1.alerts.shapes import fingerprint, render
from b1.outbound import Signer
from tests.alerts.receiver import SECRET

PAGE = (Path(__file__).parents[2] / "docs/reference/alerts.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_verifier_on_the_page_accepts_ours_and_nothing_else() -> None:
    names: dict[str, Any] = {}
    exec(block("python"), names)  # noqa: S102  # the page's own code
    body = b'{"a": 1}'
    headers = {"webhook-id": "msg_1", **dict(Signer(SECRET).headers("msg_1", body, time.time()))}
    assert names["verify"](headers, body, SECRET)
    assert not names["verify"](headers, body + b" ", SECRET)
    assert not names["verify"](headers | {"webhook-id": "msg_2"}, body, SECRET)


def test_the_message_on_the_page_has_the_fields_that_are_sent() -> None:
    shown = json.loads(block("json"))
    annotations = {name: text for name, text in shown["commonAnnotations"].items() if name != "summary"}
    alert = Alert(
        "B1MemoryCritical", Severity.CRITICAL, shown["commonAnnotations"]["summary"], annotations, 1_795_255_350.412
    )
    sent = json.loads(render("alertmanager", Transition("m", alert, "pantry-7f3a", 0.0), ""))
    assert sent == shown
    assert fingerprint(shown["commonLabels"]) == shown["alerts"][0]["fingerprint"]
