"""Bytes, seconds, switches and numbers as text.

Text is parsed once, at the edge; inside b1 numbers carry their unit in the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

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


# Tracing allocations doubles the cost of small ones; a window that is never closed would be a way to stay slow.
WINDOW_LIMIT_S = 600.0


def parse_text(value: str) -> str:
    """Return it as it is."""
    return value


def parse_port(value: str) -> int:
    """Read a TCP port.

    Raises:
        ValueError: it is none.
    """
    number = int(value)
    if not 0 < number < 65536:
        raise ValueError("a port is 1 to 65535")
    return number


def percent_up_to(most: int) -> Callable[[str], float]:
    """Return a reader of "5" or "5%" that refuses what is not 0 to `most` percent."""

    def parse(value: str) -> float:
        try:
            percent = float(value.strip().removesuffix("%"))
        except ValueError:
            percent = -1.0
        if not 0 <= percent <= most:
            raise ValueError(f"a percentage from 0 to {most}")
        return percent

    return parse


def parse_count(value: str) -> int:
    """Read a whole number of at least 1.

    Raises:
        ValueError: it is none.
    """
    number = int(value)
    if number < 1:
        raise ValueError("at least 1")
    return number


def parse_positive(value: str) -> float:
    """Read a finite number above 0.

    Raises:
        ValueError: it is none.
    """
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError("a number above 0")
    return number


def parse_window(value: str) -> float:
    """Read seconds from 0 to 600.

    Raises:
        ValueError: it is none.
    """
    number = float(value)
    if not 0 <= number <= WINDOW_LIMIT_S:
        raise ValueError(f"seconds from 0 to {WINDOW_LIMIT_S:g}")
    return number


def parse_words(value: str) -> tuple[str, ...]:
    """Read words that commas separate."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


def one_of(*allowed: str) -> Callable[[str], str]:
    """Return a reader that takes these words alone."""

    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(" or ".join(allowed))
        return value

    return parse
