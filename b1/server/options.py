"""What the server is told: the settings, the box and the plan, read once per process.

The master reads it for gunicorn's settings, and each worker again after the fork: secrets in files may have changed.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from b1.host import Host, read_host
from b1.plan import Plan, make_plan, state_dir
from b1.settings import Settings

ANY_ADDRESS = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Everything that the gunicorn config and the worker look at."""

    settings: Settings
    host: Host
    plan: Plan

    @property
    def bind(self) -> str:
        """The address in gunicorn's form."""
        address = self.settings.host or ANY_ADDRESS
        return f"[{address}]:{self.settings.port}" if ":" in address else f"{address}:{self.settings.port}"

    @property
    def log_format(self) -> str:
        """``json`` or ``console``."""
        return self.settings.log_format or ("json" if self.settings.is_production else "console")

    @property
    def state_dir(self) -> Path:
        """Where the master notes how workers ended."""
        return state_dir(self.settings, Path(tempfile.gettempdir()))


def read_options() -> ServerOptions:
    """Read the environment and the box.

    Raises:
        ConfigurationError: a setting is wrong; the message names it.
    """
    settings = Settings.from_env(os.environ)
    host = read_host(os.environ)
    return ServerOptions(settings, host, make_plan(host, settings))


@cache
def master_options() -> ServerOptions:
    """Return what was read when the master started; its environment does not change."""
    return read_options()
