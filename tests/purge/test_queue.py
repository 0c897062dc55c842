"""The queue against real receivers on loopback, and each adapter's message as its service wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from b1.clock import SystemClock
from b1.purge import Adapter, Cloudflare, Fastly, FrontDoor, PurgeOptions, PurgeQueue, Webhook
from tests.alerts.receiver import CLOSE, HANG, SECRET, Receiver, answer, is_authentic, receiving, until

CLOCK = SystemClock()
FAST: dict[str, Any] = {"linger_s": 0.005, "backoff_first_s": 0.005, "backoff_max_s": 0.02, "attempt_timeout_s": 5.0}


def base(receiver: Receiver) -> str:
    return receiver.url.partition("/hook")[0]


@asynccontextmanager
async def running(adapter: Adapter, *, allow_private: bool = True, **options: Any) -> AsyncIterator[PurgeQueue]:
    told = options.pop("told", None)
    queue = PurgeQueue(
        adapter,
        CLOCK,
        PurgeOptions(**(FAST | options)),
        allow_private=allow_private,
        on_trouble=told,
        chance=lambda: 0.0,
    )
    await queue.start()
    try:
        yield queue
    finally:
        await queue.aclose()


class TestAdapters:
    async def test_fastly_gets_the_keys_in_a_header_and_soft_as_another(self) -> None:
        async with receiving() as receiver, running(Fastly("svc/1", "tok", url=base(receiver))) as queue:
            queue.put(["o-1", "ledger:1"])
            (hard,) = await receiver.wait_for(1)
            queue.put(["o-2"], soft=True)
            soft = (await receiver.wait_for(2))[1]
        assert (hard.path, hard.body) == ("/service/svc%2F1/purge", b"")
        assert (hard.headers["fastly-key"], hard.headers["surrogate-key"]) == ("tok", "o-1 ledger:1")
        assert "fastly-soft-purge" not in hard.headers
        assert (soft.headers["surrogate-key"], soft.headers["fastly-soft-purge"]) == ("o-2", "1")

    async def test_fastly_gets_keys_that_no_header_holds_in_a_body(self) -> None:
        keys = [f"{number:03}{'x' * 200}" for number in range(100)]
        async with receiving() as receiver, running(Fastly("s", "t", url=base(receiver))) as queue:
            queue.put(keys)
            (request,) = await receiver.wait_for(1)
        assert "surrogate-key" not in request.headers
        assert request.document == {"surrogate_keys": keys}

    async def test_cloudflare_gets_thirty_tags_a_call(self) -> None:
        async with receiving() as receiver, running(Cloudflare("z1", "tok", url=base(receiver))) as queue:
            queue.put([f"t{number}" for number in range(70)], soft=True)
            requests = await receiver.wait_for(3)
            await until(lambda: queue.snapshot().delivered == 70)
        assert [len(request.document["tags"]) for request in requests] == [30, 30, 10]
        assert {request.path for request in requests} == {"/client/v4/zones/z1/purge_cache"}
        assert requests[0].headers["authorization"] == "Bearer tok"

    async def test_front_door_gets_the_paths_that_show_a_key_with_a_token_of_now(self) -> None:
        tokens = iter(["first", "second"])

        async def token() -> str:
            return next(tokens)

        def paths(key: str) -> list[str]:
            return ["/v1/reports/*", f"/v1/{key}"] if key != "unseen" else []

        resource = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Cdn/profiles/p/afdEndpoints/e"
        async with receiving(answer(202), answer(202)) as receiver:
            adapter = FrontDoor(resource, token, paths, domains=["www.example.com"], url=base(receiver))
            async with running(adapter) as queue:
                queue.put(["a", "b"])
                await receiver.wait_for(1)
                await until(lambda: queue.snapshot().delivered == 2)
                queue.put(["unseen"])
                await until(lambda: queue.snapshot().delivered == 3)
                queue.put_everything()
                requests = await receiver.wait_for(2)
        assert requests[0].path == f"{resource}/purge?api-version=2024-02-01"
        assert requests[0].document == {
            "contentPaths": ["/v1/reports/*", "/v1/a", "/v1/b"],
            "domains": ["www.example.com"],
        }
        assert [request.headers["authorization"] for request in requests] == ["Bearer first", "Bearer second"]
        assert requests[1].document["contentPaths"] == ["/*"]

    async def test_a_webhook_is_signed_like_an_alert_and_keeps_its_id_when_it_is_repeated(self) -> None:
        async with receiving(answer(500)) as receiver, running(Webhook(receiver.url, CLOCK, secret=SECRET)) as queue:
            queue.put(["a"], soft=True)
            first, again = await receiver.wait_for(2)
        assert first.path == "/hook?key=secret"
        assert first.document == {"type": "cache.purge", "surrogateKeys": ["a"], "soft": True, "everything": False}
        assert first.id == again.id
        assert is_authentic(first, SECRET) and is_authentic(again, SECRET)

    @pytest.mark.parametrize("kind", ["fastly", "cloudflare", "webhook"])
    async def test_everything_has_a_call_of_its_own(self, kind: str) -> None:
        async with receiving() as receiver:
            adapters: dict[str, Adapter] = {
                "fastly": Fastly("s", "t", url=base(receiver)),
                "cloudflare": Cloudflare("z", "t", url=base(receiver)),
                "webhook": Webhook(receiver.url, CLOCK),
            }
            async with running(adapters[kind]) as queue:
                queue.put(["a"])
                queue.put_everything()
                (request,) = await receiver.wait_for(1)
        said: dict[str, Callable[[], bool]] = {
            "fastly": lambda: request.path == "/service/s/purge_all",
            "cloudflare": lambda: request.document == {"purge_everything": True},
            "webhook": lambda: request.document["everything"] is True,
        }
        assert said[kind]()


class TestDelivery:
    async def test_what_is_put_in_one_moment_goes_in_one_call_each_key_once(self) -> None:
        async with receiving() as receiver, running(Webhook(receiver.url, CLOCK), linger_s=0.1) as queue:
            for number in range(50):
                queue.put([f"k{number % 10}"])
            (request,) = await receiver.wait_for(1)
            await until(lambda: queue.snapshot().delivered == 10)
        assert request.document["surrogateKeys"] == [f"k{number}" for number in range(10)]
        assert len(receiver.requests) == 1

    async def test_failures_of_every_kind_are_repeated_until_it_works_and_told_once(self) -> None:
        told: list[tuple[int, str]] = []
        wrong = [answer(500), CLOSE, b"rubbish\r\n\r\n", answer(401), answer(302), answer(500)]
        async with receiving(*wrong) as receiver:
            adapter = Webhook(receiver.url, CLOCK)
            async with running(
                adapter, trouble_after=3, told=lambda count, cause: told.append((count, cause))
            ) as queue:
                mark = queue.put(["a"])
                await receiver.wait_for(len(wrong) + 1)
                await until(lambda: queue.is_settled(mark))
                now = queue.snapshot()
        assert (now.failures, now.calls, now.delivered, now.waiting, now.failures_in_row) == (6, 7, 1, 0, 0)
        assert told == [(3, "it does not speak HTTP/1.1"), (0, "")]

    async def test_a_receiver_that_asks_for_time_gets_it(self) -> None:
        async with (
            receiving(answer(429, "Retry-After: 300")) as receiver,
            running(Webhook(receiver.url, CLOCK)) as queue,
        ):
            queue.put(["a"])
            await until(lambda: queue.snapshot().failures == 1)
            queue.put(["b"])
            assert queue._not_before_s - CLOCK.monotonic() > 200
        assert [request.document["surrogateKeys"] for request in receiver.requests[:1]] == [["a"]]

    async def test_one_key_that_is_disliked_does_not_hold_up_the_others(self) -> None:
        async with receiving(*[answer(400)] * 3) as receiver, running(Webhook(receiver.url, CLOCK)) as queue:
            queue.put(["bad", "b", "c", "d"])
            await until(lambda: queue.snapshot().delivered == 3)
            now = queue.snapshot()
        assert (now.refused, now.failures, now.waiting) == (1, 3, 0)

    async def test_a_receiver_that_hangs_costs_one_attempt(self) -> None:
        async with receiving(HANG) as receiver, running(Webhook(receiver.url, CLOCK), attempt_timeout_s=0.1) as queue:
            queue.put(["a"])
            await until(lambda: queue.snapshot().delivered == 1)
            assert queue.snapshot().last_failure == "no answer within 0.1 s"

    async def test_a_token_that_cannot_be_had_is_a_failure_and_no_end(self) -> None:
        tokens: list[Exception | str] = [RuntimeError("no identity"), "tok"]

        def token() -> str:
            given = tokens.pop(0)
            if isinstance(given, Exception):
                raise given
            return given

        async with receiving() as receiver, running(Cloudflare("z", token, url=base(receiver))) as queue:
            queue.put(["a"])
            await until(lambda: queue.snapshot().delivered == 1)
            assert queue.snapshot().last_failure == "RuntimeError"

    async def test_a_private_receiver_is_refused(self) -> None:
        async with receiving() as receiver, running(Webhook(receiver.url, CLOCK), allow_private=False) as queue:
            queue.put(["a"])
            await until(lambda: queue.snapshot().failures > 0)
            assert queue.snapshot().last_failure == "the receiver's address is not public"
        assert receiver.requests == []

    async def test_a_handler_that_fails_does_not_end_the_queue(self) -> None:
        def told(count: int, cause: str) -> None:
            raise RuntimeError

        async with (
            receiving(answer(500)) as receiver,
            running(Webhook(receiver.url, CLOCK), trouble_after=1, told=told) as queue,
        ):
            queue.put(["a"])
            await until(lambda: queue.snapshot().delivered == 1)

    async def test_text_that_is_no_key_never_reaches_a_header(self) -> None:
        async with receiving() as receiver, running(Fastly("s", "t", url=base(receiver))) as queue:
            queue.put(["a b", "a\r\nX: 1", "", "ü", "x" * 1025, "good"])
            (request,) = await receiver.wait_for(1)
        assert request.headers["surrogate-key"] == "good"

    async def test_one_connection_at_a_time(self) -> None:
        async with receiving() as receiver, running(Cloudflare("z", "t", url=base(receiver), limit=1)) as queue:
            queue.put([f"k{number}" for number in range(20)])
            await until(lambda: queue.snapshot().delivered == 20)
        assert receiver.open_most == 1


class TestTheEnd:
    async def test_a_stop_delivers_what_waits(self) -> None:
        async with receiving() as receiver:
            async with running(Webhook(receiver.url, CLOCK), linger_s=60.0) as queue:
                queue.put(["a"])
                await asyncio.sleep(0)
            assert queue.snapshot().delivered == 1
        assert len(receiver.requests) == 1

    async def test_a_stop_ends_though_nobody_answers(self, caplog: pytest.LogCaptureFixture) -> None:
        async with receiving(HANG) as receiver, running(Webhook(receiver.url, CLOCK), flush_s=0.05) as queue:
            queue.put(["a"])
            await receiver.wait_for(1)
        assert "purges were not delivered" in caplog.text

    async def test_a_stop_before_the_start_and_a_second_stop_are_harmless(self) -> None:
        queue = PurgeQueue(Webhook("http://127.0.0.1:9/", CLOCK), CLOCK)
        await queue.aclose()
        await queue.aclose()


def test_a_url_that_is_none_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="expected an http") as refused:
        PurgeQueue(Webhook("ftp://secret/", CLOCK), CLOCK)
    assert "secret" not in str(refused.value)


def test_a_queue_and_its_adapters_show_no_secret() -> None:
    adapters = (
        Fastly("s", "tok-secret"),
        Cloudflare("z", "tok-secret"),
        Webhook("https://x/secret", CLOCK, secret=SECRET),
    )
    shown = "".join(f"{adapter!r}{PurgeQueue(adapter, CLOCK)!r}" for adapter in adapters)
    assert "secret" not in shown and SECRET not in shown
