"""What can be chosen about idempotency: per route, and once for the service.

The route's `transactional` flag is a promise of the author: every effect of the handler goes through
``attempt.transaction()``. With it Postgres alone decides who runs, and the store is only faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from b1.errors import InvalidSetting
from b1.idempotency.headers import forbidden_header
from b1.idempotency.spool import SpoolOptions
from b1.plan import IDEMPOTENCY_LEASE_S, IDEMPOTENCY_TTL_S, IDEMPOTENCY_WAIT_S
from b1.types import Principal
from b1.units import KIB, MIB

MAX_STORED_BODY_BYTES = MIB
# Long enough for a double click and the retry of a proxy, too short to take two intentions for one.
AUTO_KEY_S = 10.0
_MISMATCH_STATUSES = (409, 422)
# Asked with a JSON object's members whether a request without a key gets one made from it.
AutoKey = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class IdempotencyOptions:
    """What one route declares.

    Attributes:
        enabled: False is "off": keys on this route mean nothing, as if it declared nothing.
        required: a request without a key is refused with 400.
        transactional: all effects of the handler are made in ``attempt.transaction()``. Then a key whose owner died is
            taken over at once and an absent store changes nothing. Without it the store's lease decides.
        wait_s: how long a duplicate waits for the running one before it gets 409; it holds no connection meanwhile.
        ttl_s: how long an outcome is kept.
        auto_key: a request without a key gets one made from all that it asks; True, or a function that is asked with the
            members of the body, which is then a JSON object. A guard against double submits: for `auto_key_s` the same
            request of the same actor gets the first one's answer, even where two were meant. So it is for routes alone
            where nobody means two.
        auto_key_s: how long the outcome of such a request is kept.
        mismatch_status: answer for a key with another payload: 409 or 422; None: the service's own.
        request_limit_bytes: largest request body with a key; None: the route's, else the profile's.
        lease_s: how long a silent owner keeps its claim; a living one renews it at a third of this.
        body_cap_bytes: largest response body that is stored; at most 1 MiB.
        stored_headers: response headers that are replayed besides the usual ones (`STORED_HEADERS`).
        canonical_json: two JSON bodies that differ in white space and member order alone count as the same payload, up
            to 64 KiB; longer ones, and with False all, count by their bytes.
        allow: the route's own authorisation, asked before a key is looked up, since a stored answer is served without
            running the handler. None: being the same actor in the same organisation is enough.
    """

    required: bool = False
    transactional: bool = False
    wait_s: float = IDEMPOTENCY_WAIT_S
    ttl_s: float = IDEMPOTENCY_TTL_S
    lease_s: float = IDEMPOTENCY_LEASE_S
    body_cap_bytes: int = 64 * KIB
    canonical_json: bool = True
    allow: Callable[[Principal], bool] | None = None
    enabled: bool = True
    auto_key: bool | AutoKey = False
    auto_key_s: float = AUTO_KEY_S
    mismatch_status: int | None = None
    request_limit_bytes: int | None = None
    stored_headers: tuple[str, ...] = ()
    for_auto: IdempotencyOptions | None = field(init=False, default=None, repr=False, compare=False)
    """The same, for requests whose key is made from them; None where none is."""

    def __post_init__(self) -> None:
        _require(
            0 < self.body_cap_bytes <= MAX_STORED_BODY_BYTES, "body_cap_bytes", self.body_cap_bytes, "1 to 1048576"
        )
        _require(0 <= self.wait_s <= 60, "wait_s", self.wait_s, "0 to 60 seconds")
        _require(self.lease_s >= 1, "lease_s", self.lease_s, "at least 1 second")
        _require(self.ttl_s >= 1, "ttl_s", self.ttl_s, "at least 1 second")
        _require(1 <= self.auto_key_s <= 60, "auto_key_s", self.auto_key_s, "1 to 60 seconds")
        _require(not (self.required and self.auto_key), "auto_key", self.auto_key, "False where a key is required")
        _require(
            self.mismatch_status in (None, *_MISMATCH_STATUSES), "mismatch_status", self.mismatch_status, "409 or 422"
        )
        _require(
            self.request_limit_bytes is None or self.request_limit_bytes >= 0,
            "request_limit_bytes",
            self.request_limit_bytes,
            "0 or more",
        )
        for name in self.stored_headers:
            _require(not forbidden_header(name), "stored_headers", name, "a header that says something of the outcome")
        if self.auto_key:
            object.__setattr__(self, "for_auto", replace(self, auto_key=False, ttl_s=self.auto_key_s))


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What holds for all routes.

    Attributes:
        mismatch_status: answer for a key that comes back with another payload: 409, or 422 as in the IETF draft.
        max_waiters: duplicates that may wait for one key in this process.
        max_running: attempts that may run in this process, those whose client has left included.
        poll_s: pause between two looks at a key that another process owns.
        lock_timeout_ms: how long the claim in Postgres waits for a rival's open transaction.
        acquire_timeout_s: longest wait for a database connection.
        settle_s: how long an outcome may take to become certain once the answer is known.
        purge_interval_s: pause between two rounds of deleting expired rows; 0 switches the task off.
        purge_batch: rows deleted per round trip.
        drain_s: how long `aclose` waits for running attempts.
        quoted_only: a bare key is refused, as is ``X-Idempotency-Key``: the IETF draft to the letter.
        described_by: address of the application's own page about its keys, sent with every refusal
            (``Link: …; rel="describedby"``, as the draft has it).
        spool: where large request bodies wait.
    """

    mismatch_status: int = 409
    max_waiters: int = 4
    max_running: int = 512
    poll_s: float = 0.1
    lock_timeout_ms: int = 250
    acquire_timeout_s: float = 5.0
    settle_s: float = 5.0
    purge_interval_s: float = 300.0
    purge_batch: int = 500
    drain_s: float = 10.0
    quoted_only: bool = False
    described_by: str | None = None
    spool: SpoolOptions = SpoolOptions()

    def __post_init__(self) -> None:
        _require(self.mismatch_status in _MISMATCH_STATUSES, "mismatch_status", self.mismatch_status, "409 or 422")
        _require(self.max_waiters >= 0, "max_waiters", self.max_waiters, "0 or more")
        _require(self.max_running >= 1, "max_running", self.max_running, "1 or more")
        _require(self.poll_s > 0, "poll_s", self.poll_s, "more than 0 seconds")
        _require(self.lock_timeout_ms >= 1, "lock_timeout_ms", self.lock_timeout_ms, "1 or more (0 waits for ever)")
        _require(self.purge_batch >= 1, "purge_batch", self.purge_batch, "1 or more")


def _require(holds: bool, name: str, seen: object, expected: str) -> None:
    if not holds:
        raise InvalidSetting(f"idempotency {name} is {seen}", remedy=f"expected {expected}")
