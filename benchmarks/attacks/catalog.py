"""The six attacks: what each sends, how much for which box, and in how many seconds.

Amounts are sized so that each box comes under real pressure; what fits easily is no attack. Refusals of an attacker's own
requests are the server's right and are only counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from attacks.client import ANSWER_LIMIT_S, Client, Lost, request_head

ATTACK_S = 22.0
LEAK_MEGABYTES = 5
SLOW_UPLOADS = 500
ENTITIES = 100_000
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each attack fits a box's story.

    Attributes:
        leaks: calls of the leaking handler.
        spike_megabytes, spikes_at_once: one spike's requests.
        pile_megabytes: small objects before all but one of fifty are freed.
        fill_megabytes: what the cache is fed.
        large_uploads, large_bytes: uploads that stop one byte before their end.
    """

    leaks: int
    spike_megabytes: int
    spikes_at_once: int
    pile_megabytes: int
    fill_megabytes: int
    large_uploads: int
    large_bytes: int
    entity_bytes: int = 4000


@dataclass(frozen=True, slots=True)
class Profile:
    """A box, what is sent to it, and for how long; `box` are options of ``b1 box``."""

    name: str
    box: tuple[str, ...]
    size: Size
    attack_s: float = ATTACK_S


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("docker", ("--profile", "docker"), Size(470, 300, 4, 1500, 640, 56, 31 * MIB)),
        Profile("app-service", ("--profile", "app-service"), Size(165, 300, 1, 450, 640, 78, 8 * MIB)),
        # For a test of half a minute; never part of the table.
        Profile("small", ("--memory", "384MiB", "--swap", "0"), Size(60, 100, 1, 250, 100, 20, 8 * MIB), 12.0),
    )
}
TABLE_PROFILES = ("docker", "app-service")


@dataclass(slots=True)
class Target:
    """Where an attacker aims, and what it was answered."""

    port: int
    profile: Profile
    headers: dict[str, str]
    answers: Counter[str] = field(default_factory=Counter)

    async def post(self, client: Client, path: str) -> bool:
        """Send one request of the attack; say whether it was answered well."""
        try:
            answer = await client.ask("POST", path)
        except Lost:
            self.answers["lost"] += 1
            return False
        self.answers[str(answer.status)] += 1
        return answer.status == 200


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. `title` is formatted with the size."""

    name: str
    title: str
    run: Callable[[Target], Awaitable[None]]


async def leak(target: Target) -> None:
    """Call the leaking handler evenly, on one kept connection; what is refused is not asked again."""
    await _evenly(target, ["/attack/leak"] * target.profile.size.leaks)


async def spike(target: Target) -> None:
    """Allocate one spike, hold it for a second, free it; three times."""
    path = f"/attack/spike?megabytes={target.profile.size.spike_megabytes}&hold_s=1"
    for _ in range(3):
        begun_s = time.monotonic()
        clients = [Client(target.port, headers=target.headers) for _ in range(target.profile.size.spikes_at_once)]
        await asyncio.gather(*(target.post(client, path) for client in clients))
        for client in clients:
            client.close()
        await asyncio.sleep(max(0.0, begun_s + target.profile.attack_s / 3 - time.monotonic()))


async def fragments(target: Target) -> None:
    """Pile small objects up, then free all but one of fifty: what is left is spread over all pages."""
    await _evenly(
        target,
        ["/attack/pile?megabytes=10"] * (target.profile.size.pile_megabytes // 10),
        within_s=target.profile.attack_s - 4,
    )
    with contextlib.closing(Client(target.port, headers=target.headers)) as client:
        await target.post(client, "/attack/scatter")
    await asyncio.sleep(4)


async def fill(target: Target) -> None:
    """Have ever new values of 8 KB cached."""
    calls, each = target.profile.size.fill_megabytes * 1_000_000 // (128 * 8000), 128
    await _evenly(target, [f"/attack/fill?first={n * each}&count={each}&size_bytes=8000" for n in range(calls)])


async def entities(target: Target) -> None:
    """Have 100 000 distinct entities cached."""
    each = 200
    calls = ENTITIES // each
    paths = [
        f"/attack/fill?first={n * each}&count={each}&size_bytes={target.profile.size.entity_bytes}"
        for n in range(calls)
    ]
    await _evenly(target, paths)


async def uploads(target: Target) -> None:
    """Open 500 uploads that trickle and never end, and large ones that stop one byte before their end."""
    async with asyncio.timeout(target.profile.attack_s + ANSWER_LIMIT_S):
        tasks = [asyncio.create_task(_trickle(target, number)) for number in range(SLOW_UPLOADS)]
        tasks += [asyncio.create_task(_stall(target, number)) for number in range(target.profile.size.large_uploads)]
        await asyncio.sleep(target.profile.attack_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("leak", "a handler that leaks 5 MB per call, {leaks} calls", leak),
        Attack("spike", "a spike of {spikes_at_once} × {spike_megabytes} MB, three times", spike),
        Attack("fragments", "{pile_megabytes} MB of small objects, one of 50 survives", fragments),
        Attack("cache", "a cache fed {fill_megabytes} MB", fill),
        Attack("uploads", "500 uploads that trickle, {large_uploads} of {large_mib} MiB that stall", uploads),
        Attack("entities", "100 000 distinct entities cached", entities),
    )
}


def title_of(attack: Attack, profile: str) -> str:
    """Return the attack in words, with the box's amounts."""
    size = PROFILES[profile].size
    amounts = {name: getattr(size, name) for name in size.__slots__}
    return attack.title.format(**amounts, large_mib=size.large_bytes // MIB)


async def _evenly(target: Target, paths: list[str], *, within_s: float | None = None) -> None:
    within_s = within_s or target.profile.attack_s
    begun_s = time.monotonic()
    with contextlib.closing(Client(target.port, headers=target.headers)) as client:
        for number, path in enumerate(paths):
            await asyncio.sleep(max(0.0, begun_s + within_s * number / len(paths) - time.monotonic()))
            if time.monotonic() - begun_s > within_s * 1.25:
                target.answers["not sent in time"] += len(paths) - number
                return
            await target.post(client, path)


async def _trickle(target: Target, number: int) -> None:
    await asyncio.sleep(number * 5.0 / SLOW_UPLOADS)
    await _upload(target, [b"x" * 10] * 10_000, 1_000_000, pause_s=1.0)


async def _stall(target: Target, number: int) -> None:
    size = target.profile.size
    await asyncio.sleep(2.0 + number * 10.0 / size.large_uploads)
    pieces = [b"x" * min(256 * 1024, size.large_bytes - at) for at in range(0, size.large_bytes, 256 * 1024)]
    await _upload(target, pieces, size.large_bytes + 1, pause_s=0.05)


async def _upload(target: Target, pieces: list[bytes], length: int, *, pause_s: float) -> None:
    """Send a body that never ends; an early answer ends it, as it would a real client."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    except OSError:
        target.answers["no connection"] += 1
        return
    answered = asyncio.ensure_future(reader.read(16))
    try:
        writer.write(request_head("POST", "/attack/upload", length, target.headers))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.wait({answered}, timeout=pause_s)
            if answered.done():
                break
        first = await answered
        target.answers[first[9:12].decode() or "closed"] += 1
    except OSError:
        target.answers["closed"] += 1
    except asyncio.CancelledError:
        target.answers["never ended"] += 1
        raise
    finally:
        answered.cancel()
        writer.close()
