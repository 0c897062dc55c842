"""The peers' own virtual environment, made once per lock below ``.b1/`` (fastapi-cache2 needs an old redis client)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from measuring.processes import HERE

LOCK = HERE / "peers.txt"


def peers_python() -> Path:
    """Return the interpreter of the peers' environment; makes it when the lock or this Python is new.

    Raises:
        subprocess.CalledProcessError: the packages could not be installed; pip has said why.
    """
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = HERE.parent / ".b1" / f"peers-{digest}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing the peers of {LOCK.name}, once", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, symlinks=True)
        options = ["-qq", "--disable-pip-version-check", "--no-input", "--require-hashes"]
        subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *options, "-r", LOCK], check=True)
        (folder / "complete").touch()
    return python
