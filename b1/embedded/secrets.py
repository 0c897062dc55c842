"""Development secrets, made once per folder and kept, so that log-ins survive a restart.

Made only when nobody gave one and never for production, where a missing secret stops the start.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

FILE = "secrets.env"


def kept_secrets(state: Path, environ: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return a value for each of `names` that `environ` lacks, from the folder's file or made now and written there."""
    missing = [name for name in names if not environ.get(name) and not environ.get(f"{name}_FILE")]
    path = state / FILE
    kept = _read(path)
    made = {name: secrets.token_urlsafe(32) for name in missing if not kept.get(name)}
    if made:
        kept |= made
        _write(path, kept)
    return {name: kept[name] for name in missing}


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name: value for name, _, value in pairs}


def _write(path: Path, kept: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in kept.items())
    fresh.replace(path)
