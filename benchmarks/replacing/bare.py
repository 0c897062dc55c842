"""The application for the peers, with nothing around it."""

from __future__ import annotations

from replacing.application import make_app

app = make_app()
