"""The decorator: a coroutine function whose answers are cached under a name made from its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from string import Formatter
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

T = TypeVar("T")

# What may stand in a key as it is; a colon in an argument would begin a part that the template does not have.
_SAFE = "@.,+-_~!$'()*; "


class Template:
    """A name with arguments in braces, such as ``report:{report_id}``.

    Args:
        text: as for `str.format`, with the function's parameters; ``{user.id}`` is possible too.
        parameters: names of the function's parameters.

    Raises:
        ValueError: it names something that is no parameter, or nothing at all where the function has parameters.
    """

    def __init__(self, text: str, parameters: Sequence[str]) -> None:
        self.text = text
        named = {name.split(".")[0].split("[")[0] for _, name, _, _ in Formatter().parse(text) if name is not None}
        unknown = sorted(named.difference(parameters))
        if unknown:
            raise ValueError(
                f"the name {text!r} has {{{unknown[0]}}}, expected one of {', '.join(parameters) or 'none'}"
            )

    def __repr__(self) -> str:
        return f"<Template {self.text!r}>"

    def of(self, arguments: Mapping[str, Any]) -> str:
        """Return the name for these arguments."""
        return _Quoting().vformat(self.text, (), arguments)


class _Quoting(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return quote(format(value, format_spec), safe=_SAFE)


class Holder(Protocol):
    """What has `get_or_load`: a `Cache`."""

    @property
    def get_or_load(self) -> Callable[..., Awaitable[Any]]: ...


def memoized(
    holder: Callable[[], Holder],
    key: str | Callable[..., str],
    *,
    tags: Sequence[str] = (),
    organization: str | None = None,
    **how: Any,
) -> Callable[[Callable[..., Awaitable[T]]], Callable[..., Awaitable[T]]]:
    """Cache a coroutine function's answers in a cache that is only there when the function is called.

    For functions of a module, which is imported before the cache exists: ``@memoized(lambda: b1.cache, "report:{id}")``.
    Else as `Cache.cached`.
    """

    def decorator(function: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        signature = inspect.signature(function)
        parameters = list(signature.parameters)
        named = Template(key, parameters) if isinstance(key, str) else None
        tagged = [Template(tag, parameters) for tag in tags]
        owned = None if organization is None else Template(organization, parameters)

        @functools.wraps(function)
        async def cached(*args: Any, **kwargs: Any) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.arguments
            name = named.of(arguments) if named is not None else key(*args, **kwargs)  # type: ignore[operator]
            value: T = await holder().get_or_load(
                name,
                lambda: function(*args, **kwargs),
                tags=tuple(tag.of(arguments) for tag in tagged),
                organization=None if owned is None else owned.of(arguments),
                **how,
            )
            return value

        return cached

    return decorator
