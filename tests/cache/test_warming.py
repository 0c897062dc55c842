"""Warming: what is warmed when, how it gives way, and what is said of its gain."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from b1.cache.warming import NotWarmed, WarmingOptions, Warmups
from b1.cache.warming.conditions import pause_s
from b1.cache.warming.jobs import Job, Jobs
from b1.cache.warming.looking import look
from b1.cache.warming.popular import Popular
from b1.clock import ManualClock
from b1.errors import ConfigurationError
from b1.types import Principal
from tests.cache.warming import ANN, BOB, Process, process, until


class TestThePopular:
    def test_it_finds_what_is_read_most_and_never_counts_too_much(self) -> None:
        chance, truth = random.Random(7), Counter[str]()
        popular = Popular(64, 1e12, ManualClock().monotonic)
        for _ in range(20_000):
            name = f"n{int(chance.paretovariate(1.0))}"
            truth[name] += 1
            popular.add(name)
        top = popular.top(10)
        assert {name for name, _ in truth.most_common(10)} == {name for name, _ in top}
        assert [] == [name for name, count in popular.top(64) if count > truth[name] + 1e-6]
        assert 64 == len(popular)

    def test_a_flood_of_names_that_come_once_counts_for_nothing(self) -> None:
        popular = Popular(8, 1e12, ManualClock().monotonic)
        for number in range(1000):
            popular.add(f"flood{number}")
        assert [] == popular.top(8, least=2)

    def test_a_reading_counts_half_after_a_half_life_however_long_it_runs(self, clock: ManualClock) -> None:
        popular = Popular(8, 60.0, clock.monotonic)
        popular.add("old", 8)
        clock.advance(120)
        popular.add("new", 3)
        assert [("new", pytest.approx(3)), ("old", pytest.approx(2))] == popular.top(2)
        clock.advance(60 * 200)
        popular.add("newest")
        assert [("newest", pytest.approx(1))] == popular.top(3, least=0.5)

    def test_it_tells_what_it_drops(self) -> None:
        dropped: list[str] = []
        popular = Popular(1, 60.0, ManualClock().monotonic, dropped.append)
        popular.add("a")
        popular.add("b")
        popular.drop("b")
        popular.drop("c")
        assert ["a", "b"] == dropped


class TestTheQueue:
    async def test_it_is_bounded_and_gives_the_most_urgent_first(self) -> None:
        async def nothing() -> tuple[str, ...]:
            return ()

        jobs = Jobs(3)
        wanted = [("l", "learnt", 9), ("p", "principal", 1), ("q", "principal", 5), ("c", "critical", 0)]
        left_out = [jobs.put(Job(name, kind, priority, nothing, 0.0)) for name, kind, priority in wanted]  # type: ignore[arg-type]
        assert [None, None, None, "l"] == [job and job.name for job in left_out]
        late = Job("z", "learnt", 1, nothing, 0.0)
        assert late is jobs.put(late)
        assert None is jobs.put(Job("p", "critical", 9, nothing, 0.0))  # it waits already
        assert ["c", "q", "p"] == [(await jobs.get()).name for _ in range(3)]

    def test_rests_leave_the_share_that_was_asked_for(self) -> None:
        options = WarmingOptions(share=0.1, pause_least_s=0.02, pause_most_s=30.0)
        assert [0.02, 0.9, 30.0] == [pytest.approx(pause_s(took, options)) for took in (0.0, 0.1, 100.0)]


class TestDeclaring:
    @pytest.mark.parametrize("more", [{"name": "taken"}, {"priority": float("nan")}, {"every_s": 0.0}])
    def test_nonsense_stops_the_start(self, more: dict[str, float]) -> None:
        async def load() -> None: ...

        warmups = Warmups()
        warmups.add("taken", load)
        with pytest.raises(ConfigurationError):
            warmups.add(**({"name": "one", "load": load} | more))  # type: ignore[arg-type]

    def test_paths_and_namespaces_are_checked(self) -> None:
        warmups = Warmups()
        warmups.path("/a")
        warmups.learn("report")(_load_key)
        for wrong in (
            lambda: warmups.path("a"),
            lambda: warmups.path("/a"),
            lambda: warmups.learn("report")(_load_key),
        ):
            with pytest.raises(ConfigurationError):
                wrong()


class TestTheStart:
    async def test_readiness_waits_for_what_is_critical_the_most_urgent_first(self) -> None:
        warmups, order = Warmups(), []
        for name, priority in (("low", 0), ("high", 9)):

            async def load(name: str = name) -> None:
                order.append(name)

            warmups.add(name, load, priority=priority)
        async with process(warmups, at_start=1) as one:
            assert ["high", "low"] == order
            assert {"critical": 2} == one.warming.snapshot().warmed

    async def test_readiness_waits_no_longer_than_its_bound_and_the_rest_follows(self) -> None:
        warmups, gate, done = Warmups(), asyncio.Event(), []

        async def slow() -> None:
            await gate.wait()
            done.append("slow")

        async def behind() -> None:
            done.append("behind")

        warmups.add("slow", slow, priority=1)
        warmups.add("behind", behind)
        async with process(warmups, at_start=1, start_wait_s=0.01) as one:  # real time: what is tested is the bound
            assert "slow" not in done
            gate.set()
            await until(lambda: len(done) == 2)
            await one.until_idle()
            assert {"critical": 2} == one.warming.snapshot().warmed

    async def test_no_more_than_so_many_run_at_a_time(self) -> None:
        warmups, running, most = Warmups(), [0], [0]
        for number in range(9):

            async def load() -> None:
                running[0] += 1
                most[0] = max(most[0], running[0])
                await asyncio.sleep(0)
                running[0] -= 1

            warmups.add(f"n{number}", load)
        async with process(warmups, at_start=3):
            assert 3 == most[0]

    async def test_under_pressure_the_start_waits_for_nothing(self) -> None:
        warmups, done = Warmups(), []

        async def load() -> None:
            done.append(1)

        warmups.add("one", load)
        async with process(warmups, starts=False) as one:
            one.weather.set("memory")
            one.naps.on_nap = lambda: one.weather.set("" if len(one.naps.taken) > 2 else "memory")
            await one.start()
            assert [] == done
            await one.until_idle()
            assert [1] == done

    async def test_switched_off_it_does_nothing(self) -> None:
        warmups, done = Warmups(), []

        async def load(*_: object) -> None:
            done.append(1)

        warmups.add("one", load)
        warmups.for_principal()(load)
        async with process(warmups, made={"enabled": False}) as one:
            one.warming.met(ANN)
            assert (0, 0, b"", "off") == (
                one.warming.rewarm(now=True), one.warming.absorb(b"x"), one.warming.export(), one.warming.state,
            )  # fmt: skip
            assert [] == done


class TestUsers:
    async def test_each_user_s_warm_ups_run_once_in_their_interval(self) -> None:
        warmups, done = Warmups(), []

        @warmups.for_principal(priority=1)
        async def inbox(principal: Principal) -> None:
            done.append(("inbox", principal.actor))

        @warmups.for_principal(priority=5, every_s=60)
        async def board(principal: Principal) -> None:
            done.append(("board", principal.actor))

        async with process(warmups) as one:
            for who in (ANN, ANN, BOB):
                one.warming.met(who)
            await one.until_idle()
            assert [("board", "ann"), ("board", "bob"), ("inbox", "ann"), ("inbox", "bob")] == done
            one.clock.advance(61)
            one.warming.met(ANN)
            await one.until_idle()
            assert [("board", "ann")] == done[4:]

    async def test_the_users_remembered_are_bounded(self) -> None:
        async with process(users=3) as one:
            for number in range(10):
                one.warming.met(Principal(str(number)))
            assert 3 == one.warming.snapshot().users


class TestGivingWay:
    @pytest.mark.parametrize("reason", ["memory", "database", "queue", "lag"])
    async def test_it_is_held_and_goes_on_by_itself(self, reason: str) -> None:
        warmups, done = Warmups(), []

        @warmups.for_principal()
        async def load(principal: Principal) -> None:
            done.append(one.weather.conditions().reason())

        async with process(warmups) as one:
            one.weather.set(reason)
            held: list[tuple[str, str]] = []

            def look() -> None:
                held.append((one.warming.state, one.warming.snapshot().held_by))
                if len(held) == 3:
                    one.weather.set("")

            one.naps.on_nap = look
            one.warming.met(ANN)
            await until(lambda: bool(done))
            assert [("held", reason)] * 3 == held[:3]
            assert ([""], {reason: 1}) == (done, one.warming.snapshot().holds)

    async def test_what_is_held_too_long_is_left_out(self) -> None:
        warmups, done = Warmups(), []

        @warmups.for_principal()
        async def load(principal: Principal) -> None:
            done.append(1)

        async with process(warmups, held_s=5.0) as one:
            one.weather.set("database")
            one.warming.met(ANN)
            await one.until_idle()
            assert ([], {"database": 1}) == (done, one.warming.snapshot().skipped)

    async def test_one_runs_at_a_time_with_rests_in_proportion(self) -> None:
        warmups, running = Warmups(), []

        @warmups.for_principal()
        async def load(principal: Principal) -> None:
            running.append(principal.actor)
            one.clock.advance(0.1)
            await asyncio.sleep(0)
            assert [principal.actor] == running
            running.clear()

        async with process(warmups, share=0.1) as one:
            one.warming.met(ANN)
            one.warming.met(BOB)
            await one.until_idle()
            assert [0.9, 0.9] == [pytest.approx(nap) for nap in one.naps.taken]
            now = one.warming.snapshot()
            assert ({"principal": 2}, 0) == (now.warmed, now.failed)
            assert {"principal": pytest.approx(200.0)} == now.cost_ms

    async def test_what_fails_or_hangs_is_counted_and_the_next_one_runs(self) -> None:
        warmups = Warmups()

        @warmups.for_principal(priority=3)
        async def fails(principal: Principal) -> None:
            raise ValueError("no")

        @warmups.for_principal(priority=2)
        async def hangs(principal: Principal) -> None:
            await asyncio.Event().wait()

        @warmups.for_principal(priority=1)
        async def declines(principal: Principal) -> None:
            raise NotWarmed("present")

        @warmups.for_principal()
        async def works(principal: Principal) -> None: ...

        async with process(warmups, load_s=0.01) as one:
            one.warming.met(ANN)
            async with asyncio.timeout(10):
                while not one.warming.snapshot().warmed:
                    await asyncio.sleep(0.001)
            now = one.warming.snapshot()
            assert (2, {"present": 1}, {"principal": 1}) == (now.failed, now.skipped, now.warmed)

    async def test_it_ends_at_once_when_the_process_drains(self) -> None:
        warmups, ended = Warmups(), []

        @warmups.for_principal()
        async def load(principal: Principal) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append(principal.actor)
                raise

        async with process(warmups) as one:
            one.warming.met(ANN)
            one.warming.met(BOB)
            await until(lambda: one.warming.snapshot().queued == 1)
            one.warming.stop()
            one.warming.met(Principal("late"))
            await until(lambda: bool(ended))
            await one.warming.aclose()
            now = one.warming.snapshot()
            assert (["ann"], "stopped", {"stopped": 1}, 0) == (ended, now.state, now.skipped, now.queued)


class TestTheGain:
    async def test_what_is_read_before_it_ends_is_gained_and_the_rest_wasted(self) -> None:
        warmups = Warmups()

        @warmups.critical(keys=("menu:1", ("menu:2", "7"), "menu:never"))
        async def menus() -> None:
            one.clock.advance(0.2)
            await one.cache.get_or_load("menu:1", _value, ttl_s=60)
            await one.cache.get_or_load("menu:2", _value, ttl_s=60, organization="7")

        async with process(warmups, starts=False) as one:
            await one.start()
            one.warming.sweep()
            now = one.warming.snapshot()
            assert (2, 0, 0, 1) == (now.followed, now.used, now.wasted, now.unmeasured)
            assert "value" == await one.cache.get("menu:1")
            one.warming.sweep()
            one.clock.advance(3600)
            one.warming.sweep()
            now = one.warming.snapshot()
            assert (0, 1, 1, 1) == (now.followed, now.used, now.wasted, now.unmeasured)
            assert pytest.approx(200 / 3) == now.saved_ms

    async def test_watching_an_entry_is_no_use_of_it(self) -> None:
        one = Process()
        await one.cache.get_or_load("menu:1", _value, ttl_s=60)
        for _ in range(3):
            one.warming.sweep()
        assert (False, False) == (look(one.l1, "menu:1") or ())[:2]
        await one.aclose()

    async def test_a_critical_one_is_repeated_when_it_says_so(self) -> None:
        warmups, done = Warmups(), []

        async def load() -> None:
            done.append(1)

        warmups.add("once", load)
        warmups.add("again", load, every_s=60)
        async with process(warmups) as one:
            one.warming.sweep()
            await one.until_idle()
            assert 2 == len(done)
            one.clock.advance(61)
            one.warming.sweep()
            await one.until_idle()
            assert 3 == len(done)


class TestWhatUseTeaches:
    async def test_keys_that_are_read_are_there_again_after_a_restart(self) -> None:
        clock = ManualClock()
        async with process(_reports(loads := []), clock=clock, least_count=1) as before:
            for _ in range(2):
                await _read(before, "report:1", "7", loads)
                await _read(before, "other:1", None, loads)  # nobody said how to load it
            await _read(before, "report:2", None, loads)  # nobody reads it again
            before.warming.sweep()
            left = before.warming.export()
        loads.clear()
        warmups = _reports(loads)
        async with process(warmups, clock=clock, least_count=1) as after:
            _serving[:] = [after]
            assert 1 == after.warming.absorb(left)
            await after.until_idle()
            assert [("report:1", "7")] == loads
            assert "value" == await after.cache.get("report:1", organization="7")
            after.warming.sweep()
            now = after.warming.snapshot()
            assert ({"learnt": 1}, 1, 0) == (now.warmed, now.used, now.wasted)

    @pytest.mark.parametrize(
        "data", [b"\xff", b"{}", b"[]", b'{"v":1,"s":[{"n":1}]}', b'{"v":1,"s":7}', b'{"v":9,"s":[]}']
    )
    async def test_gibberish_from_a_predecessor_teaches_nothing(self, data: bytes) -> None:
        async with process() as one:
            assert 0 == one.warming.absorb(data)

    async def test_what_is_passed_on_is_bounded(self) -> None:
        async with process(_reports([]), export_limit_bytes=1000, tracked=64, least_count=1) as one:
            for number in range(64):
                await _read(one, f"report:{number:0100}", None, [])
                await _read(one, f"report:{number:0100}", None, [])
            for _ in range(8):
                one.warming.sweep()
            assert 200 < len(one.warming.export()) <= 1000

    async def test_after_everything_was_invalidated_the_most_read_is_loaded_again(self) -> None:
        loads: list[tuple[str, str | None]] = []
        async with process(_reports(loads), sampled=64, least_count=1) as one:
            _serving[:] = [one]
            keys = [f"report:{number}" for number in range(10)]
            for key in keys:
                await _read(one, key, None, [])
                await _read(one, key, None, [])
            for _ in range(8):
                one.warming.sweep()
            assert 10 == one.warming.snapshot().tracked
            await one.cache.invalidate(everything=True)
            one.warming.sweep()
            await one.until_idle()
            assert (set(keys), 1) == ({key for key, _ in loads}, one.warming.snapshot().rewarmed)
            one.warming.sweep()
            assert 0 == one.warming.rewarm()  # it is all here, and it was a moment ago


class TestAfterEverythingWasInvalidated:
    async def test_what_was_declared_runs_again_paced(self) -> None:
        warmups, loads = Warmups(), list[str]()
        for name in ("menu", "rates"):

            async def load(name: str = name) -> None:
                loads.append(name)

            warmups.add(name, load)
        async with process(warmups) as one:
            one.warming.sweep()
            assert (["menu", "rates"], 0) == (loads, one.warming.snapshot().rewarmed)
            one.naps.taken.clear()
            await one.cache.invalidate(everything=True)
            one.warming.sweep()
            await one.until_idle()
            assert (["menu", "rates"] * 2, 1) == (loads, one.warming.snapshot().rewarmed)
            assert 2 == len(one.naps.taken)  # a rest after each

    async def test_a_second_time_within_the_minute_is_made_up_for_when_it_is_over(self) -> None:
        warmups, loads = Warmups(), list[str]()

        async def load() -> None:
            loads.append("menu")

        warmups.add("menu", load)
        async with process(warmups, rewarm_every_s=60) as one:
            for _ in range(2):
                await one.cache.invalidate(everything=True)
                one.warming.sweep()
                await one.until_idle()
            assert 2 == len(loads)
            one.clock.advance(60)
            one.warming.sweep()
            await one.until_idle()
            assert 3 == len(loads)
            one.clock.advance(60)
            one.warming.sweep()
            assert "idle" == one.warming.state

    async def test_users_get_theirs_when_they_are_met_again(self) -> None:
        warmups, loads = Warmups(), list[str]()

        @warmups.for_principal(every_s=3600)
        async def inbox(principal: Principal) -> None:
            loads.append(principal.actor)

        async with process(warmups) as one:
            for _ in range(2):
                one.warming.met(ANN)
                await one.until_idle()
            assert ["ann"] == loads
            await one.cache.invalidate(everything=True)
            one.warming.sweep()
            for principal in (ANN, ANN, BOB):
                one.warming.met(principal)
                await one.until_idle()
            assert ["ann", "ann", "bob"] == loads

    async def test_what_changed_before_the_start_is_no_reason_to_load_twice(self) -> None:
        warmups, loads = Warmups(), list[str]()

        async def load() -> None:
            loads.append("menu")

        warmups.add("menu", load)
        async with process(warmups, starts=False) as one:
            await one.cache.invalidate(everything=True)  # as the first connection to Redis, which has another epoch
            await one.start()
            one.warming.sweep()
            await one.until_idle()
            assert (["menu"], 0) == (loads, one.warming.snapshot().rewarmed)

    async def test_what_invalidates_less_than_everything_warms_nothing(self) -> None:
        warmups, loads = Warmups(), list[str]()

        async def load() -> None:
            loads.append("menu")

        warmups.add("menu", load)
        async with process(warmups) as one:
            await one.cache.invalidate(["a"], organization="1")
            one.warming.sweep()
            assert ("idle", 1) == (one.warming.state, len(loads))

    async def test_switched_off_it_does_nothing(self) -> None:
        warmups = Warmups()

        async def load() -> None:
            raise AssertionError

        warmups.add("menu", load)
        async with process(warmups, made={"enabled": False}) as one:
            await one.cache.invalidate(everything=True)
            one.warming.sweep()
            assert 0 == one.warming.snapshot().rewarmed


# The process that a registered load reads through.
_serving: list[Process] = []


def _reports(loads: list[tuple[str, str | None]]) -> Warmups:
    warmups = Warmups()

    @warmups.learn("report")
    async def load(key: str, organization: str | None) -> None:
        await _read(_serving[0], key, organization, loads)

    return warmups


async def _read(one: Process, key: str, organization: str | None, loads: list[tuple[str, str | None]]) -> None:
    async def load() -> str:
        loads.append((key, organization))
        return "value"

    await one.cache.get_or_load(key, load, ttl_s=3600, organization=organization)


async def _load_key(key: str, organization: str | None) -> None: ...


async def _value() -> str:
    return "value"
