"""The ladder holds, and imports weigh what they may weigh."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("fastapi", "starlette", "pydantic", "redis", "asyncpg", "prometheus_client", "jwt", "cryptography")


def imported_by(statement: str) -> set[str]:
    program = f"import sys, json; {statement}; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports_go_down_the_ladder() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout[-3000:]


@pytest.mark.parametrize(
    "statement",
    [
        "import b1",
        "import b1.cli.main, b1.cli.plan, b1.cli.run",
        "import b1.settings, b1.host, b1.plan",
        "import b1.server.gunicorn",
    ],
)
def test_commands_and_the_master_load_no_framework_and_no_driver(statement: str) -> None:
    assert set() == imported_by(statement) & set(HEAVY)


def test_an_app_without_redis_and_postgres_loads_no_driver() -> None:
    loaded = imported_by("from fastapi import FastAPI; from b1 import B1; B1(FastAPI())")
    assert set() == loaded & {"redis", "asyncpg", "jwt", "cryptography"}


def test_the_application_uses_public_names_alone() -> None:
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "app").rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith(("from b1.", "import b1."))
    ]
    assert [] == lines


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_locks_have_hashes_and_no_addresses(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    pinned = [line for line in text.splitlines() if line and line[0].isalpha()]
    assert pinned
    assert [] == [line for line in pinned if "==" not in line]
    assert text.count("--hash=sha256:") >= len(pinned)
