"""Templates of keys and tags: fixed text, ``{{parameters}}`` and ``*``. Parsing, filling, matching; all of it pure.

A key is cut at its colons. ``*`` stands for a whole part, at the end for all that follows. Stars inside a part would need
a scan of all keys, in every process and in Redis: they are refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from b1.cache.names import PREFIXES_LIMIT, entry_name
from b1.errors import ConfigurationError

Value = str | int
Values = Mapping[str, tuple[str, ...]]

# Begins as the implicit tags of `b1.cache.names` do, so that no explicit tag ever meets it.
_PATTERN_MARK = "\x1fw"
_TOKEN = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_LONGEST = 256


@dataclass(frozen=True, slots=True)
class Parameter:
    """A hole in a template."""

    name: str


Token = str | Parameter


@dataclass(frozen=True, slots=True)
class Template:
    """A key or tag with holes.

    Attributes:
        text: as it was written.
        parts: the tokens between its colons.
        is_open: it ends in ``*``, which is not one of the parts.
        parameters: the names of its holes, sorted.
    """

    text: str
    parts: tuple[tuple[Token, ...], ...]
    is_open: bool = False
    parameters: tuple[str, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        names = {token.name for part in self.parts for token in part if isinstance(token, Parameter)}
        object.__setattr__(self, "parameters", tuple(sorted(names)))

    @property
    def has_stars(self) -> bool:
        """Whether a star stands anywhere but at the end."""
        return any(part == ("*",) for part in self.parts)

    def renamed(self, names: Mapping[str, str]) -> Template:
        """Return the template with other names for its parameters; those not in `names` stay."""
        parts = tuple(
            tuple(Parameter(names.get(one.name, one.name)) if isinstance(one, Parameter) else one for one in part)
            for part in self.parts
        )
        return Template(self.text, parts, self.is_open)

    def count(self, values: Values) -> int:
        """Return how many texts `fill` gives."""
        count = 1
        for name in self.parameters:
            count *= len(values[name])
        return count

    def fill(self, values: Values) -> Iterator[str]:
        """Yield the text for each combination of the values, without the star at the end."""
        names = self.parameters
        for chosen in itertools.product(*(values[name] for name in names)):
            one = dict(zip(names, chosen, strict=True))
            yield ":".join(_filled(part, one) for part in self.parts)

    def fixed(self, values: Values) -> Template | None:
        """Return a beginning of all the keys that has no star and one value only, open; None when there is none."""
        whole = self.parts if self.is_open else self.parts[:-1]  # a prefix never holds the key that is equal to it
        parts = tuple(itertools.takewhile(lambda part: part != ("*",) and _is_single(part, values), whole))
        return Template(self.text, parts[:PREFIXES_LIMIT], is_open=True) if parts else None


def parse_key(text: str) -> Template:
    """Read the template of a key.

    Raises:
        ConfigurationError: it is empty or too long, a star does not stand for a whole part, or it begins with one.
    """
    template = _parse(text)
    stars = [number for number, part in enumerate(template.parts) if part == ("*",)]
    if any(isinstance(one, str) and "*" in one for part in template.parts if part != ("*",) for one in part):
        raise ConfigurationError(
            f"the template {text!r} has a star inside a part",
            remedy="a star stands for a whole part between colons, such as report:*:{{id}}:*; or give the entries a tag",
        )
    if stars and stars[0] == 0:
        raise ConfigurationError(
            f"the template {text!r} begins with a star", remedy="begin with a fixed part, or give the entries a tag"
        )
    if stars and stars[-1] == len(template.parts) - 1:
        return Template(text, template.parts[:-1], is_open=True)
    return template


def parse_tag(text: str) -> Template:
    """Read the template of a tag.

    Raises:
        ConfigurationError: it is empty, too long, or has a star.
    """
    if "*" in text:
        raise ConfigurationError(f"the tag {text!r} has a star", remedy="tags are exact; stars belong into keys")
    return _parse(text)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A key template with stars, as a tag: entries whose key it matches carry it, so that one bump reaches them all."""

    template: Template
    regex: re.Pattern[str]

    def tags(self, values: Values, organization: str | None) -> Iterator[str]:
        """Yield the tags that a write has to bump."""
        for text in self.template.fill(values):
            yield pattern_tag(text, organization)

    def tag_of(self, key: str, organization: str | None) -> str | None:
        """Return the tag that an entry of this key carries; None when the template does not match."""
        match = self.regex.fullmatch(key)
        if match is None:
            return None
        holes = iter(match.groups())
        text = ":".join(
            "".join(next(holes) if isinstance(one, Parameter) else one for one in part) for part in self.template.parts
        )
        return pattern_tag(text, organization)


def pattern_of(template: Template) -> Pattern:
    """Return what matches the keys of a template."""
    parts = [
        "[^:]+"
        if part == ("*",)
        else "".join("([^:]+)" if isinstance(one, Parameter) else re.escape(one) for one in part)
        for part in template.parts
    ]
    return Pattern(template, re.compile(":".join(parts) + (":.+" if template.is_open else ""), re.DOTALL))


def pattern_tag(text: str, organization: str | None) -> str:
    """Return the implicit tag of a filled template."""
    return f"{_PATTERN_MARK}{entry_name(text, organization)}"


def checked_values(given: Mapping[str, Value | Sequence[Value]]) -> dict[str, tuple[str, ...]]:
    """Return the values as texts, several where a list was given.

    Raises:
        ValueError, TypeError: one is empty, too long, has a star, or is neither text nor a whole number.
    """
    return {name: tuple(dict.fromkeys(_texts(name, value))) for name, value in given.items()}


def _texts(name: str, value: Value | Sequence[Value]) -> Iterator[str]:
    if isinstance(value, bytes | float) or value is None:
        raise TypeError(f"{name} is {type(value).__name__}, expected text, a whole number, or several of them")
    several = (value,) if isinstance(value, str | int) else tuple(value)
    if not several:
        raise ValueError(f"{name} is an empty list, expected at least one value")
    for one in several:
        if isinstance(one, bool) or not isinstance(one, str | int):
            raise TypeError(f"{name} is {type(one).__name__}, expected text, a whole number, or several of them")
        text = str(one)
        if not 0 < len(text) <= _LONGEST or "*" in text:
            raise ValueError(f"{name} is {text[:80]!r}, expected 1 to {_LONGEST} characters without a star")
        yield text


def _parse(text: str) -> Template:
    if not 0 < len(text) <= _LONGEST or not all(text.split(":")):
        raise ConfigurationError(
            f"the template {text[:80]!r} is empty, has an empty part, or more than {_LONGEST} characters",
            remedy="such as cache:user:{{id}}",
        )
    left = _TOKEN.sub("", text)
    if "{" in left or "}" in left:
        raise ConfigurationError(f"the template {text!r} has a stray brace", remedy="parameters stand as {{name}}")
    return Template(text, tuple(tuple(_tokens(part)) for part in text.split(":")))


def _tokens(part: str) -> Iterator[Token]:
    at = 0
    for match in _TOKEN.finditer(part):
        if match.start() > at:
            yield part[at : match.start()]
        yield Parameter(match[1])
        at = match.end()
    if at < len(part):
        yield part[at:]


def _filled(part: tuple[Token, ...], values: Mapping[str, str]) -> str:
    return "".join(values[one.name] if isinstance(one, Parameter) else one for one in part)


def _is_single(part: tuple[Token, ...], values: Values) -> bool:
    return all(isinstance(one, str) or len(values[one.name]) == 1 for one in part)
