"""The real commands as a user gives them: `b1 run` and `b1 migrate`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.real.client import Client
from tests.server.running import ROOT, Running, wait_for

SECRET = "a secret of these tests, 32 characters or more"
PANTRY = "app.main:app"
SMALL = "tests.real.small:app"


class Started(Running):
    """A server under its production command, with limits on. Ready when the block begins."""

    def __init__(
        self, folder: Path, app: str = PANTRY, *, command: Sequence[str] | None = None, **variables: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            folder,
            command=command or ("-m", "b1", "run", app),
            **{"ENABLE_RATE_LIMITING": "1", "AUTH_JWT_SECRET": SECRET, **variables},
        )
        self.client = Client(self.port)

    def __enter__(self) -> Started:
        try:
            wait_for(lambda: self.process.poll() is not None or self.client.is_up())
            assert self.process.poll() is None, self.log
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *reason: object) -> None:
        """End it in the orderly way first, so that slots and servers are left as a user leaves them."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                pass  # killed below; the tests of stopping are elsewhere
        super().__exit__(*reason)


def run_b1(*words: str, folder: Path | str = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of b1 to its end."""
    return subprocess.run(
        [sys.executable, "-m", "b1", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def migrate(url: str) -> None:
    """Bring the schema and the demo into the database at `url`."""
    done = run_b1("migrate", DATABASE_URL=url, B1_DEMO="1")
    assert done.returncode == 0, done.stderr
