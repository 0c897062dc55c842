"""`b1 run [APP]`: check the settings, then become gunicorn.

Nothing stays of this process: exec keeps the process id, so the platform's SIGTERM reaches gunicorn. What stands on
gunicorn's command line wins over GUNICORN_CMD_ARGS and WEB_CONCURRENCY; everything else is in `b1.server.gunicorn`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from b1.cli.target import add_app_argument, find_target
from b1.plan import ALLOCATOR_ENVIRONMENT
from b1.settings import Settings

ANY_ADDRESS = "0.0.0.0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_app_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replace this process by gunicorn; does not return unless the settings are wrong."""
    environment = environment_for(arguments.app, os.environ)
    settings = Settings.from_env(environment)
    find_target(settings.app)
    command = gunicorn_command(settings)
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def environment_for(app: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the server: APP in it, and the current folder first where modules are looked for."""
    # The allocator reads its own variables when the process starts; a value that somebody chose stays.
    environment = {**ALLOCATOR_ENVIRONMENT, **environ}
    if app is not None:
        environment["B1_APP"] = app
    places = [os.getcwd(), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(places))
    return environment


def gunicorn_command(settings: Settings) -> list[str]:
    """Return the command line of gunicorn; these words cannot be overridden by its own variables."""
    host = settings.host or ANY_ADDRESS
    bind = f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
    return [
        sys.executable,
        "-m",
        "gunicorn",
        "--config",
        "python:b1.server.gunicorn",
        "--workers",
        "1",
        "--worker-class",
        "b1.server.worker.B1Worker",
        "--bind",
        bind,
        settings.app,
    ]
