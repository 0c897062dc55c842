"""The version table of a server, in Python: slow and obvious, for tests of who follows it."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

from b1.store.versions import REDIS_BUCKETS, bucket_of, new_epoch


class Table:
    """What `lua/invalidate.lua` and `lua/resync.lua` do, as messages."""

    def __init__(self) -> None:
        self.epoch = new_epoch()
        self.number = 0
        self.versions: dict[int, int] = {}

    def invalidate(self, tags: Sequence[str] | None, soft: Sequence[str] = ()) -> bytes:
        """Return what would be published."""
        before, self.number = self.epoch, self.number + 1
        if tags is None:
            self.epoch = new_epoch()
        hard = {bucket_of(tag, REDIS_BUCKETS) for tag in tags or ()}
        weak = {bucket_of(tag, REDIS_BUCKETS) for tag in soft} - hard
        for bucket in hard:
            self.versions[bucket] = (self.versions.get(bucket, 0) // 256 + 1) * 256
        for bucket in weak:
            self.versions[bucket] = self.versions.get(bucket, 0) + 1
        moved = b"".join(pack(">II", bucket, self.versions[bucket]) for bucket in hard | weak)
        return pack(">8sQ8s", self.epoch, self.number, before) + moved

    def dump(self) -> bytes:
        """Return the table as the server keeps it."""
        versions = bytearray(4 * REDIS_BUCKETS)
        for bucket, version in self.versions.items():
            versions[4 * bucket : 4 * bucket + 4] = pack(">I", version)
        return pack(">8sQ", self.epoch, self.number) + bytes(versions)

    def vector(self, tags: Sequence[str]) -> bytes:
        """Return what a trip would answer."""
        numbers = [self.versions.get(bucket_of(tag, REDIS_BUCKETS), 0) for tag in tags]
        return self.epoch + pack(f">{len(numbers)}I", *numbers)
