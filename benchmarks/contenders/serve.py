"""Serve one contender with uvicorn, uvloop and httptools on one core: ``python -m contenders.serve APP PORT CORE``."""

from __future__ import annotations

import os
import sys

import uvicorn


def main(app: str, port: str, core: str) -> None:
    if core != "any":
        os.sched_setaffinity(0, {int(core)})
    uvicorn.run(
        app, host="127.0.0.1", port=int(port), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
