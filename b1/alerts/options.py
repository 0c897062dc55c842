"""What the alerts are told: where to send, as whom, and every bound."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertOptions:
    """Options of `Alerts`.

    Attributes:
        url: the receiver; None tells nobody but the handlers. ``slack+https://…`` and ``teams+https://…`` choose a form.
        secret: ``whsec_…``; several, separated by spaces, while a secret is being rotated. None sends unsigned.
        url_file, secret_file: where they were read from, and are read again; None where they came otherwise.
        instance: this host in the labels.
        external_url: where a person looks further.
        state_dir: where undelivered and firing alerts are kept for the next worker; None keeps nothing.
        allow_private: loopback, private and link-local receivers are allowed.
        family: which server this worker belongs to. Cool-downs pass to a successor of the same family only, so that a
            server that was started anew speaks at once.
        cooldown_s: least time between two messages that the same alert fires.
        settle_s: how long a successor waits before it resolves what its predecessor fired and it does not see itself.
        overlap_s: how long a successor keeps silent while its predecessor still lives.
        queue_limit: undelivered messages that are held.
        keep_s: age at which an undelivered message is given up.
        attempt_timeout_s: for one attempt, from the name's resolution to the answer's head.
        backoff_first_s, backoff_max_s: pause after the first failure in a row, and the longest one.
        retry_after_max_s: longest pause that a receiver may ask for.
        flush_s: how long a stop waits for what is not delivered.
        handler_timeout_s: longest run of one asynchronous handler.
    """

    url: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    url_file: Path | None = None
    secret_file: Path | None = None
    instance: str = "localhost"
    external_url: str = ""
    state_dir: Path | None = None
    allow_private: bool = False
    family: str = field(default_factory=lambda: str(os.getppid()))
    cooldown_s: float = 300.0
    settle_s: float = 5.0
    overlap_s: float = 40.0
    queue_limit: int = 64
    keep_s: float = 86_400.0
    attempt_timeout_s: float = 10.0
    backoff_first_s: float = 1.0
    backoff_max_s: float = 300.0
    retry_after_max_s: float = 3600.0
    flush_s: float = 1.5
    handler_timeout_s: float = 10.0
