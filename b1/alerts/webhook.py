"""One attempt to tell a transition, and what its outcome means for the next one. Never raises for what a receiver does.

The log names the host at most: such URLs are secrets.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from b1.alerts.alert import Alert, Severity, Transition
from b1.alerts.options import AlertOptions
from b1.alerts.shapes import render
from b1.alerts.signing import make_signer
from b1.alerts.target import Target, parse_target
from b1.clock import Clock
from b1.outbound import Answer, Resolve, Signer, Wire, retry_after_s

PREPARE_S = 3.0
_ASKING_FOR_TIME = (429, 503)
_GONE = 410


class Result(enum.Enum):
    """What became of an attempt."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`retry_after_s` is what the receiver asked for; `cause` is for the log."""

    result: Result
    cause: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Reach:
    """Where to and as whom: replaced as a whole, so that an attempt that runs meanwhile is of one piece."""

    target: Target
    signer: Signer | None
    wire: Wire


class Webhook:
    """The one receiver.

    Raises:
        InvalidSetting: the URL or the secret cannot be used.
    """

    def __init__(self, url: str, options: AlertOptions, clock: Clock, *, resolve: Resolve | None = None) -> None:
        self._options = options
        self._clock = clock
        self._resolve = resolve
        self._reach = self._reaching(url, options.secret, None)

    def __repr__(self) -> str:
        target = self._reach.target
        return f"<Webhook {target.shape} to {target.host}:{target.port}>"

    def use(self, url: str, secret: str | None) -> None:
        """Send to another URL or with another secret from the next attempt on.

        Raises:
            InvalidSetting: one of them cannot be used; nothing has changed then.
        """
        self._reach = self._reaching(url, secret, self._reach.wire)

    async def prepare(self) -> None:
        """Rehearse everything but the sending, so that under memory pressure nothing is loaded or imported first."""
        reach = self._reach
        self._message(reach, Transition("msg_rehearsal", Alert("B1Rehearsal", Severity.WARNING, ""), "", 0.0))
        await reach.wire.prepare(PREPARE_S)

    async def post(self, transition: Transition) -> Outcome:
        """Make one attempt."""
        reach = self._reach
        body, headers = self._message(reach, transition)
        try:
            answer = await reach.wire.post(body, headers, limit_s=self._options.attempt_timeout_s)
        except TimeoutError:
            return Outcome(Result.FAILED, f"no answer within {self._options.attempt_timeout_s:g} s")
        except OSError as error:
            return Outcome(Result.FAILED, str(error) or type(error).__name__)
        return _outcome(answer, self._clock.wall())

    def _reaching(self, url: str, secret: str | None, before: Wire | None) -> _Reach:
        target = parse_target(url)
        wire = Wire(
            target,
            allow_private=self._options.allow_private,
            agent="b1-alerts",
            allowed_by="; B1_ALERT_ALLOW_PRIVATE=1 allows it",
            resolve=self._resolve,
            before=before,
        )
        return _Reach(target, None if secret is None else make_signer(secret), wire)

    def _message(self, reach: _Reach, transition: Transition) -> tuple[bytes, list[tuple[str, str]]]:
        body = render(reach.target.shape, transition, self._options.external_url)
        headers = [("webhook-id", transition.id)]
        if reach.signer is not None:
            headers += reach.signer.headers(transition.id, body, self._clock.wall())
        return body, headers


def _outcome(answer: Answer, now_s: float) -> Outcome:
    cause = f"status {answer.status}"
    if 200 <= answer.status < 300:
        return Outcome(Result.DELIVERED, cause)
    if answer.status == _GONE:
        return Outcome(Result.GONE, cause)
    if 300 <= answer.status < 400:
        cause += ", and redirects are not followed"
    asked = retry_after_s(answer.headers.get("retry-after"), now_s) if answer.status in _ASKING_FOR_TIME else None
    return Outcome(Result.FAILED, cause, asked)
