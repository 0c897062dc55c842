"""Bytes that take no more memory than their length says."""

from __future__ import annotations


def exact(data: bytes) -> bytes:
    """Return a copy of exactly its own size, for what is kept.

    orjson writes into a buffer that grows in large steps and is never shrunk: its result may hold four to eight times its
    length for as long as it lives, and `bytes(data)` is the same object. Copying costs 0.2 us for 8 KiB.
    """
    return bytes(memoryview(data))
