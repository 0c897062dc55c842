"""Pantry in this process: the real ASGI stack, the real database, no server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app.main import app
from app.profile import b1
from b1 import Settings

EXPENSE = {
    "propertyId": 1,
    "category": "maintenance",
    "amountCents": 50_000,
    "currency": "INR",
    "description": "Test expense",
    "expenseDate": "2025-12-13T10:00:00Z",
    "paymentMode": "cash",
}
REVENUE = {key: value for key, value in EXPENSE.items() if key != "expenseDate"} | {
    "revenueDate": "2025-12-13T10:00:00Z",
    "category": "room",
}


class Pantry:
    """A client of a running Pantry."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def log_in(self, email: str = "user@example.com", password: str = "changeme") -> httpx.Response:
        return await self.http.post("/auth/login", json={"email": email, "password": password})

    async def member(self, email: str = "user@example.com", organization: int | str | None = None) -> Member:
        """Log in and return a client with that token."""
        answer = await self.log_in(email)
        assert answer.status_code == 200, answer.text
        return Member(self.http, answer.json()["accessToken"], organization)


class Member:
    """A client with a token."""

    def __init__(self, http: httpx.AsyncClient, token: str, organization: int | str | None = None) -> None:
        self._http = http
        self.headers = {"Authorization": f"Bearer {token}"}
        if organization is not None:
            self.headers["X-Organization-Id"] = str(organization)

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self._http.get(path, params=params, headers=self.headers)

    async def delete(self, path: str, **params: Any) -> httpx.Response:
        return await self._http.delete(path, params=params, headers=self.headers)

    async def put(self, path: str, body: Any) -> httpx.Response:
        return await self._http.put(path, json=body, headers=self.headers)

    async def post(
        self, path: str, body: Any = None, *, key: str | None = None, content: bytes | None = None
    ) -> httpx.Response:
        headers = self.headers if key is None else {**self.headers, "Idempotency-Key": key}
        if content is not None:
            return await self._http.post(path, content=content, headers={**headers, "Content-Type": "application/json"})
        return await self._http.post(path, json=body, headers=headers)

    async def spend(self, path: str = "/v1/finance/expenses", body: Any = None) -> httpx.Response:
        """Post with a new key."""
        return await self.post(path, EXPENSE if body is None else body, key=str(uuid.uuid4()))

    async def operate(self, operation: str, entity_data: dict[str, Any], **more: Any) -> httpx.Response:
        return await self.post("/v1/entities", {"operation": operation, "entity_data": entity_data, **more})


@asynccontextmanager
async def running(settings: dict[str, str]) -> AsyncIterator[Pantry]:
    """Start the application with these environment settings, and stop it."""
    b1.use(Settings.from_env(settings))
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    await inbox.put({"type": "lifespan.startup"})
    life = asyncio.create_task(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, inbox.get, outbox.put)
    )
    answer = asyncio.create_task(outbox.get())
    await asyncio.wait({life, answer}, return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        answer.cancel()
        await life
    started = await answer
    assert started["type"] == "lifespan.startup.complete", started
    try:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://pantry") as http:
            yield Pantry(http)
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await life
