"""Two instances of Pantry on one Redis and one Postgres: what one wrote the other reads, and `b1 cache` works on both."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.real.client import Answer, Client
from tests.real.server import Started, run_b1
from tests.servers import RedisServer

pytestmark = pytest.mark.real

TOKEN = "an admin token of these tests, long enough"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
CUSTOMER = {"entity_type": "CUSTOMER", "name": "Ann"}
ROUNDS = 10


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, pantry_url: str
) -> Iterator[tuple[Started, Started]]:
    variables = {
        "DATABASE_URL": pantry_url,
        "REDIS_URL": module_redis.url,
        "ADMIN_TOKEN": TOKEN,
        "B1_LIMIT_SCALE": "1000",
        "B1_INSTANCES": "2",
    }
    folder = tmp_path_factory.mktemp("pair")
    with Started(folder / "a", **variables) as one, Started(folder / "b", **variables) as other:
        yield one, other


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, pantry_url: str) -> Iterator[Started]:
    """Without Redis."""
    folder = tmp_path_factory.mktemp("alone")
    with Started(folder, DATABASE_URL=pantry_url, ADMIN_TOKEN=TOKEN, B1_LIMIT_SCALE="1000") as one:
        yield one


def created(member: Client, note: str) -> int:
    answer = member.post("/v1/entities", {"operation": "CREATE", "entity_data": {**CUSTOMER, "note": note}})
    assert answer.status == 201, answer
    return int(answer.json["id"])


def replace(member: Client, entity: int, name: str) -> Answer:
    body = json.dumps({"name": name}).encode()
    return member.call("PUT", f"/v1/entities/{entity}", body, {"Content-Type": "application/json"})


def gateway(member: Client, entity: int) -> Answer:
    return member.post("/v1/entities", {"operation": "READ", "entity_data": {"entity_type": "CUSTOMER", "id": entity}})


def cache_command(served: Started, *words: str) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{served.port}"
    done = run_b1("cache", *words, "--url", url, "--json", folder=served.state_dir.parent, ADMIN_TOKEN=TOKEN)
    return done.returncode, json.loads(done.stdout) if done.returncode in (0, 3) else done.stderr


def stats(served: Started) -> Any:
    return served.client.get("/internal/cache-stats", **ADMIN).json


def test_what_one_instance_wrote_the_other_reads_at_once(pair: tuple[Started, Started]) -> None:
    here = pair[0].client.log_in()
    there = here.at(pair[1].port)
    entity = created(here, "at once")
    path = f"/v1/entities/{entity}"

    for number in range(ROUNDS):
        writer, reader = (here, there) if number % 2 else (there, here)
        assert (200, 200) == (reader.get(path).status, gateway(reader, entity).status)
        replaced = replace(writer, entity, f"Ann {number}")
        assert replaced.status == 200, replaced
        found = (reader.get(path), gateway(reader, entity), writer.get(path))
        assert [f"Ann {number}"] * 3 == [one.json["attributes"]["name"] for one in found]
        assert entity in [one["id"] for one in reader.get("/v1/entities").json["items"]]


def test_readers_in_both_instances_never_fall_behind_a_writer(pair: tuple[Started, Started]) -> None:
    writer = pair[0].client.log_in("admin@example.com")
    entity = created(writer, "raced")
    written, is_over = [1], threading.Event()

    def read(port: int) -> list[tuple[int, int]]:
        reader = writer.at(port)
        late: list[tuple[int, int]] = []
        while not is_over.is_set():
            least = written[0]  # answered before this read began
            seen = [reader.get(f"/v1/entities/{entity}"), gateway(reader, entity)]
            late += [(one.json["version"], least) for one in seen if one.json["version"] < least]
        return late

    with ThreadPoolExecutor() as threads:
        readers = [threads.submit(read, one.port) for one in (*pair, *pair)]
        try:
            for number in range(3 * ROUNDS):
                written[0] = replace(writer, entity, f"Ann {number}").json["version"]
        finally:
            is_over.set()
        assert [[]] * 4 == [reader.result() for reader in readers]
    assert 3 * ROUNDS + 1 == written[0]


def test_a_posting_in_one_instance_is_in_the_others_totals(pair: tuple[Started, Started]) -> None:
    here = pair[0].client.log_in("owner@example.com")
    there = here.at(pair[1].port)
    reader = there

    def entries(one: Client) -> int:
        spent = one.get("/v1/finance/summary").json["currencies"].get("INR", {"expenses": {}})["expenses"]
        return int(spent.get("maintenance", {"entries": 0})["entries"])

    before = entries(reader)
    for number in range(ROUNDS):
        entries(reader)
        assert 201 == here.spend(f"totals-{number}").status
        assert before + number + 1 == entries(reader)


def test_what_one_instance_stored_the_other_serves(pair: tuple[Started, Started]) -> None:
    here = pair[0].client.log_in("manager@example.com")
    entity = created(here, "shared")
    here.get(f"/v1/entities/{entity}")
    assert "; hit" in here.get(f"/v1/entities/{entity}").headers["cache-status"]

    there = here.at(pair[1].port).get(f"/v1/entities/{entity}")

    assert "; hit" in there.headers["cache-status"]


def test_the_command_shows_and_ends_a_copy_everywhere(pair: tuple[Started, Started]) -> None:
    here = pair[0].client.log_in()
    there = here.at(pair[1].port)
    entity = created(here, "command")
    key = f"entity:{entity}:CUSTOMER"
    gateway(here, entity)
    gateway(there, entity)

    code, shown = cache_command(pair[0], "inspect", key, "--organization", "1")
    assert (0, False) == (code, shown["key"]["first"]["is_stale"])
    assert f"entity:1:{entity}" in shown["key"]["tags"]

    code, done = cache_command(pair[0], "invalidate", "--tag", f"entity:1:{entity}")
    assert (0, True, [f"entity:1:{entity}"]) == (code, done["reached_all"], done["invalidated"])

    for one in pair:
        first = cache_command(one, "inspect", key, "--organization", "1")[1]["key"]["first"]
        assert first is None or first["is_stale"]


@pytest.mark.parametrize("which", ["alone", "pair"])
def test_the_check_finds_nothing_wrong(which: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(which)
    served: Started = found[0] if isinstance(found, tuple) else found
    member = served.client.log_in()
    for number in range(5):
        gateway(member, created(member, f"check {number} {which}"))

    code, report = cache_command(served, "check", "--sample", "50")

    assert (0, True, 0) == (code, report["check"]["is_clean"], report["check"]["missed"])
    assert report["check"] == cache_command(served, "check", "--last")[1]["check"]


@pytest.mark.parametrize("which", ["alone", "pair"])
def test_the_stats_tell_layers_and_namespaces(which: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(which)
    served: Started = found[0] if isinstance(found, tuple) else found
    member = served.client.log_in()
    entity = created(member, f"stats {which}")
    for _ in range(3):
        member.get(f"/v1/entities/{entity}")
        gateway(member, entity)

    shown = stats(served)

    assert {"responses", "data", "identity"} == {one["layer"] for one in shown["layers"]}
    [entities] = [one for one in shown["namespaces"] if one["namespace"] == "entity"]
    assert entities["hits"] >= 2 and 0 < entities["hit_rate"] < 1
    assert 0 < shown["bytes"]["segments"] <= shown["bytes"]["accounted"] <= shown["limit_bytes"]
    assert {"size", "expired", "invalidated", "pressure", "quota"} == set(shown["evictions"])
    assert (which == "pair") == (shown["table"] is not None)
    assert shown["intents"]["is_durable"] and shown["intents"]["recorded"] >= 1


def test_a_page_may_not_touch_the_cache(pair: tuple[Started, Started]) -> None:
    asked = pair[0].client.call("DELETE", "/internal/cache?all=1", headers={**ADMIN, "Origin": "http://x"})
    assert (403, "FORBIDDEN") == (asked.status, asked.code)
