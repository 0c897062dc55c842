"""Known heads and what changes elsewhere: in another process, behind a proxy, or in a request before on the connection."""

from __future__ import annotations

from asyncio import get_running_loop, sleep, timeout
from typing import Any

import pytest
from fastapi import Request

from tests.asgi.test_express import Site, bare, running
from tests.asgi.test_known_heads import known


async def test_a_change_of_membership_in_another_process_reaches_known_heads(redis_url: str) -> None:
    async with running(REDIS_URL=redis_url) as here, running(REDIS_URL=redis_url) as there:
        request = here.get("/text", actor="joe")
        line = await known(here, request)
        identity = here.b1.runtime.identity
        misses = identity.misses
        there.b1.runtime.identity.forget("joe")
        async with timeout(10):
            while identity.misses == misses:
                assert (await line.ask(request))[0].status == 200
                await sleep(0.001)
        assert identity.misses == misses + 1


async def test_behind_a_proxy_each_address_has_its_own_units(redis_url: str) -> None:
    async with running(REDIS_URL=redis_url, B1_PROXY="azure") as site:
        one, two = (bare("/open", f"client-ip: 198.51.100.{number}:4711") for number in (1, 2))
        line = await known(site, one)
        (spent,) = await line.ask(one)
        (fresh,) = await line.ask(two)
        left = [int(answer.fields[b"x-ratelimit-remaining"]) for answer in (spent, fresh)]
        assert left[1] == int(fresh.fields[b"x-ratelimit-limit"]) - 1 > left[0]


async def test_nobody_is_told_to_go_on_who_did_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(site: Site) -> None:
        @site.app.post("/echo")
        async def echo(request: Request) -> int:
            return len(await request.body())

        @site.app.get("/body")
        @site.b1.cached(ttl_s=60)
        async def body(request: Request) -> int:
            return len(await request.body())

    async with running(prepare) as site:
        request = site.get("/body")
        line = await known(site, request)
        await line.ask(bare("/echo", "expect: 100-continue", "content-length: 2", method="POST") + b"ab")

        def silent(names: Any, caller: Any, fields: Any, tell: Any) -> bool:
            get_running_loop().call_soon(tell, None)
            site.state["b1.express"]._responses.l1.clear()  # so that the handler is asked
            return True

        monkeypatch.setattr(site.b1.runtime.limits, "decide_soon", silent)
        written = len(line.transport.written)
        await line.ask(request)
        assert b" 100 Continue" not in line.transport.written[written:]
