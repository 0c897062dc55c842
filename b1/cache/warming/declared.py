"""What an application declares: loads and paths, and when they are warmed. Needs no running application.

@b1.warming.critical(keys=("menu:1",))
async def menu() -> None:
    await load_menu()          # which reads through b1.cache

@b1.warming.for_principal(priority=5)
async def inbox(principal: Principal) -> None:
    await load_inbox(principal.actor)
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from b1.cache.names import checked_key, entry_name, several
from b1.errors import ConfigurationError
from b1.types import Principal

# A key, or one with the organisation that it belongs to.
Key = str | tuple[str, str | None]
Load = Callable[[], Awaitable[Any]]
LoadForPrincipal = Callable[[Principal], Awaitable[Any]]
LoadKey = Callable[[str, str | None], Awaitable[Any]]
Establish = Callable[[str, str | None], Awaitable[Principal | None]]

L = TypeVar("L", bound=Callable[..., Awaitable[Any]])


@dataclass(frozen=True, slots=True)
class Critical:
    """A load that is run at the start."""

    name: str
    load: Load
    priority: float
    every_s: float | None
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForPrincipal:
    """A load that is run for each user who appears; without one it is the answer under `path` that is made."""

    name: str
    load: LoadForPrincipal | None
    path: str
    priority: float
    every_s: float | None
    keys: Callable[[Principal], Iterable[Key]]


@dataclass(frozen=True, slots=True)
class PublicPath:
    """A public answer that is made at the start."""

    path: str
    priority: float
    every_s: float | None


class Warmups:
    """The declarations of one application (``b1.warming``)."""

    def __init__(self) -> None:
        self.criticals: dict[str, Critical] = {}
        self.principals: dict[str, ForPrincipal] = {}
        self.public_paths: dict[str, PublicPath] = {}
        self.loads: dict[str, LoadKey] = {}
        self.establish: Establish | None = None

    def __repr__(self) -> str:
        return (
            f"<Warmups critical={len(self.criticals) + len(self.public_paths)} principal={len(self.principals)} "
            f"namespaces={sorted(self.loads)}>"
        )

    def critical(
        self, name: str | None = None, *, priority: float = 0, every_s: float | None = None, keys: Iterable[Key] = ()
    ) -> Callable[[L], L]:
        """Run the decorated function at the start; readiness waits for it, but not for long.

        Args:
            name: in logs; by default the function's.
            priority: higher is earlier.
            every_s: and again each time so many seconds have passed; None: once per start.
            keys: of the data cache that it fills, so that the gain can be measured.

        Raises:
            ConfigurationError: the name is taken, or a number makes no sense.
        """

        def declare(load: L) -> L:
            self.add(_name(name, load), load, priority=priority, every_s=every_s, keys=keys)
            return load

        return declare

    def add(
        self,
        name: str,
        load: Load,
        *,
        priority: float = 0,
        every_s: float | None = None,
        keys: Iterable[Key] = (),
    ) -> None:
        """Do what `critical` does, without a decorator."""
        _check(name, priority, every_s, self.criticals)
        self.criticals[name] = Critical(name, load, priority, every_s, entry_names(keys))

    def for_principal(
        self,
        name: str | None = None,
        *,
        priority: float = 0,
        every_s: float | None = None,
        keys: Callable[[Principal], Iterable[Key]] = lambda _: (),
    ) -> Callable[[L], L]:
        """Run the decorated function for each user whom this process meets: behind the login, or the first token.

        Args:
            priority: higher is earlier, among the warm-ups for users.
            every_s: for one user at most once in this time; None: an hour.
            keys: says which keys of the data cache it fills.

        Raises:
            ConfigurationError: as `critical`.
        """

        def declare(load: L) -> L:
            chosen = _name(name, load)
            _check(chosen, priority, every_s, self.principals)
            self.principals[chosen] = ForPrincipal(chosen, load, "", priority, every_s, keys)
            return load

        return declare

    def path(
        self, path: str, *, each_principal: bool = False, priority: float = 0, every_s: float | None = None
    ) -> None:
        """Make the answer of a cached route (``b1.cached``) before anybody asks for it.

        Args:
            path: as in a request, with its query: ``/v1/search?q=open``.
            each_principal: False: at the start, of a public route; True: for each user whom this process meets.

        Raises:
            ConfigurationError: as `critical`, or it is no path.
        """
        if not path.startswith("/"):
            raise ConfigurationError(f"the path is {path!r}", remedy="begin it with /")
        if each_principal:
            _check(path, priority, every_s, self.principals)
            self.principals[path] = ForPrincipal(path, None, path, priority, every_s, lambda _: ())
        else:
            _check(path, priority, every_s, self.public_paths)
            self.public_paths[path] = PublicPath(path, priority, every_s)

    def learn(self, namespace: str) -> Callable[[L], L]:
        """Have keys that begin with ``namespace:`` loaded again after a restart, those first that are read most.

        The decorated function gets a key and its organisation, and reads it through the cache as the application does:
        ``await b1.cache.get_or_load(key, …, organization=organization)``.

        Raises:
            ConfigurationError: the namespace has a load, or a colon.
        """

        def declare(load: L) -> L:
            if not namespace or ":" in namespace or namespace in self.loads:
                raise ConfigurationError(f"the namespace is {namespace!r}", remedy="give each once, without a colon")
            self.loads[namespace] = load
            return load

        return declare

    def establishes(self, establish: Establish) -> Establish:
        """Have the decorated function say who an actor is now, before an answer is warmed for one who is not there.

        It gets actor and organisation, and returns a `Principal`, or None when that actor may not act there any more.
        Without one a principal is believed for as long as identity does (5 min), and until it is forgotten.
        """
        self.establish = establish
        return establish


def entry_names(keys: Iterable[Key]) -> tuple[str, ...]:
    """Return the names of keys in L1.

    Raises:
        ValueError: one is no key.
    """
    pairs = [(key, None) if isinstance(key, str) else key for key in several(keys, "keys")]
    return tuple(entry_name(checked_key(key), organization) for key, organization in pairs)


def _name(name: str | None, load: Callable[..., object]) -> str:
    return name or str(getattr(load, "__qualname__", load))


def _check(name: str, priority: float, every_s: float | None, taken: Iterable[str]) -> None:
    if name in taken:
        raise ConfigurationError(f"the warm-up {name!r} is declared twice", remedy="give it another name")
    if not math.isfinite(priority):
        raise ConfigurationError(f"the priority of {name!r} is {priority}", remedy="give a finite number")
    if every_s is not None and not 1 <= every_s < math.inf:
        raise ConfigurationError(f"every_s of {name!r} is {every_s}", remedy="give 1 second or more, or None")
