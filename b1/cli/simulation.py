"""What a log of requests would get from a table of policies: the real limiter, in memory, on a clock that the log moves.

Nothing is asked of anybody and nothing leaves the process, so a table can be tried on last week's traffic before it bites.
What the log does not say cannot be simulated: a route whose class stands in its body gets the policies that it falls
back to, unless the log names them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from b1.asgi.context import RequestContext
from b1.asgi.limiting import Limiting
from b1.asgi.limits import DefaultPolicies, Limits, policies_by_method
from b1.asgi.routes import RouteTable
from b1.cli.limits import columns
from b1.cli.target import find_target
from b1.cli.traffic import Request, Unreadable, read
from b1.clock import ManualClock
from b1.errors import ConfigurationError
from b1.limiter import DEFAULT_POLICIES, Caller, Decision, Limiter, PolicyTable
from b1.limiter.address import canonical
from b1.metrics import Metrics
from b1.store.memory import MemoryStore
from b1.types import Principal
from b1.units import MIB

# Room for half a million callers: a simulation has the whole machine, and an overflow would be a different result.
STORE_BYTES = 512 * MIB
_PENALTY = "penalty"


@dataclass(frozen=True, slots=True)
class Rules:
    """Which policies there are, and which of them a request spends."""

    table: PolicyTable = field(default_factory=lambda: DEFAULT_POLICIES)
    default: DefaultPolicies = policies_by_method
    anonymous: tuple[str, ...] | None = None
    routes: RouteTable = field(default_factory=lambda: RouteTable(()))


class HasRules(Protocol):
    """A profile, as far as it is needed here."""

    limiting: Limiting
    default_policies: DefaultPolicies
    anonymous_policies: tuple[str, ...] | None


@dataclass(slots=True)
class Count:
    """Requests of one policy or one caller. `first_s`: of the first refusal."""

    requests: int = 0
    refused: int = 0
    shadow: int = 0
    first_s: float | None = None

    def add(self, at_s: float, *, refused: bool, shadow: bool = False) -> None:
        self.requests += 1
        self.shadow += shadow
        if refused:
            self.refused += 1
            self.first_s = at_s if self.first_s is None else self.first_s


class Refusal(NamedTuple):
    """One request that would be refused."""

    at_s: float
    caller: str
    method: str
    path: str
    policies: tuple[str, ...]
    retry_after_s: int


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        unreadable: lines that are no request; `first_unreadable` says which was the first and why.
        late: requests that are older than one before them; they were judged at the newest time.
        unlimited: requests to which no policy applied.
        penalised: requests of callers who were shut out after repeated offences, whatever their quotas.
        shared: requests that found no room for a counter of their own, so that the result is too strict.
    """

    shown: int
    total: Count = field(default_factory=Count)
    begins_s: float = 0.0
    ends_s: float = 0.0
    unreadable: int = 0
    first_unreadable: str = ""
    late: int = 0
    unlimited: int = 0
    penalised: int = 0
    shared: int = 0
    policies: dict[str, Count] = field(default_factory=dict)
    callers: dict[str, Count] = field(default_factory=dict)
    first: list[Refusal] = field(default_factory=list)

    def worst(self) -> list[tuple[str, Count]]:
        """Return the callers that are refused most."""
        refused = [(name, count) for name, count in self.callers.items() if count.refused]
        return sorted(refused, key=lambda one: (-one[1].refused, one[0]))[: self.shown]

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.total.requests,
            "allowed": self.total.requests - self.total.refused,
            "refused": self.total.refused,
            "begins": _iso(self.begins_s),
            "ends": _iso(self.ends_s),
            "unreadable": self.unreadable,
            "first_unreadable": self.first_unreadable or None,
            "late": self.late,
            "unlimited": self.unlimited,
            "penalised": self.penalised,
            "shared": self.shared,
            "callers": len(self.callers),
            "callers_refused": sum(1 for count in self.callers.values() if count.refused),
            "policies": {name: _count(count) for name, count in self.policies.items()},
            "worst_callers": {name: _count(count) for name, count in self.worst()},
            "first_refusals": [{**one._asdict(), "at_s": _iso(one.at_s)} for one in self.first],
        }

    def as_text(self) -> Iterable[str]:
        total, refused = self.total.requests, self.total.refused
        yield (
            f"{total} requests of {len(self.callers)} callers, {_iso(self.begins_s)} to {_iso(self.ends_s)}: "
            f"{total - refused} would pass, {refused} would be refused ({refused / total:.1%})"
        )
        if self.unreadable:
            yield f"{self.unreadable} lines were left out; the first: {self.first_unreadable}"
        if self.late:
            yield f"{self.late} requests were out of order and judged at the newest time before them"
        if self.unlimited:
            yield f"{self.unlimited} requests met no policy"
        if self.penalised:
            yield f"{self.penalised} of the refusals were penalties for repeated offences"
        if self.shared:
            yield f"{self.shared} requests shared a counter for want of room: the result is too strict"
        yield ""
        yield from columns(
            ("policy", "requests", "refused", "in shadow", "first refusal"),
            [_row(name, count) for name, count in sorted(self.policies.items())],
        )
        if self.first:
            yield ""
            yield from columns(
                ("caller, most refused first", "requests", "refused", "in shadow", "first refusal"),
                [_row(name, count) for name, count in self.worst()],
            )
            yield ""
            yield from columns(
                ("first refusals", "caller", "request", "policies", "retry after"),
                [_refusal_row(one) for one in self.first],
            )


class Simulation:
    """One limiter, one clock, one report."""

    def __init__(self, rules: Rules, *, shown: int) -> None:
        self._rules = rules
        self._shown = shown
        self._clock = ManualClock(monotonic=0.0, wall=0.0)
        self._store = MemoryStore(STORE_BYTES, self._clock)
        self._limiter = Limiter(self._store, rules.table)
        self._limits = Limits(
            self._limiter, Metrics(), default=rules.default, upgrade_url="", anonymous=rules.anonymous
        )
        self.report = Report(shown)

    def judge(self, request: Request) -> Decision:
        """Return the decision about a request, and count it.

        Raises:
            ConfigurationError: the log names a policy that is not in the table.
        """
        report, late_s = self.report, self._clock.wall() - request.at_s
        if not report.total.requests:
            report.begins_s = request.at_s
        if late_s > 0:
            report.late += 1
        else:
            self._clock.advance(-late_s)
        report.ends_s = self._clock.wall()
        context = self._context(request)
        names = request.policies or self._limits.of(context, context.route.options.limits, request.method)
        decision = self._limiter.check_now(names, _caller(context), cost=request.cost)
        assert decision is not None  # the memory store answers at once
        self._note(request, names, decision)
        return decision

    def close(self) -> Report:
        """Return the report."""
        self.report.shared = self._store.overflowed
        return self.report

    def _context(self, request: Request) -> RequestContext:
        route, values = self._rules.routes.find(request.method, request.path)
        context = RequestContext("", 0.0, route, values, {})
        context.client = canonical(request.address)
        if request.actor is not None:
            context.principal = Principal(request.actor, request.organization, request.role, request.tier)
        return context

    def _note(self, request: Request, names: tuple[str, ...], decision: Decision) -> None:
        report, at_s, is_refused = self.report, self._clock.wall(), not decision.allowed
        caller = _label(request)
        report.total.add(at_s, refused=is_refused)
        report.callers.setdefault(caller, Count()).add(at_s, refused=is_refused, shadow=bool(decision.shadowed))
        for name in names:
            report.policies.setdefault(name, Count()).add(
                at_s, refused=name in decision.violated, shadow=name in decision.shadowed
            )
        report.unlimited += not names
        report.penalised += decision.is_penalty
        if is_refused and len(report.first) < self._shown:
            refusal = Refusal(
                at_s, caller, request.method, request.path, decision.violated or (_PENALTY,), decision.retry_after_s
            )
            report.first.append(refusal)


def simulate(lines: Iterable[str], rules: Rules, *, shown: int = 10) -> Report:
    """Run a log through the limiter.

    Raises:
        ConfigurationError: no line of it is a request.
    """
    simulation = Simulation(rules, shown=shown)
    report = simulation.report
    for number, found in read(lines):
        if isinstance(found, Request):
            try:
                simulation.judge(found)
                continue
            except ConfigurationError as unknown:
                found = Unreadable(str(unknown))
        report.unreadable += 1
        report.first_unreadable = report.first_unreadable or f"line {number}: {found}"
    if not report.total.requests:
        raise ConfigurationError("no line of the log is a request", remedy=report.first_unreadable)
    return simulation.close()


def load_rules(name: str | None) -> Rules:
    """Return the rules of ``module:attribute``: a `PolicyTable`, a `B1`, or an application that has one.

    Raises:
        ConfigurationError: no such module or attribute, or it is none of these.
    """
    if name is None:
        return Rules()
    target = find_target(name)
    module, _, attribute = name.partition(":")
    sys.path.insert(0, str(target.top_folder))
    value: Any = importlib.import_module(module)
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise ConfigurationError(f"module {module!r} has no {attribute!r}", remedy="check the attribute") from None
    if isinstance(value, PolicyTable):
        return Rules(value)
    profile: HasRules | None = getattr(value, "__b1__", value if hasattr(value, "default_policies") else None)
    if profile is None:
        raise ConfigurationError(
            f"{name} is a {type(value).__name__}", remedy="name a PolicyTable, a B1, or an application that has one"
        )
    return Rules(profile.limiting.table, profile.default_policies, profile.anonymous_policies, RouteTable.of(value))


def _caller(context: RequestContext) -> Caller:
    principal = context.principal
    if principal is None:
        return Caller(context.client)
    return Caller(context.client, principal.actor, principal.organization, principal.role, principal.tier)


def _label(request: Request) -> str:
    if request.actor is None:
        return request.address
    return request.actor if request.organization is None else f"{request.actor}@{request.organization}"


def _row(name: str, count: Count) -> tuple[str, ...]:
    first = "" if count.first_s is None else _iso(count.first_s)
    return name, str(count.requests), str(count.refused), str(count.shadow), first


def _refusal_row(one: Refusal) -> tuple[str, ...]:
    return _iso(one.at_s), one.caller, f"{one.method} {one.path}", " ".join(one.policies), f"{one.retry_after_s} s"


def _count(count: Count) -> Mapping[str, Any]:
    return {**asdict(count), "first_s": None if count.first_s is None else _iso(count.first_s)}


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
