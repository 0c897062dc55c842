"""`b1 limits simulate --app`: an application's own routes say what a request spends."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from b1.cli.simulation import load_rules, simulate

APPLICATION = """
from fastapi import FastAPI
from b1 import B1, Settings

app = FastAPI()
b1 = B1(app, settings=Settings())

@app.get("/limited/{number}")
@b1.limit("2/minute", by="actor")
async def limited(number: int) -> None: ...

@app.get("/beside")
@b1.limit("3/minute", with_default=True)
async def beside() -> None: ...
"""


def lines(*rows: str) -> io.StringIO:
    return io.StringIO("\n".join(["time,actor,method,path", *rows]))


@pytest.mark.parametrize("attribute", ["app", "b1"])
def test_an_application_and_its_profile_are_found(
    attribute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"simulated_{attribute}"
    (tmp_path / f"{name}.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    rules = load_rules(f"{name}:{attribute}")
    report = simulate(lines(*[f"{n},ann,GET,/limited/{n}?x=1" for n in range(4)], "5,ann,GET,/beside"), rules)
    if attribute == "app":
        assert report.total.refused == 2
        assert {name: count.requests for name, count in report.policies.items()} == {
            "limited-60s": 4, "beside-60s": 1, "read": 1,
        }  # fmt: skip
    else:  # a profile without its application knows no routes
        assert set(report.policies) == {"read"}
