"""Duplicates wait for another's outcome: meanwhile others have their permits, and the host's connections are free."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from b1.admission import AdmissionOptions, Gate, Ticket
from b1.asgi.context import CONTEXT, RequestContext
from b1.asgi.middleware.idempotency import IdempotencyMiddleware
from b1.asgi.options import RouteOptions
from b1.asgi.routes import Route
from b1.clock import SystemClock
from b1.db import Database
from b1.idempotency import Attempt, IdempotencyOptions
from b1.store.base import Store
from b1.types import ASGIApp, Receive, Scope, Send
from tests.idempotency.harness import World, effects, make_thing, post, until

LIMIT = 4
DUPLICATES = 1000


class Admitted(RequestContext):
    """A request that knows its ticket."""

    ticket: Any = None


class Guarded(World):
    """One process behind a gate for `LIMIT` requests."""

    def __init__(self, database: Database | None = None, store: Store | None = None, **route: Any) -> None:
        options = IdempotencyOptions(transactional=database is not None, **route)
        super().__init__(database, store, route=options)
        limits = AdmissionOptions(initial_limit=LIMIT, least_limit=LIMIT, most_limit=LIMIT, queue_limit=2 * DUPLICATES,
                                  patience_s=60.0, target_s=60.0, standing_s=60.0)  # fmt: skip
        self.gate = Gate(limits, SystemClock())
        self.habits = self.gate.habits("/things", rank=1)
        self.most_connections = 0

    @property
    def permits(self) -> int:
        """Permits in use."""
        return sum(lane.running for lane in self.gate.snapshot().lanes)

    def serve(self, app: ASGIApp) -> ASGIApp:
        inner = IdempotencyMiddleware(app, self.service, permits=self.gate)

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            route = Route(scope["path"], RouteOptions(idempotency=self.route))
            context = Admitted("r", self.clock.monotonic(), route, {}, dict(scope["headers"]))
            context.principal = scope.pop("principal")
            scope["b1"] = context
            ticket = Ticket(self.habits, 1, self.clock.monotonic(), None, context)
            ticket.end_s = self.clock.monotonic() + 60.0
            refused = await self.gate.enter(ticket)
            assert refused is None, refused
            context.ticket = ticket
            token = CONTEXT.set(context)
            try:
                await inner(scope, receive, send)
            finally:
                CONTEXT.reset(token)
                self.gate.leave(ticket, is_honest=True)

        return outer


class Slow:
    """A handler that goes on when it may, for one key."""

    def __init__(self, world: Guarded) -> None:
        self.begun, self.go_on, self.world, self.runs = asyncio.Event(), asyncio.Event(), world, 0

    async def handle(self, attempt: Attempt, body: dict[str, Any]) -> Any:
        if "slow" not in body:
            return {"quick": True}
        self.runs += 1
        if self.world.database is None:
            self.begun.set()
            await self.go_on.wait()
            return {"id": 1}
        async with attempt.transaction():
            self.begun.set()
            await self.go_on.wait()
        self.world.most_connections = max(self.world.most_connections, self.world.database.snapshot().in_use)
        return await make_thing(attempt, body)


@pytest.mark.parametrize("ends_by", ["answer", "disconnect"])
async def test_who_waits_for_another_s_outcome_holds_no_permit(ends_by: str) -> None:
    world = Guarded(wait_s=20.0)
    slow = Slow(world)
    app = world.handle(slow.handle)
    first = asyncio.create_task(post(app, {"slow": 1}))
    await slow.begun.wait()
    waiting = [asyncio.create_task(post(app, {"slow": 1})) for _ in range(LIMIT)]
    await until(lambda: world.service.snapshot().waiting == LIMIT)
    assert world.permits == 1
    others = await asyncio.gather(*(post(app, {"a": 1}, f"other-{number}") for number in range(20)))
    assert {reply.status for reply in others} == {201}
    if ends_by == "disconnect":
        for task in waiting:
            task.cancel()
        await until(lambda: all(task.done() for task in waiting))
    slow.go_on.set()
    assert (await first).status == 201
    assert ends_by == "disconnect" or all([(await task).replayed for task in waiting])
    await until(lambda: world.permits == 0)
    assert world.gate.reading == 0
    await world.gate.aclose()


async def test_who_waited_in_vain_has_given_its_permit_back_once() -> None:
    world = Guarded(wait_s=0.05)
    slow = Slow(world)
    app = world.handle(slow.handle)
    first = asyncio.create_task(post(app, {"slow": 1}))
    await slow.begun.wait()
    refused = await asyncio.gather(*(post(app, {"slow": 1}) for _ in range(LIMIT)))
    assert {reply.code for reply in refused} == {"IDEMPOTENCY_IN_FLIGHT"}
    assert (world.permits, world.gate.reading) == (1, 0)
    slow.go_on.set()
    assert (await first).status == 201
    await world.gate.aclose()


async def test_who_polls_for_another_process_s_outcome_holds_no_permit() -> None:
    elsewhere = World()
    world = Guarded(store=elsewhere.store, wait_s=20.0)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(attempt: Attempt, body: dict[str, Any]) -> Any:
        begun.set()
        await go_on.wait()
        return {"id": 1}

    first = asyncio.create_task(post(elsewhere.handle(slow), {"slow": 1}))
    await begun.wait()
    app = world.handle(Slow(world).handle)
    second = asyncio.create_task(post(app, {"slow": 1}))
    await until(lambda: world.service.snapshot().in_flight == 1 and world.gate.reading == 1)
    assert world.permits == 0
    go_on.set()
    assert (await second).replayed and (await first).status == 201
    assert (world.permits, world.gate.reading) == (0, 0)
    await world.gate.aclose()


async def test_1000_duplicates_at_once_have_one_effect_and_others_go_through(database: Database) -> None:
    world = Guarded(database, wait_s=20.0)
    slow = Slow(world)
    app = world.handle(slow.handle)
    crowd = [asyncio.create_task(post(app, {"slow": 1})) for _ in range(DUPLICATES)]
    await slow.begun.wait()
    others = await asyncio.gather(*(post(app, {"a": 1}, f"other-{number}") for number in range(50)))
    assert {reply.status for reply in others} == {201}
    slow.go_on.set()
    replies = await asyncio.gather(*crowd)
    answers = [reply for reply in replies if reply.status == 201]
    refused = [reply for reply in replies if reply.status != 201]
    assert {reply.body for reply in answers} == {answers[0].body}
    assert {reply.code for reply in refused} <= {"IDEMPOTENCY_IN_FLIGHT"}
    assert (slow.runs, await effects(database), world.most_connections) == (1, 1, 1)
    assert sum(reply.replayed for reply in answers) == len(answers) - 1
    assert (await post(app, {"slow": 1})).replayed
    await world.gate.aclose()
