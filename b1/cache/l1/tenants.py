"""How much each tenant holds, and which of them hold more than their share.

A tenant over its share loses its second chances while others hold something too: its items leave in the order in which
they came, so its flood drives out its own items and nobody else's hot ones.
"""

from __future__ import annotations


class Tenant:
    """One tenant. Number 0 is nobody's, and never over a share."""

    __slots__ = ("held_bytes", "name", "number")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<Tenant {self.name!r} held_bytes={self.held_bytes}>"


class Tenants:
    """Those who hold something; who no longer does is forgotten, so there are never more than items.

    Args:
        share: the part of the ceiling (0 to 1] that one tenant may hold with all its rights.
    """

    __slots__ = ("_by_name", "_by_number", "_newest", "share")

    def __init__(self, share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"a tenant's share is {share}, expected more than 0 and at most 1")
        self.share = share
        self._by_name: dict[str, Tenant] = {}
        self._by_number: dict[int, Tenant] = {}
        self._newest = 0

    def __repr__(self) -> str:
        return f"<Tenants {len(self._by_name)} share={self.share}>"

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, name: str, held_bytes: int) -> int:
        """Account for an item; return its tenant's number."""
        if not name:
            return 0
        tenant = self._by_name.get(name)
        if tenant is None:
            tenant = self._by_name[name] = Tenant(self._unused(), name)
            self._by_number[tenant.number] = tenant
        tenant.held_bytes += held_bytes
        return tenant.number

    def remove(self, number: int, held_bytes: int) -> None:
        """An item of this tenant is gone."""
        if not number:
            return
        tenant = self._by_number[number]
        tenant.held_bytes -= held_bytes
        if tenant.held_bytes <= 0:
            del self._by_number[number], self._by_name[tenant.name]

    def clear(self) -> None:
        """Nobody holds anything any more."""
        self._by_name.clear()
        self._by_number.clear()

    def is_over(self, number: int, ceiling_bytes: int) -> bool:
        """Say whether this tenant holds more than its share while somebody else holds something."""
        if not number or len(self._by_name) == 1:
            return False
        return self._by_number[number].held_bytes > self.share * ceiling_bytes

    def is_named_over(self, name: str, ceiling_bytes: int) -> bool:
        """Like `is_over`, for a tenant that may hold nothing yet."""
        tenant = self._by_name.get(name)
        return tenant is not None and self.is_over(tenant.number, ceiling_bytes)

    def largest(self, count: int) -> tuple[tuple[str, int], ...]:
        """Return the tenants that hold the most, with their bytes."""
        ordered = sorted(self._by_name.values(), key=lambda one: -one.held_bytes)
        return tuple((one.name, one.held_bytes) for one in ordered[:count])

    def _unused(self) -> int:
        self._newest = self._newest % 0xFFFF_FFFF + 1
        while self._newest in self._by_number:
            self._newest = self._newest % 0xFFFF_FFFF + 1
        return self._newest
