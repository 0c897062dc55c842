"""`b1 dev [APP]`: everything embedded. Starts a private Postgres, the schema and the server, and replaces on change.

This process stays beside the application for as long as it runs, so it imports the standard library and light parts of
b1 alone; whatever needs asyncpg or the application is a child.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import b1
from b1.cli.greeting import greeting
from b1.cli.run import environment_for
from b1.cli.target import Target, add_app_argument, find_target
from b1.embedded import process
from b1.embedded.interrupts import Interrupts
from b1.embedded.postgres import EmbeddedPostgres, PostgresAbsent
from b1.embedded.secrets import kept_secrets
from b1.embedded.server import Server
from b1.embedded.watch import Watch
from b1.errors import ConfigurationError
from b1.settings import Settings

STATE_DIR = ".b1"
LOOPBACK = "127.0.0.1"
PORT_LIMIT_S = 3.0
READY_LIMIT_S = 60.0
LOOK_EVERY_S = 1.0
BOOT_FAILED = (3, 4)  # gunicorn's codes: a worker that cannot boot, an application that cannot be loaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_app_argument(parser)
    parser.add_argument("--no-reload", action="store_true", help="do not watch files")


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C and return 0, or the server's exit code when it ends by itself."""
    environment = development_environment(arguments.app, os.environ)
    settings = Settings.from_env(environment)
    target = find_target(settings.app)
    # An earlier start that was killed needs a moment to let go of the port.
    if not process.wait_until(
        lambda: process.can_bind(settings.host or LOOPBACK, settings.port), limit_s=PORT_LIMIT_S, every_s=0.1
    ):
        raise ConfigurationError(f"port {settings.port} is in use", remedy=f"PORT={settings.port + 1} takes another")
    with Interrupts() as interrupts, contextlib.ExitStack() as ending:
        development = Development(environment, target, interrupts)
        if (code := development.start(ending, watch=not arguments.no_reload)) is None:
            code = development.look_after()
        return 0 if interrupts.count else code


def development_environment(app: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the children: what was given, and development's defaults for the rest."""
    environment = environment_for(app, environ)
    environment.setdefault("B1_ENV", "development")
    environment.setdefault("HOST", LOOPBACK)
    environment["B1_STATE_DIR"] = str(Path(environment.get("B1_STATE_DIR") or STATE_DIR).absolute())
    if environment["B1_ENV"] == "development":
        environment.setdefault("B1_DEMO", "1")
        names = ["ADMIN_TOKEN"] if environment.get("AUTH_JWKS_URL") else ["ADMIN_TOKEN", "AUTH_JWT_SECRET"]
        environment |= kept_secrets(Path(environment["B1_STATE_DIR"]), environment, *names)
    return environment


class Development:
    """One run of `b1 dev`: the children and what is told to the user about them."""

    def __init__(self, environment: dict[str, str], target: Target, interrupts: Interrupts) -> None:
        self._environment = environment
        self._target = target
        self._interrupts = interrupts
        self._sources = Watch(())
        self._was_ready = False
        settings = Settings.from_env(environment)
        self._server = Server(
            [sys.executable, "-m", "b1", "run"], env=environment, host=settings.host or LOOPBACK, port=settings.port
        )

    def start(self, ending: contextlib.ExitStack, *, watch: bool) -> int | None:
        """Start everything; return an exit code when that is already the end.

        Args:
            ending: gets what has to be undone at the end, in reverse order.
            watch: replace the worker when a source file changes.
        """
        postgres = "DATABASE_URL"
        if not self._environment.get("DATABASE_URL") and not self._environment.get("DATABASE_URL_FILE"):
            postgres = self._start_postgres(ending)
        if self._interrupts.count or (code := self._migrate()):
            return 0 if self._interrupts.count else code
        if watch:
            self._sources = Watch(self._watched())
        ending.callback(self._stop)
        self._server.start()
        self._await_ready(postgres)
        return None

    def look_after(self) -> int:
        """Replace the worker on change until a stop is asked for or the server ends; return its exit code."""
        is_broken = False
        while not self._interrupts.wait(LOOK_EVERY_S):
            changed = self._sources.changed()
            code = self._server.exit_code
            if code is None:
                if changed and is_sound(changed):
                    self._replace(changed)
            elif code not in BOOT_FAILED or not self._was_ready:
                return code if code >= 0 else 128 - code
            elif not is_broken:
                say("the application does not load after this change; it starts again after the next one")
                is_broken = True
            elif changed and is_sound(changed):
                self._server.start()
                is_broken = False
        return 0

    def _start_postgres(self, ending: contextlib.ExitStack) -> str:
        """Start the private Postgres, put its URL into the environment, and return a word about it."""
        server = EmbeddedPostgres(Path(self._environment["B1_STATE_DIR"]), say=say)
        ending.callback(server.stop)
        try:
            self._environment["DATABASE_URL"] = server.start()
        except PostgresAbsent as absent:
            if self._target.migrations.exists():
                raise
            say(f"without a database: {absent}")  # an application without a schema can do without
            return "none"
        return f"a private one, {server.home}"

    def _migrate(self) -> int:
        """Bring the schema up to date in a process of its own; return its exit code."""
        command = [sys.executable, "-m", "b1", "migrate", "--quiet"]
        child = process.start(command, death_signal=signal.SIGTERM, own_group=True, env=self._environment)
        while child.poll() is None:
            if self._interrupts.wait(LOOK_EVERY_S):
                child.terminate()
                child.wait()
        return child.returncode

    def _await_ready(self, postgres: str) -> None:
        settings = Settings.from_env(self._environment)
        address = f"http://{'localhost' if settings.host == '0.0.0.0' else settings.host}:{settings.port}"
        self._was_ready = self._server.wait_ready(self._interrupts, limit_s=READY_LIMIT_S)
        if self._was_ready:
            print(greeting(settings, self._target, address=address, postgres=postgres), flush=True)
        elif self._server.exit_code is None and not self._interrupts.count:
            say(f"not ready after {READY_LIMIT_S:g} s, {address}/health/detailed says why")
            self._was_ready = True

    def _watched(self) -> set[Path]:
        library = Path(b1.__file__).parent
        return {self._target.top_folder} | (set() if "site-packages" in library.parts else {library})

    def _replace(self, changed: list[Path]) -> None:
        say(f"{_named(changed)} changed, replacing the worker")
        if any(path.suffix == ".sql" for path in changed) and self._migrate():
            say("the schema could not be brought up to date; the old worker stays")
            return
        self._server.reload()

    def _stop(self) -> None:
        if self._server.exit_code is None:
            last = self._interrupts.last
            say("stopping" if last is None else f"stopping ({last.name})")
        self._server.stop(self._interrupts)


def is_sound(changed: list[Path]) -> bool:
    """Return whether the changed Python files can be compiled; the worker that runs is kept while one cannot."""
    for path in changed:
        if path.suffix != ".py" or not path.exists():
            continue
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            say(f"{path}:{line}: {getattr(error, 'msg', error)}; the running worker stays")
            return False
        except OSError:
            continue  # removed while we looked
    return True


def say(sentence: str) -> None:
    """Tell the user one thing, on its own line and at once."""
    print(f"b1 dev: {sentence}", flush=True)


def _named(changed: list[Path]) -> str:
    first = os.path.relpath(changed[0])
    return first if len(changed) == 1 else f"{first} and {len(changed) - 1} more"
