"""What the limiter says: the caller, the state of each policy, one decision. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

# Of a policy, what no request changes: name, limit, window_s.
Told = tuple[str, int, int]
# Where it stands: allowed, used, remaining, retry_after_ms, renew_ms, reset_ms; see `b1.store.base.Balance`.
Stand = tuple[bool, int, int, int, int, int]
# A named tuple made by its own constructor costs twice as much, and some are made for every request.
_new = tuple.__new__


class Caller(NamedTuple):
    """Whom a request is counted against. A tuple, because it is looked up for every request.

    Attributes:
        address: canonical, from `client_address`.
        actor: who; None when anonymous.
        organization: the tenant the request acts in.
        role: scales policies that ask for it.
        tier: picks the quota.
        keys: policy names with a text that they count instead of what their scope says.
    """

    address: str
    actor: str | None = None
    organization: str | None = None
    role: str = "MEMBER"
    tier: str = "free"
    keys: tuple[tuple[str, str], ...] = ()


# Against whom a refusal counts as an offence: the actor (or the address of one without), the address, or nobody.
Blame = Literal["caller", "address", "nobody"]


class PolicyState(NamedTuple):
    """Where one policy stands for one caller.

    Attributes:
        limit: the quota; of a bucket its burst, so that `remaining` and `used` add up to it. While Redis is away this
            process's part.
        reset_s: until the whole quota is there again if nobody calls; when nothing remains, until the first unit is.
        window_s: 0 where the policy has none (concurrency).
    """

    name: str
    limit: int
    remaining: int
    used: int
    reset_s: int
    window_s: int


class Passing(NamedTuple):
    """The states of policies that all let a request pass. Hardly anybody looks at more than the nearest."""

    told: tuple[Told, ...]
    stands: Sequence[Stand]

    def states(self) -> tuple[PolicyState, ...]:
        """Return all of them."""
        return tuple([passing_state(told, stand) for told, stand in zip(self.told, self.stands, strict=True)])


def passing_state(told: Told, stand: Stand) -> PolicyState:
    """Return the state of a policy that lets a request pass."""
    name, limit, window_s = told
    _, used, remaining, _, renew_ms, reset_ms = stand
    wait_ms = reset_ms if remaining else renew_ms
    return _new(PolicyState, (name, limit, remaining, used, -(-wait_ms // 1000), window_s))


class Decision(NamedTuple):
    """The limiter's whole answer for one request.

    Attributes:
        allowed: whether the request may pass.
        violated: names of the policies that refuse.
        nearest: the policy nearest to exhaustion, or the one that refuses longest; None when no policy applied.
        shown: all policies that are shown, in the order they were asked for; read `states`.
        retry_after_s: at least 1 when refused, else 0.
        tier: the caller's.
        mode: ``memory``, ``redis`` or ``local``: who counted.
        now_s: the store's wall clock, whole seconds since 1970.
        shadowed: names of shadow policies that would have refused.
        is_penalty: refused after repeated offences, whatever the policies say.
        is_denied: refused for ever: the caller is on the list of those who are never let in.
    """

    allowed: bool
    violated: tuple[str, ...]
    nearest: PolicyState | None
    shown: tuple[PolicyState, ...] | Passing
    retry_after_s: int
    tier: str
    mode: str
    now_s: int
    shadowed: tuple[str, ...] = ()
    is_penalty: bool = False
    is_denied: bool = False

    @property
    def states(self) -> tuple[PolicyState, ...]:
        """Where each policy stands that is shown, in the order they were asked for."""
        return self.shown.states() if isinstance(self.shown, Passing) else self.shown
