"""What holds the memory: gathered once at the critical level, for the person who reads it the next morning.

Every list is bounded. Types are counted in short slices in a thread; the list of objects that this needs is itself
memory, so it is only made while its size and its pause are small beside what is left.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# A list of all tracked objects takes 8 bytes and 13 ns for each; blocks of memory are at least as many as objects.
_LIST_BYTES_PER_BLOCK = 8
_COUNTED_BLOCKS_LIMIT = 4_000_000
_SLICE_OBJECTS = 10_000
_TYPES = 20
_TASK_KINDS = 20
_THREADS = 32
_FRAMES = 20
_REQUESTS = 20
_HOLDERS = 20
_TEXT = 200

Requests = Callable[[], Sequence[Mapping[str, Any]]]


def on_loop(held: Iterable[tuple[str, int]], requests: Requests | None) -> dict[str, Any]:
    """Gather what only the loop's thread may look at: holders, tasks, recent large requests."""
    largest = sorted(held, key=lambda one: one[1], reverse=True)[:_HOLDERS]
    tasks = asyncio.all_tasks()
    kinds = Counter(_task_kind(task) for task in tasks)
    return {
        "reclaimables": [{"name": name, "held_bytes": held_bytes} for name, held_bytes in largest],
        "tasks": {"count": len(tasks), "kinds": dict(kinds.most_common(_TASK_KINDS))},
        "large_requests": [_bounded(one) for one in list(requests())[:_REQUESTS]] if requests is not None else [],
    }


def off_loop(room_bytes: int) -> dict[str, Any]:
    """Gather the rest, in a thread: types by count, threads with their stacks, the allocator's numbers.

    Args:
        room_bytes: memory left below the limit; the count of types is left out when it would need a quarter of it.
    """
    blocks = sys.getallocatedblocks()
    is_affordable = blocks <= _COUNTED_BLOCKS_LIMIT and blocks * _LIST_BYTES_PER_BLOCK <= room_bytes // 4
    return {
        "allocated_blocks": blocks,
        "types": top_types() if is_affordable else [],
        "types_left_out": None if is_affordable else "listing that many objects needs more memory than is left",
        "threads": _threads(),
    }


def top_types() -> list[dict[str, Any]]:
    """Count tracked objects by type, most frequent first; between slices other threads run."""
    objects = gc.get_objects()
    counts: Counter[type] = Counter()
    for start in range(0, len(objects), _SLICE_OBJECTS):
        counts.update(map(type, objects[start : start + _SLICE_OBJECTS]))
        time.sleep(0)
    del objects
    return [{"type": f"{kind.__module__}.{kind.__qualname__}", "count": n} for kind, n in counts.most_common(_TYPES)]


def _threads() -> list[dict[str, Any]]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = []
    for ident, frame in list(sys._current_frames().items())[:_THREADS]:
        stack = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=_FRAMES, lookup_lines=False)
        lines = [f"{line.filename}:{line.lineno} {line.name}" for line in stack]
        found.append({"name": names.get(ident, str(ident)), "stack": lines})
    return found


def _task_kind(task: asyncio.Task[Any]) -> str:
    work = task.get_coro()
    return str(getattr(work, "__qualname__", None) or type(work).__name__)[:_TEXT]


def _bounded(request: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name)[:_TEXT]: value if isinstance(value, int | float) else str(value)[:_TEXT]
            for name, value in list(request.items())[:_REQUESTS]}  # fmt: skip
