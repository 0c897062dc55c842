"""The measure: FastAPI as its tutorial shows it, with nothing around it."""

from __future__ import annotations

from fastapi import FastAPI

from contenders.document import PATH, read_balance

app = FastAPI()
app.get(PATH)(read_balance)
