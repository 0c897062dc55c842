"""A record lives for a day and a deployment comes in between: the retry is compared by the definition that was used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from b1.asgi.middleware import idempotency as layer
from b1.idempotency import Attempt, ServiceOptions, SpoolOptions
from b1.idempotency import fingerprint as definitions
from b1.idempotency.fingerprint import (
    CURRENT,
    DEFINITIONS,
    FINGERPRINT_BYTES,
    Comparison,
    Definition,
    Keyed,
    compare,
    fingerprint,
    kept,
)
from tests.idempotency.harness import Reply, World, post, until
from tests.idempotency.modes import Mode

PAYLOADS: dict[str, dict[str, Any]] = {
    "json": {"body": b'{"b": [1.50, "x"], "a": null}', "content_type": b"application/json"},
    "text": {"body": b"plain", "content_type": b"text/plain; charset=UTF-8"},
    "form": {
        "body": b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n7\r\n--x--\r\n',
        "content_type": b"multipart/form-data; boundary=x",
    },
}
# What each definition makes of them. A line is never changed: whoever changes what is digested adds a definition.
FROZEN = {
    3: {
        "json": "03618e0ef5cc80a8b4f1204e8277c2bd",
        "text": "03bfd6a02e1e37135f74d294c1ae12ae",
        "form": "03fd02472fcd20977536b9ee07499827",
    },
}


@pytest.mark.parametrize("version", DEFINITIONS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_a_definition_never_changes(version: int, name: str) -> None:
    asked = fingerprint(
        method="POST",
        template="/things/{id}",
        path_values={"id": "1"},
        query=b"b=2&a=1",
        version=version,
        **PAYLOADS[name],
    )
    assert FROZEN[version][name] == kept(asked, version).hex()


def test_what_is_kept_begins_with_the_version_and_has_a_fixed_length() -> None:
    one = kept(bytes(range(32)))
    assert (one[0], len(one)) == (CURRENT, FINGERPRINT_BYTES)
    assert CURRENT == max(DEFINITIONS) and len(DEFINITIONS) <= 2


def by_length(body: bytes) -> bytes | None:
    """What JSON says, by a definition of long ago."""
    return b"%d" % len(body.strip())


EARLIER, LATER = CURRENT - 1, CURRENT + 1


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run another version from now on: its definition, and the one that it still knows."""
    known = {EARLIER: Definition("request/earlier", by_length), CURRENT: DEFINITIONS[CURRENT]}
    known[LATER] = Definition("request/later", DEFINITIONS[CURRENT].canonical)

    def deployed(current: int, *also: int) -> None:
        has = {version: known[version] for version in (current, *also)}
        for module in (definitions, layer):
            monkeypatch.setattr(module, "DEFINITIONS", has)
            monkeypatch.setattr(module, "CURRENT", current)

    return deployed


def answered(reply: Reply) -> tuple[int, bool, str | None]:
    return reply.status, reply.replayed, reply.headers.get("idempotency-payload-compared")


async def test_the_retry_of_the_version_before_is_compared_and_replayed(
    mode: Mode, deploy: Callable[..., None]
) -> None:
    deploy(EARLIER)
    assert answered(await post(mode.serve(), {"a": 1})) == (201, False, None)
    deploy(CURRENT, EARLIER)
    app = mode.serve()
    assert answered(await post(app, {"a": 1})) == (201, True, None)
    other = await post(app, {"a": 1, "longer": True})
    assert (other.status, other.code) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert (await mode.effects(), mode.worlds[-1].service.snapshot().not_compared) == (1, 0)


async def test_what_only_postgres_remembers_is_compared_too(mode: Mode, deploy: Callable[..., None]) -> None:
    if mode.database is None:
        return  # the case above
    deploy(EARLIER)
    await post(mode.serve(), {"a": 1})
    mode.store = World().store
    deploy(CURRENT, EARLIER)
    app = mode.serve()
    assert (await post(app, {"a": 1, "longer": True})).code == "IDEMPOTENCY_KEY_REUSED"
    assert answered(await post(app, {"a": 1})) == (201, True, None)
    mode.store = World().store
    deploy(LATER)
    assert answered(await post(mode.serve(), {"a": 1})) == (201, True, "false")
    assert (await mode.effects(), mode.worlds[-1].service.snapshot().not_compared) == (1, 1)


@pytest.mark.parametrize(
    ("wrote", "reads"),
    [((EARLIER,), (LATER, CURRENT)), ((LATER, CURRENT), (CURRENT, EARLIER))],
    ids=["long-ago", "rollback"],
)
async def test_by_a_definition_that_is_not_known_the_key_alone_decides_and_the_answer_says_so(
    mode: Mode, deploy: Callable[..., None], wrote: tuple[int, ...], reads: tuple[int, ...]
) -> None:
    """A refusal would have an honest client take a new key, and pay twice."""
    deploy(*wrote)
    first = await post(mode.serve(), {"a": 1})
    deploy(*reads)
    app = mode.serve()
    again, other = await post(app, {"a": 1}), await post(app, {"a": 2, "another": 1})
    assert [answered(again), answered(other)] == [(201, True, "false")] * 2
    assert {again.body, other.body} == {first.body}
    assert (await mode.effects(), mode.worlds[-1].service.snapshot().not_compared) == (1, 2)


async def test_a_duplicate_of_one_that_still_runs_by_another_definition_waits_for_it(
    mode: Mode, deploy: Callable[..., None]
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(attempt: Attempt, body: dict[str, Any]) -> Any:
        begun.set()
        await go_on.wait()
        return await mode.make(attempt, body)

    deploy(EARLIER)
    first = asyncio.create_task(post(mode.world().handle(slow), {"a": 1}))
    await begun.wait()
    deploy(LATER, CURRENT)
    second = asyncio.create_task(post(mode.serve(wait_s=15.0), {"a": 1}))
    await until(lambda: mode.worlds[-1].service.snapshot().in_flight == 1)
    go_on.set()
    assert [answered(await one) for one in (first, second)] == [(201, False, None), (201, True, "false")]
    assert await mode.effects() == 1


async def test_a_body_on_disk_is_read_again_for_its_earlier_fingerprint(
    mode: Mode, deploy: Callable[..., None]
) -> None:
    options = ServiceOptions(spool=SpoolOptions(memory_bytes=100))
    body = {"a": "x" * 1500}
    deploy(EARLIER)
    await post(mode.serve(options), body)
    deploy(CURRENT, EARLIER)
    app = mode.serve(options)
    assert answered(await post(app, body)) == (201, True, None)
    assert (await post(app, {"a": "x" * 1501})).code == "IDEMPOTENCY_KEY_REUSED"


def keyed(asked: bytes, by: bytes | None = None) -> Keyed:
    async def by_definition(_: int) -> bytes | None:
        return by

    return Keyed("k", b"d", asked, "1", "ann", by_definition)


@pytest.mark.parametrize(
    ("stored", "asked", "by_its_own", "expected"),
    [
        (b"\3a", b"\3a", None, Comparison.SAME),
        (b"\3a", b"\3b", b"\3a", Comparison.OTHER),  # of one definition, so nothing else is asked
        (b"\2a", b"\3b", b"\2a", Comparison.SAME),
        (b"\2a", b"\3b", b"\2b", Comparison.OTHER),
        (b"\1a", b"\3b", None, Comparison.UNKNOWN),
        (b"", b"\3b", b"\2a", Comparison.UNKNOWN),
    ],
)
async def test_two_fingerprints_are_compared_by_the_definition_of_the_stored_one(
    stored: bytes, asked: bytes, by_its_own: bytes | None, expected: Comparison
) -> None:
    assert await compare(stored, keyed(asked, by_its_own)) is expected


async def test_without_the_body_nobody_can_compare() -> None:
    assert await compare(b"\2a", Keyed("k", b"d", b"\3a", "1", "ann")) is Comparison.UNKNOWN
