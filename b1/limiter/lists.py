"""Who is never limited, and who is never let in: networks, single addresses and actors, fixed by whoever runs the app.

An allowed caller passes uncounted, also from a network that is denied. An actor is one that its token proved.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

from b1.errors import ConfigurationError

Verdict = Literal["allow", "deny"]
ACTOR = "actor:"
_KEPT = 4096


class CallerLists:
    """Two lists, of networks (``10.0.0.0/8``, ``2001:db8::/32``), addresses, and actors (``actor:17``).

    Raises:
        ConfigurationError: an entry is none of these.
    """

    def __init__(self, *, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._lists: tuple[tuple[Verdict, _List], ...] = (("allow", _List(allow)), ("deny", _List(deny)))
        self._addresses: dict[str, Verdict | None] = {}
        self.is_empty = not any(entries.networks or entries.actors for _, entries in self._lists)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{verdict}={len(found.networks) + len(found.actors)}" for verdict, found in self._lists)
        return f"CallerLists({sizes})"

    def verdict(self, address: str, actor: str | None) -> Verdict | None:
        """Return what the lists say of a caller; None: nothing."""
        by_actor = None
        if actor is not None:
            by_actor = next((verdict for verdict, entries in self._lists if actor in entries.actors), None)
        if by_actor is not None:
            return by_actor
        if address in self._addresses:
            return self._addresses[address]
        if len(self._addresses) >= _KEPT:
            self._addresses.clear()
        found = next((verdict for verdict, entries in self._lists if entries.has_network_of(address)), None)
        self._addresses[address] = found
        return found


class _List:
    def __init__(self, entries: Iterable[str]) -> None:
        self.actors: set[str] = set()
        self.networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            if entry.startswith(ACTOR):
                self.actors.add(entry.removeprefix(ACTOR))
                continue
            try:
                self.networks.append(ip_network(entry.strip(), strict=False))
            except ValueError:
                raise ConfigurationError(
                    f"{entry!r} is no network, address or actor", remedy="use 10.0.0.0/8, 2001:db8::1 or actor:17"
                ) from None

    def has_network_of(self, address: str) -> bool:
        if not self.networks:
            return False
        try:
            number = ip_address(address)
        except ValueError:
            return False
        return any(number.version == network.version and number in network for network in self.networks)


NOBODY = CallerLists()
