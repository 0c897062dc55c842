"""Every error b1 raises or answers with. Imports nothing of b1.

    B1Error
    ├── ConfigurationError            the start stops: what was seen, expected, and what to do
    │   ├── UnknownSetting
    │   ├── InvalidSetting
    │   └── MissingSecret
    ├── NotRunning                    a service was used outside the application's lifespan
    └── RequestError                  has an HTTP status; becomes an application/problem+json answer
        ├── MalformedRequest      400
        ├── Unauthenticated       401
        ├── Forbidden             403
        ├── CallerDenied          403   the caller is on the list of those who are never let in
        ├── BodyTooSlow           408
        ├── BodyTooLarge          413
        ├── HeadersTooLarge       431
        ├── IdempotencyError
        │   ├── IdempotencyKeyMissing     400
        │   ├── IdempotencyKeyInvalid     400
        │   ├── IdempotencyKeyReused      409 (or 422 by setting)
        │   ├── IdempotencyInFlight       409
        │   └── IdempotencyOutcomeNotStored  409   (in b1.idempotency.errors)
        ├── RateLimited           429
        ├── PenaltyActive         429
        ├── LeaseHeld             500   a task that holds a database lease asked for a second one
        ├── DeadlineExceeded      503
        ├── Overloaded            503
        ├── NotReady              503
        ├── DatabaseBusy          503   no slot within the deadline
        ├── DatabaseUnavailable   503   Postgres does not answer
        └── StoreUnavailable      503   neither Redis nor memory could take the record

`code` is stable and upper case, and each code has a section in docs/reference/errors.md.
"""

from __future__ import annotations


class B1Error(Exception):
    """Base of everything b1 raises on purpose."""

    code = "B1_ERROR"


class ConfigurationError(B1Error):
    """The configuration is wrong and the start stops; `remedy` says what to do."""

    code = "CONFIGURATION"

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message if remedy is None else f"{message}: {remedy}")
        self.remedy = remedy


class UnknownSetting(ConfigurationError):
    """A ``B1_*`` variable that nobody knows."""

    code = "UNKNOWN_SETTING"


class InvalidSetting(ConfigurationError):
    """A variable whose value does not parse, or is refused where it stands."""

    code = "INVALID_SETTING"


class MissingSecret(ConfigurationError):
    """Production lacks a secret."""

    code = "MISSING_SECRET"


class NotRunning(B1Error):
    """A service of b1 was used before the application's lifespan started or after it ended."""

    code = "NOT_RUNNING"


class RequestError(B1Error):
    """An error that a client receives as a problem document (RFC 9457).

    Args:
        detail: one sentence for the developer of the client; never a secret, never a stack.
        retry_after: seconds after which a repeat makes sense; None where waiting does not help.
    """

    code = "INTERNAL_ERROR"
    status = 500
    title = "Internal error"
    retry_after: float | None = None

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        if retry_after is not None:
            self.retry_after = retry_after


class MalformedRequest(RequestError):
    """The request cannot be read at all: broken JSON, a NUL, a length that lies."""

    code, status, title = "MALFORMED_REQUEST", 400, "The request cannot be read"


class Unauthenticated(RequestError):
    """Nobody is known to call; the answer carries ``WWW-Authenticate``."""

    code, status, title = "UNAUTHENTICATED", 401, "Valid credentials are needed"


class Forbidden(RequestError):
    """The caller is known and may not do this."""

    code, status, title = "FORBIDDEN", 403, "Not allowed"


class CallerDenied(RequestError):
    """The caller's address or actor is on the list of those who are never let in."""

    code, status, title = "CALLER_DENIED", 403, "Not allowed"


class BodyTooSlow(RequestError):
    """The body stopped coming, or came too slowly; the connection is closed."""

    code, status, title = "REQUEST_TIMEOUT", 408, "The request body did not arrive in time"
    headers = ((b"connection", b"close"),)


class BodyTooLarge(RequestError):
    """More bytes arrived than are accepted here."""

    code, status, title = "BODY_TOO_LARGE", 413, "The request body is too large"


class HeadersTooLarge(RequestError):
    """Request line and headers are over their bound; the connection is closed."""

    code, status, title = "HEADERS_TOO_LARGE", 431, "The request line or the headers are too large"


class IdempotencyError(RequestError):
    """Base of what can be wrong with an idempotency key."""


class IdempotencyKeyMissing(IdempotencyError):
    """The route demands a key and none came."""

    code, status, title = "IDEMPOTENCY_KEY_MISSING", 400, "This route needs an Idempotency-Key"


class IdempotencyKeyInvalid(IdempotencyError):
    """The key is empty, too long, not visible ASCII, or given twice."""

    code, status, title = "IDEMPOTENCY_KEY_INVALID", 400, "The Idempotency-Key is malformed"


class IdempotencyKeyReused(IdempotencyError):
    """The key belongs to a request with another payload."""

    code, status, title = (
        "IDEMPOTENCY_KEY_REUSED",
        409,
        "This Idempotency-Key was used for another request",
    )


class IdempotencyInFlight(IdempotencyError):
    """The first request with this key still runs."""

    code, status, title = (
        "IDEMPOTENCY_IN_FLIGHT",
        409,
        "The first request with this Idempotency-Key is still running",
    )
    retry_after = 1.0


class RateLimited(RequestError):
    """A policy has no quota left for this caller."""

    code, status, title = (
        "RATE_LIMIT_EXCEEDED",
        429,
        "Request cannot be satisfied as assigned quota has been exceeded",
    )
    retry_after: float | None = 1.0


class PenaltyActive(RequestError):
    """The caller is shut out for a while after repeated offences."""

    code, status, title = "PENALTY_ACTIVE", 429, "Requests are refused after repeated offences"
    retry_after = 60.0


class LeaseHeld(RequestError):
    """The task already holds a database lease and asked to wait for another one.

    With three connections for the whole host, waiting for a second one while holding the first is how three tasks
    lock each other out. Use the lease you hold, or leave its block first.
    """

    code, status, title = "LEASE_HELD", 500, "A second database lease was asked for"


class DeadlineExceeded(RequestError):
    """The work took longer than its deadline."""

    code, status, title = "DEADLINE_EXCEEDED", 503, "The request ran out of time"
    retry_after = 1.0


class Overloaded(RequestError):
    """More is in work than the box can finish in time."""

    code, status, title = "OVERLOADED", 503, "The service is at its limit"
    retry_after = 1.0


class NotReady(RequestError):
    """The service is starting or stopping."""

    code, status, title = "NOT_READY", 503, "The service is starting or stopping"
    retry_after = 1.0


class DatabaseBusy(RequestError):
    """No connection came free within the deadline, or too many callers were waiting already."""

    code, status, title = "DB_BUSY", 503, "No database connection came free in time"
    retry_after = 1.0


class DatabaseUnavailable(RequestError):
    """Postgres does not answer, or the connection was lost in use; then the outcome may be unknown."""

    code, status, title = "DB_UNAVAILABLE", 503, "The database does not answer"
    retry_after = 2.0


# SQLSTATEs of a transaction that lost against another one: serialization failure, deadlock, lock timeout.
_LOST_AGAINST_ANOTHER = frozenset({"40001", "40P01", "55P03"})


def transient(error: Exception) -> RequestError | None:
    """Return the 503 for an error of Postgres that goes away when the request is repeated; None for every other one."""
    if getattr(error, "sqlstate", None) in _LOST_AGAINST_ANOTHER:
        return DatabaseBusy("the transaction lost against another one: repeat the request")
    return None


class StoreUnavailable(RequestError):
    """Neither Redis nor memory could take the record."""

    code, status, title = "STORE_UNAVAILABLE", 503, "The state store cannot take the record"
    retry_after = 1.0
