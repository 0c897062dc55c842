"""Which limits a box has. Pure.

`docker` is what a B1 is sold with. `app-service` is what an application really finds there: the platform uses about three
quarters of the machine itself, and the host has 2 GiB of swap that the control group does not forbid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from b1.errors import ConfigurationError
from b1.units import MIB, format_bytes

# Below this a Python interpreter does not start, and the kernel kills it before it can say so.
LEAST_MEMORY_BYTES = 16 * MIB
LEAST_CPUS = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """What the command may use. `notes` says what the machine could not give."""

    memory_bytes: int
    swap_bytes: int
    cpus: float
    notes: tuple[str, ...] = ()


PROFILES: Mapping[str, Limits] = {
    "docker": Limits(1750 * MIB, 0, 1.0),
    "app-service": Limits(640 * MIB, 2048 * MIB, 1.0),
}


def choose_limits(
    profile: str,
    *,
    machine_swap_bytes: int,
    memory_bytes: int | None = None,
    swap_bytes: int | None = None,
    cpus: float | None = None,
) -> Limits:
    """Return the profile's limits with what was asked for in their place, and no more swap than there is.

    Raises:
        ConfigurationError: nothing can run in so little.
        KeyError: no such profile.
    """
    base = PROFILES[profile]
    memory = base.memory_bytes if memory_bytes is None else memory_bytes
    swap = base.swap_bytes if swap_bytes is None else swap_bytes
    cores = base.cpus if cpus is None else cpus
    if memory < LEAST_MEMORY_BYTES:
        raise ConfigurationError(
            f"a box of {format_bytes(memory)} was asked for", remedy=f"{format_bytes(LEAST_MEMORY_BYTES)} or more"
        )
    if not LEAST_CPUS <= cores <= 1024:
        raise ConfigurationError(f"a box with {cores:g} cpus was asked for", remedy=f"{LEAST_CPUS:g} or more")
    notes: tuple[str, ...] = ()
    if swap > machine_swap_bytes:
        has = f"has {format_bytes(machine_swap_bytes)} of swap" if machine_swap_bytes else "has no swap"
        notes = (f"this machine {has}: the {format_bytes(swap)} that were asked for are not all there",)
    return Limits(memory, min(swap, machine_swap_bytes), cores, notes)
