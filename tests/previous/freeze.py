"""Write down what this version stores: ``python -m tests.previous.freeze 0.1``, once, when it is released."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from b1.alerts.journal import Journal
from b1.clock import ManualClock
from b1.db.migrate import LIBRARY_FOLDER
from b1.governor.replacing import Breaker
from b1.idempotency.record import encode
from b1.link import Link, LinkOptions
from b1.slots import Slots
from b1.store.scripts import SCRIPTS
from tests.previous import story
from tests.servers import Servers


def freeze(folder: Path, url: str, scratch: Path) -> None:
    """Fill `folder`, which is new."""
    for name, source in SCRIPTS.items():
        _write(folder / "scripts" / f"{name}.lua", source.encode())
    for name, outcome in story.RECORDS.items():
        _write(folder / f"record.{name}.bin", encode(outcome))
    for number, data in enumerate(asyncio.run(story.hand_over()), start=1):
        _write(folder / f"hand-over.{number}.bin", data)
    _write(folder / "redis.json", _json(asyncio.run(_redis(url, scratch))))
    _write(folder / "queries.json", _json(story.statements()))
    for path in sorted(LIBRARY_FOLDER.glob("*.sql")):
        _write(folder / "migrations" / path.name, path.read_bytes())
    _freeze_files(folder, scratch)


def _freeze_files(folder: Path, scratch: Path) -> None:
    journal = Journal(scratch)
    journal.try_own()
    journal.write(story.journal())
    journal.close()
    _write(folder / "alerts.json", (scratch / "alerts.json").read_bytes())
    Breaker(scratch / "replacements.json", ManualClock(wall=story.START_S)).allow()
    _write(folder / "replacements.json", (scratch / "replacements.json").read_bytes())
    slots = Slots(scratch / "held" / "slots", "pg", 2)
    slots.open()
    held, clean = slots.take(), slots.take()
    assert held is not None and clean is not None
    held.note_open(4242)
    clean.note_open(4243)
    clean.note_clean()
    for slot in (held, clean):
        _write(folder / f"slot.{slot.index}", (scratch / "held" / "slots" / f"pg.{slot.index}").read_bytes())
    slots.close()


async def _redis(url: str, scratch: Path) -> dict[str, object]:
    link = Link(LinkOptions(url, deadline_s=10, slots_dir=scratch / "redis"))
    await link.start()
    try:
        store = story.redis_at(link, 0)
        await story.write(store)
        await story.write_shared(store)
        return await story.dump(link)
    finally:
        await link.aclose()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def main() -> None:
    folder = story.FOLDER / sys.argv[1]
    if folder.exists():
        sys.exit(f"{folder} exists: what was released is not written again")
    servers = Servers()
    scratch = Path(tempfile.mkdtemp())
    try:
        freeze(folder, servers.redis().url, scratch)
    finally:
        servers.close()
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
