"""How often the limit was met is not guessed: newer kernels keep the file of version 1 and no longer count in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from b1.box.version1 import Version1

LIMIT = 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("failcnt", "peak", "expected"), [(0, LIMIT, None), (0, LIMIT - 4096, 0), (7, LIMIT, 7), (None, LIMIT, None)]
)
def test_zero_at_the_limit_itself_means_that_nobody_counted(
    tmp_path: Path, failcnt: int | None, peak: int, expected: int | None
) -> None:
    (tmp_path / "memory.limit_in_bytes").write_text(f"{LIMIT}\n")
    (tmp_path / "memory.max_usage_in_bytes").write_text(f"{peak}\n")
    if failcnt is not None:
        (tmp_path / "memory.failcnt").write_text(f"{failcnt}\n")
    assert expected == Version1({"memory": tmp_path, "cpu": tmp_path}, []).usage().limit_hits
