"""Zstandard: the standard library's from Python 3.14 on, its backport before; imported when the first value needs it.

A compressor is made once per level and dictionary and used again: making one costs more than compressing 2 KB. What is
read was perhaps written by somebody else, so the declared size is checked first and is the most that is ever unpacked.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

# Everything that we write fits into a window of 4 MiB; a frame that asks for more memory than that is not ours.
_WINDOW_LOG_MOST = 22

_module: Any = None
# Made once: its key is an enumeration's member, which takes as long to hash as a fifth of unpacking 2 KB.
_bounds: dict[Any, int] = {}


class Unreadable(Exception):
    """The bytes are no frame of the size and dictionary that they claim."""


class Zstd:
    """Compressors that are used again. For one thread: what runs elsewhere makes its own `Zstd`."""

    def __init__(self) -> None:
        self._compressors: dict[tuple[int, int], Any] = {}

    def __repr__(self) -> str:
        return f"<Zstd compressors={len(self._compressors)}>"

    def compress(self, data: bytes, level: int, dictionary: Dictionary | None = None) -> bytes:
        """Return one frame."""
        name = (level, 0 if dictionary is None else dictionary.id)
        compressor = self._compressors.get(name)
        if compressor is None:
            compressor = self._compressors[name] = _compressor(level, dictionary)
        packed: bytes = compressor.compress(data, compressor.FLUSH_FRAME)
        return packed

    def decompress(self, data: bytes, size: int, dictionary: Dictionary | None = None) -> bytes:
        """Return the `size` bytes of one whole frame.

        Raises:
            Unreadable: it is anything else.
        """
        zstd = _zstd()
        decompressor = zstd.ZstdDecompressor(zstd_dict=dictionary and dictionary.digested, options=_bounds)
        try:
            # One byte more than is expected shows a frame that is longer than it says.
            unpacked: bytes = decompressor.decompress(data, size + 1)
        except zstd.ZstdError as error:
            raise Unreadable(str(error)) from error
        if len(unpacked) != size or not decompressor.eof or decompressor.unused_data:
            raise Unreadable(f"a frame of {size} bytes gave {len(unpacked)}")
        return unpacked

    def forget(self, dictionary_id: int) -> None:
        """Drop the compressors of a dictionary that is no longer written with."""
        for name in [name for name in self._compressors if name[1] == dictionary_id]:
            del self._compressors[name]


class Dictionary:
    """Trained from samples, named by 32 bits of its digest; 0 is no dictionary."""

    __slots__ = ("data", "digested", "id")

    def __init__(self, dictionary_id: int, data: bytes) -> None:
        self.id = dictionary_id
        self.data = data
        zstd = _zstd()
        try:
            self.digested = zstd.ZstdDict(data)
        except (ValueError, zstd.ZstdError) as error:
            raise Unreadable(str(error)) from error

    def __repr__(self) -> str:
        return f"<Dictionary {self.id:08x} bytes={len(self.data)}>"


def train(samples: list[bytes], size: int) -> bytes | None:
    """Return a dictionary of at most `size` bytes, or None when the samples have nothing in common. Takes a while.

    Runs in a thread: zstd trains without the interpreter's lock.
    """
    zstd = _zstd()
    try:
        trained: bytes = zstd.train_dict(samples, size).dict_content
    except zstd.ZstdError:  # too few or too equal samples: that is an answer, and the caller counts it
        return None
    return trained


def _compressor(level: int, dictionary: Dictionary | None) -> Any:
    zstd = _zstd()
    digested = None if dictionary is None else dictionary.digested.as_digested_dict
    return zstd.ZstdCompressor(level=level, zstd_dict=digested)


def _zstd() -> Any:
    global _module
    if _module is None:
        module = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
        _bounds[module.DecompressionParameter.window_log_max] = _WINDOW_LOG_MOST
        _module = module  # last: from here on other threads unpack with it
    return _module
