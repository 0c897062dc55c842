"""Bytes, seconds and switches as text.

Text is parsed once, at the edge; inside b1 numbers carry their unit in the name.
"""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_BYTE_UNITS = {
    "": 1, "b": 1,
    "k": KIB, "kb": 1000, "kib": KIB,
    "m": MIB, "mb": 1000**2, "mib": MIB,
    "g": GIB, "gb": 1000**3, "gib": GIB,
}  # fmt: skip
_SECOND_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def parse_bytes(text: str) -> int:
    """Read "64MiB", "64m", "1.5GiB" or "1048576" as bytes.

    A bare k, m or g is binary, as docker and the kernel read it; kB, MB and GB are decimal.

    Raises:
        ValueError: the text is no such size.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text)
    factor = _BYTE_UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size; expected something like 64MiB")
    return int(float(match[1]) * factor)


def parse_seconds(text: str) -> float:
    """Read "250ms", "5s", "2min", "24h" or "1.5" as seconds.

    Raises:
        ValueError: the text is no such duration.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text)
    factor = _SECOND_UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a duration; expected something like 250ms or 24h")
    return float(match[1]) * factor


def parse_switch(text: str) -> bool:
    """Read 1/true/yes/on and 0/false/no/off.

    Raises:
        ValueError: the text is neither.
    """
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text!r} is not a switch; expected 1 or 0")


def format_bytes(count: int) -> str:
    """Write bytes for a person: "1750 MiB", "64 KiB"."""
    for unit, size, at_least in (("GiB", GIB, 8 * GIB), ("MiB", MIB, MIB), ("KiB", KIB, KIB)):
        if count >= at_least or (count >= size and count % GIB == 0):
            return f"{count / size:.4g} {unit}"
    return f"{count} B"
