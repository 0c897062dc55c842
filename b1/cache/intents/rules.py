"""What a write makes stale: declared once, checked at start, expanded here without I/O.

A rule hangs templates and further rules on the name of an event. All that follows from an event is worked out when the
rules are made, so a write only fills in its parameters; and a cascade that comes back to itself never starts.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from b1.cache.intents.templates import (
    Pattern,
    Template,
    Value,
    Values,
    checked_values,
    parse_key,
    parse_tag,
    pattern_of,
)
from b1.cache.names import PREFIXES_LIMIT, checked_key, checked_tag, key_tag, organization_tag, prefix_tag
from b1.errors import ConfigurationError

# Of one write. Each costs the server about a microsecond; with more, whole prefixes go instead.
TAGS_LIMIT = 256
# Of one event with all that follows from it; more is a mistake in the graph, or too much for one write.
STEPS_LIMIT = 128
PATTERNS_LIMIT = 32
ORGANIZATION = "organization"

_NO_NAMES: Mapping[str, str] = types.MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Cascade:
    """What follows from an event, under other names for its parameters.

    Attributes:
        to: the event that follows.
        names: its parameter, and the parameter here that gives the value.
    """

    to: str
    names: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes stale when `event` happens. Several rules of one event add up.

    Attributes:
        event: such as ``entity.updated``; or a name that only other rules lead to, such as ``contacts``.
        keys: templates of keys, such as ``cache:user:{{id}}`` and ``report:*:{{id}}:*``. Where the write names its
            ``organization``, the organisation's own keys and those of nobody become stale.
        tags: templates of tags.
        then: events that follow, with the same parameters or (`Cascade`) under other names.
        organization: everything of the organisation becomes stale.
        soft: it may still be served as stale while it is loaded anew. All that follows is soft too.
    """

    event: str
    keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    then: tuple[str | Cascade, ...] = ()
    organization: bool = False
    soft: bool = False


class Stale(NamedTuple):
    """The tags to invalidate; none is in both."""

    hard: tuple[str, ...]
    soft: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing that an event makes stale; `key` and `tag` None: the whole organisation."""

    key: Template | None
    tag: Template | None
    soft: bool
    pattern: Pattern | None = None

    @property
    def parameters(self) -> frozenset[str]:
        template = self.key or self.tag
        return frozenset({ORGANIZATION} if template is None else template.parameters)


class Rules:
    """The rules of an application.

    Args:
        rules: in any order.
        exact: keys with a star that is not at the end are found by a tag of the whole template, which `tags_of` gives
            to their entries. Only for a cache that asks `tags_of`; without it the part before the first star goes.

    Raises:
        ConfigurationError: a template is none, a cascade leads to an event without a rule or back to itself, or more
            follows from one event than one write can do.
    """

    def __init__(self, *rules: Rule, exact: bool = False) -> None:
        self._rules: dict[str, list[Rule]] = {}
        for rule in rules:
            for name in ("keys", "tags", "then"):
                if isinstance(text := getattr(rule, name), str):  # it would be taken letter by letter
                    raise ConfigurationError(
                        f"{name} of the rule of {rule.event} is the text {text!r}",
                        remedy=f"give a tuple: {name}=({text!r},)",
                    )
            if not rule.event:
                raise ConfigurationError("a rule names no event", remedy="such as entity.updated")
            self._rules.setdefault(rule.event, []).append(rule)
        self._exact = exact
        self._steps = {event: tuple(self._follow(event)) for event in self._rules}
        self._required = {
            event: frozenset[str]().union(*(step.parameters for step in steps)) for event, steps in self._steps.items()
        }
        self._patterns = self._collect_patterns()

    def __repr__(self) -> str:
        return f"<Rules events={len(self._steps)} patterns={sum(map(len, self._patterns.values()))}>"

    @property
    def events(self) -> tuple[str, ...]:
        """The names of all events, sorted."""
        return tuple(sorted(self._steps))

    def parameters_of(self, event: str) -> frozenset[str]:
        """Return what a write has to name. Raises ValueError as `tags_for`."""
        self._known(event)
        return self._required[event]

    def tags_for(self, event: str, parameters: Mapping[str, Value | Sequence[Value]]) -> Stale:
        """Return what the event makes stale, 256 tags at most: of very many values the common prefix goes instead.

        Args:
            parameters: text or whole numbers; a list stands for several writes of one kind.

        Raises:
            ValueError: no such event, a parameter is missing or none, or too many tags that have no common prefix.
            TypeError: a parameter is neither text nor a whole number.
        """
        steps = self._known(event)
        values = checked_values(parameters)
        if missing := self._required[event] - values.keys():
            raise ValueError(f"{event} was written without {', '.join(sorted(missing))}")
        scopes: tuple[str | None, ...] = (None, *values.get(ORGANIZATION, ()))
        hard: dict[str, None] = {}
        soft: dict[str, None] = {}
        for step in steps:
            into = soft if step.soft else hard
            into.update(dict.fromkeys(_tags(step, values, scopes)))
            if len(hard) + len(soft) > TAGS_LIMIT:
                raise ValueError(
                    f"{event} makes more than {TAGS_LIMIT} tags stale: write fewer at a time, or use a tag"
                )
        return Stale(tuple(hard), tuple(tag for tag in soft if tag not in hard))

    def tags_of(self, key: str, organization: str | None = None) -> tuple[str, ...]:
        """Return the tags that an entry of this key carries because of templates with stars; without `exact`, none."""
        patterns = self._patterns.get(key.partition(":")[0], ()) if self._patterns else ()
        patterns = (*patterns, *self._patterns.get("", ())) if self._patterns else ()
        found = (pattern.tag_of(key, organization) for pattern in patterns)
        return tuple(dict.fromkeys(tag for tag in found if tag is not None))

    def _known(self, event: str) -> tuple[_Step, ...]:
        steps = self._steps.get(event)
        if steps is None:
            near = difflib.get_close_matches(event, self._steps, 1)
            raise ValueError(f"no rule is about {event!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return steps

    def _follow(self, event: str) -> Iterable[_Step]:
        """Return all that follows from an event, each once, what is hard before what is soft."""
        steps = dict.fromkeys(self._walk(event, (), _NO_NAMES, soft=False))
        if len(steps) > STEPS_LIMIT:
            raise ConfigurationError(
                f"{len(steps)} templates follow from {event!r}, expected {STEPS_LIMIT} at most",
                remedy="give the entries a common tag",
            )
        return steps

    def _walk(self, event: str, path: tuple[str, ...], names: Mapping[str, str], *, soft: bool) -> Iterator[_Step]:
        if event in path:
            way = " → ".join((*path[path.index(event) :], event))
            raise ConfigurationError(f"the cascade {way} never ends", remedy="take one of its steps away")
        for rule in self._rules[event]:
            is_soft = soft or rule.soft
            for text in rule.keys:
                yield self._key_step(parse_key(text).renamed(names), is_soft)
            for text in rule.tags:
                yield _Step(None, parse_tag(text).renamed(names), is_soft)
            if rule.organization:
                yield _Step(None, None, is_soft)
            for one in rule.then:
                cascade = one if isinstance(one, Cascade) else Cascade(one)
                if cascade.to not in self._rules:
                    raise ConfigurationError(
                        f"{event!r} leads to {cascade.to!r}, about which there is no rule", remedy="add one, or drop it"
                    )
                if ORGANIZATION in cascade.names:  # it is also whose keys they are
                    raise ConfigurationError(
                        f"the cascade from {event!r} gives {cascade.to!r} another organization",
                        remedy="have the event itself name its organization",
                    )
                deeper = {**names, **{there: names.get(here, here) for there, here in cascade.names.items()}}
                yield from self._walk(cascade.to, (*path, event), deeper, soft=is_soft)

    def _key_step(self, template: Template, soft: bool) -> _Step:
        is_pattern = template.has_stars or (template.is_open and len(template.parts) > PREFIXES_LIMIT)
        return _Step(template, None, soft, pattern_of(template) if self._exact and is_pattern else None)

    def _collect_patterns(self) -> dict[str, tuple[Pattern, ...]]:
        """Return the patterns by the first part of the keys that they match; "" for those where that is a parameter."""
        found: dict[str, dict[str, Pattern]] = {}
        for steps in self._steps.values():
            for pattern in (step.pattern for step in steps if step.pattern is not None):
                first = pattern.template.parts[0]
                name = str(first[0]) if len(first) == 1 and isinstance(first[0], str) else ""
                found.setdefault(name, {})[pattern.regex.pattern] = pattern
        if sum(map(len, found.values())) > PATTERNS_LIMIT:
            raise ConfigurationError(
                f"there are more than {PATTERNS_LIMIT} templates with stars inside", remedy="give the entries tags"
            )
        return {name: tuple(patterns.values()) for name, patterns in found.items()}


def _tags(step: _Step, values: Values, scopes: tuple[str | None, ...]) -> Iterator[str]:
    if step.tag is not None:
        yield from (checked_tag(text) for text in step.tag.fill(values))
    elif step.key is None:
        yield from (organization_tag(organization) for organization in values[ORGANIZATION])
    else:
        yield from _tags_of_keys(step, step.key, values, scopes)


def _tags_of_keys(step: _Step, key: Template, values: Values, scopes: tuple[str | None, ...]) -> Iterator[str]:
    is_many = key.count(values) * len(scopes) > TAGS_LIMIT // 2
    # A value with a colon is several parts of a key: the tag of the template would not be the one that `tags_of` gave.
    is_odd = any(":" in value for name in key.parameters for value in values[name])
    if step.pattern is not None and not is_many and not is_odd:
        yield from (tag for scope in scopes for tag in step.pattern.tags(values, scope))
    elif key.is_open or key.has_stars or is_many:
        yield from _prefixes(key, values, scopes)
    else:
        yield from (key_tag(checked_key(text), scope) for text in key.fill(values) for scope in scopes)


def _prefixes(key: Template, values: Values, scopes: tuple[str | None, ...]) -> Iterator[str]:
    """Yield the prefixes that hold all keys of the template: one for each value, or the one that they have in common."""
    common = key.fixed(values)
    closed = Template(key.text, key.parts, is_open=True)
    if not key.has_stars and key.is_open and key.count(values) * len(scopes) <= TAGS_LIMIT // 2:
        common = closed
    if common is None:
        raise ValueError(
            f"{key.text!r} has too many values and no prefix in common: write fewer at a time, or use a tag"
        )
    for text in common.fill(values):
        prefix = ":".join(text.split(":")[:PREFIXES_LIMIT])
        yield from (prefix_tag(prefix, scope) for scope in scopes)
