"""What memory the system really gives to anonymous maps: the pages that it says are there."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Iterator

_PAGE_BYTES = mmap.PAGESIZE


def resident_bytes(maps: Iterable[mmap.mmap]) -> Iterator[int | None]:
    """Yield for each map the bytes of its pages that are in memory; None where the system cannot say (`mincore`)."""
    mincore = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    for one in maps:
        yield None if mincore is None else _resident_bytes(mincore, one)


def _resident_bytes(mincore: ctypes._NamedFuncPointer, one: mmap.mmap) -> int | None:
    if one.closed:
        return 0
    size = len(one)
    pages = ctypes.create_string_buffer(-(-size // _PAGE_BYTES))
    # The view keeps the map from being closed while it is looked at; it ends with this function.
    view = ctypes.c_char.from_buffer(one)
    if mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), pages) != 0:
        return None
    return sum(byte & 1 for byte in pages.raw) * _PAGE_BYTES
