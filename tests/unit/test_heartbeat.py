"""The heartbeat: what it promises, and that each promise's test catches a heartbeat that breaks it."""

import asyncio
import gc
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtimes import must_catch
from virtual_time import VirtualLoop, run_virtual

from asyncsandbox._core.checks import CheckGroup, CheckStatus
from asyncsandbox._core.clock import is_virtual
from asyncsandbox._core.component import ComponentState
from asyncsandbox._core.context import correlation
from asyncsandbox._core.journal import Event, Level
from asyncsandbox.components.heartbeat import (
    BeatState,
    BeatStatus,
    HealthStatus,
    HeartbeatSettings,
    LagSummary,
    SchedulerHeartbeat,
    Stall,
)
from asyncsandbox.components.heartbeat.beats import Beats, Expectation
from asyncsandbox.components.heartbeat.lag import LagWindow
from asyncsandbox.components.heartbeat.monitor import Monitor
from asyncsandbox.components.heartbeat.stalls import read_stack
from asyncsandbox.components.heartbeat.watchdog import THREAD_NAME, Watchdog
from asyncsandbox.errors import ConfigurationError
from asyncsandbox.testing.loop import SimLoop

STARTING, HEALTHY, LATE, DEAD, STOPPED, UNKNOWN = BeatState
NAMES = st.sampled_from("abc")
SOON = 5.0  # how long a test waits for the machine before it fails


def tell(events: tuple[Event, ...]) -> list[tuple[object, ...]]:
    """Return of each event what it says of a beat."""
    return [(event.name, event.fields["beat"], event.fields["silent_seconds"]) for event in events]


def get_beat(heartbeat: SchedulerHeartbeat, name: str) -> BeatStatus:
    (beat,) = [beat for beat in heartbeat.get_health_status().beats if beat.name == name]
    return beat


# ------------------------------------------------------------------ P1: states and events follow from what happened


@dataclass
class Expected:
    """One name as the model sees it."""

    every: float | None = None
    grace: float = 0
    was_expected: bool = False
    since: float = 0
    changed_at: float = 0
    beaten: bool = False
    beats: int = 0
    failures: int = 0
    told_dead: bool = False

    @property
    def dies_at(self) -> float:
        return math.inf if self.every is None else self.since + self.every + self.grace


@dataclass
class Model:
    """What should be known: a few lines that look at every name all the time."""

    now: float = 0
    running: bool = True
    lines: dict[str, Expected] = field(default_factory=dict)
    told: dict[str, list[tuple[object, ...]]] = field(default_factory=lambda: {name: [] for name in "abc"})

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for name, line in self.lines.items():
            if self.running and line.dies_at <= self.now and not line.told_dead:
                line.told_dead = True
                at = max(line.dies_at, line.changed_at)
                self.told[name].append(("heartbeat.dead", name, at - line.since))

    def expect(self, name: str, every: float, grace: float) -> None:
        line = self.lines.setdefault(name, Expected())
        if line.every is None:
            line.since, line.beaten = self.now, False
        line.every, line.grace, line.was_expected, line.changed_at = every, grace, True, self.now

    def stop_expecting(self, name: str) -> None:
        line = self.lines.get(name, Expected())
        line.every, line.told_dead = None, False

    def beat(self, name: str) -> None:
        line = self.lines.setdefault(name, Expected())
        if line.told_dead:
            self.told[name].append(("heartbeat.recovered", name, self.now - line.since))
        line.since, line.beaten, line.told_dead = self.now, True, False
        line.beats += 1

    def fail(self, name: str) -> None:
        self.lines.setdefault(name, Expected()).failures += 1

    def cancel(self, name: str) -> None:
        self.lines.setdefault(name, Expected())

    def pause(self) -> None:
        self.running = False
        for line in self.lines.values():
            line.told_dead = False

    def resume(self) -> None:
        self.running = True
        for line in self.lines.values():
            line.since, line.beaten = self.now, False

    def judge(self, name: str) -> BeatState:
        line = self.lines[name]
        if line.every is None:
            return STOPPED if line.was_expected else UNKNOWN
        if not self.running:
            return STOPPED
        age = self.now - line.since
        if line.told_dead or age >= line.every + line.grace:
            return DEAD
        return LATE if age >= line.every else HEALTHY if line.beaten else STARTING

    def describe(self) -> list[tuple[object, ...]]:
        return [(name, self.judge(name), line.beats, line.failures) for name, line in sorted(self.lines.items())]


async def act(heartbeat: SchedulerHeartbeat, step: tuple[Any, ...]) -> None:
    """Do to the heartbeat what the model is told."""
    match step:
        case ("advance", seconds):
            await asyncio.sleep(seconds)
            await asyncio.sleep(0)  # what is due at this very moment comes first
        case ("expect", name, every, grace):
            heartbeat.expect(name, expect_every_seconds=every, grace_seconds=grace)
        case ("stop_expecting", name):
            heartbeat.stop_expecting(name)
        case ("beat", name, False):
            heartbeat.beat(name)
        case ("beat", name, True):
            async with heartbeat.watch(name):
                assert get_beat(heartbeat, name).running == 1
        case ("fail", name):
            with pytest.raises(ZeroDivisionError):
                async with heartbeat.watch(name):
                    raise ZeroDivisionError(name)
            assert get_beat(heartbeat, name).last_error == f"ZeroDivisionError: {name}"
        case ("cancel", name):
            with pytest.raises(asyncio.CancelledError):
                async with heartbeat.watch(name):
                    raise asyncio.CancelledError
        case ("pause",):
            await heartbeat.stop()
        case ("resume",):
            await heartbeat.start()
        case _:
            raise AssertionError(step)


def tell_model(model: Model, step: tuple[Any, ...]) -> None:
    if step[0] in {"pause", "resume"} and model.running is (step[0] == "resume"):
        return  # as it is already
    arguments = step[1:2] if step[0] == "beat" else step[1:]
    getattr(model, step[0])(*arguments)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.integers(0, 9).map(lambda n: n / 2)),
        st.tuples(st.just("advance"), st.integers(0, 9).map(lambda n: n / 2)),
        st.tuples(st.just("expect"), NAMES, st.integers(1, 5), st.integers(0, 3)),
        st.tuples(st.just("beat"), NAMES, st.booleans()),
        st.tuples(st.just("stop_expecting"), NAMES),
        st.tuples(st.sampled_from(["fail", "cancel"]), NAMES),
        st.sampled_from([("pause",), ("resume",)]),
    ),
    max_size=30,
)


def check_against_model(steps: list[tuple[Any, ...]], make: type[Beats] = Beats) -> None:
    """Take the steps with a heartbeat and with the model, and compare after each."""

    async def main() -> None:
        heartbeat, model = SchedulerHeartbeat(), Model()
        heartbeat._beats = make(100)
        async with heartbeat:
            for step in steps:
                await act(heartbeat, step)
                tell_model(model, step)
                status = heartbeat.get_health_status()
                assert [(b.name, b.state, b.beats, b.failures) for b in status.beats] == model.describe()
                assert all(beat.running == 0 for beat in status.beats)
                told = tell(heartbeat.services.journal.get_events())
                for name in "abc":
                    assert [each for each in told if each[1] == name] == model.told[name]
                alive = all(model.judge(name) is not DEAD for name in model.lines)
                assert status.healthy is heartbeat.is_healthy() is (model.running and alive)

    run_virtual(main())


@given(STEPS)
def test_states_and_events_follow_from_what_happened(steps: list[tuple[Any, ...]]) -> None:
    check_against_model(steps)


class TellsTwice(Beats):
    def pop_dead(self, now: float) -> list[tuple[str, float]]:
        dead = super().pop_dead(now)
        for name, _ in dead:
            self._expected[name].declared_dead = False
        return dead


class NeverRecovers(Beats):
    def beat(self, name: str, now: float) -> float | None:
        super().beat(name, now)
        return None


class LateTooLate(Beats):
    def _judge(self, line: Any, now: float) -> BeatState:
        return super()._judge(line, now - 0.5)


class BeatIsNoLifeSign(Beats):
    def beat(self, name: str, now: float) -> float | None:
        since = self._get(name).since
        silent = super().beat(name, now)
        self._get(name).since = since
        return silent


class FailureIsABeat(Beats):
    def leave(self, name: str, failed: str | None) -> None:
        super().leave(name, failed)
        if failed:
            self._get(name).beats += 1


class CancelIsAFailure(Beats):
    def leave(self, name: str, failed: str | None) -> None:
        super().leave(name, failed or "cancelled")


class StillExpecting(Beats):
    def stop_expecting(self, name: str) -> None:
        pass


class ForgetsLastBeat(Beats):
    def expect(self, name: str, expected: Expectation, now: float) -> None:
        super().expect(name, expected, now)
        self._expected[name].since = now


class KeepsTheLaterAlarm(Beats):
    def expect(self, name: str, expected: Expectation, now: float) -> None:
        before = self._expected.get(name)
        kept = before and before.alarm_at
        super().expect(name, expected, now)
        if kept is not None and self._expected[name].alarm_at != kept:
            self._expected[name].alarm_at = kept


class CountsWhileStopped(Beats):
    def start(self, now: float) -> None:
        since = {line.name: line.since for line in self._get_lines()}
        super().start(now)
        for line in self._get_lines():
            line.since = since[line.name]


class DiesWhileStopped(Beats):
    def stop(self) -> None:
        pass


@pytest.mark.parametrize(
    "broken",
    [
        TellsTwice,
        NeverRecovers,
        LateTooLate,
        BeatIsNoLifeSign,
        FailureIsABeat,
        CancelIsAFailure,
        StillExpecting,
        ForgetsLastBeat,
        KeepsTheLaterAlarm,
        CountsWhileStopped,
        DiesWhileStopped,
    ],
)
def test_a_wrong_book_of_beats_is_caught(broken: type[Beats]) -> None:
    must_catch(lambda steps: check_against_model(steps, broken), STEPS)


# ------------------------------------------------------------------ P2: time alone makes nothing better


GRAVITY = {STARTING: 0, HEALTHY: 0, LATE: 1, DEAD: 2}


def check_monotone(drawn: tuple[float, float, bool, list[float]], make: type[Beats] = Beats) -> None:
    every, grace, beaten, waits = drawn
    beats = make(1)
    beats.start(0)
    beats.expect("a", Expectation(expect_every_seconds=every, grace_seconds=grace), 0)
    if beaten:
        beats.beat("a", 0)
    now, before = 0.0, beats.judge("a", 0)
    for wait in waits:
        now += wait
        beats.pop_dead(now)
        state = beats.judge("a", now)
        assert GRAVITY[state] >= GRAVITY[before]
        assert (state is DEAD) == (now >= every + grace) or math.isclose(now, every + grace, abs_tol=1e-5)
        before = state


WAITS = st.tuples(
    st.floats(0.001, 1e6), st.floats(0, 1e6), st.booleans(), st.lists(st.floats(0, 1e6), min_size=1, max_size=20)
)


@given(WAITS)
def test_time_alone_makes_no_state_better(drawn: tuple[float, float, bool, list[float]]) -> None:
    check_monotone(drawn)


def test_a_state_that_gets_better_by_itself_is_caught() -> None:
    class Forgives(Beats):
        def _judge(self, line: Any, now: float) -> BeatState:
            return HEALTHY if now - line.since > 10 * line.expected.patience_seconds else super()._judge(line, now)

    must_catch(lambda drawn: check_monotone(drawn, Forgives), WAITS)


# ------------------------------------------------------------------ P3: percentiles


def check_percentiles(drawn: tuple[int, list[float]], make: type[LagWindow] = LagWindow) -> None:
    size, lags = drawn
    window = make(size)
    for lag in lags:
        window.add(lag)
    kept = lags[-size:]
    summary = window.summarize()
    assert summary.samples == len(kept)
    if not kept:
        assert summary == LagSummary(samples=0, p50_seconds=0, p95_seconds=0, p99_seconds=0, max_seconds=0)
        return
    for percent, value in ((50, summary.p50_seconds), (95, summary.p95_seconds), (99, summary.p99_seconds)):
        # The smallest that is no shorter than so many of them.
        assert value == min(each for each in kept if 100 * sum(lag <= each for lag in kept) >= percent * len(kept))
    assert summary.max_seconds == max(kept)


LAGS = st.tuples(st.integers(1, 120), st.lists(st.integers(0, 1000).map(lambda n: n / 1000), max_size=150))


@given(LAGS)
def test_percentiles_are_those_of_a_sorted_list(drawn: tuple[int, list[float]]) -> None:
    check_percentiles(drawn)


def test_wrong_percentiles_are_caught() -> None:
    class Floored(LagWindow):
        def summarize(self) -> LagSummary:
            ordered = sorted(self._lags) or [0.0]
            return replace(super().summarize(), p95_seconds=ordered[95 * (len(ordered) - 1) // 100])

    class Endless(LagWindow):
        def __init__(self, size: int) -> None:
            super().__init__(1000)

    for broken in (Floored, Endless):
        must_catch(lambda drawn, broken=broken: check_percentiles(drawn, broken), LAGS)


# ------------------------------------------------------------------ P4: what is a stall, in virtual time


TICK, THRESHOLD = 0.5, 1.0
TICKING = HeartbeatSettings(watchdog=True, tick_seconds=TICK, stall_seconds=THRESHOLD, lag_samples=50, max_stalls=3)


def check_stalls(blocks: list[tuple[float, float]], make: type[Monitor] = Monitor) -> None:
    """Let the loop stand still now and then; each block is how long nothing happens before it, and its length."""

    async def main() -> None:
        heartbeat = SchedulerHeartbeat(settings=TICKING)
        heartbeat._monitor = make(TICKING, heartbeat._tell_stall)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        least = most = 0
        async with heartbeat:
            for pause, seconds in blocks:
                await asyncio.sleep(pause)
                loop._now += seconds
                await asyncio.sleep(TICK)  # the next tick comes
                status = heartbeat.get_health_status()
                least += seconds >= THRESHOLD + TICK
                most += seconds >= THRESHOLD
                assert least <= status.stall_count <= most
                assert len(status.stalls) == min(status.stall_count, 3)
                if seconds >= THRESHOLD + TICK:
                    assert seconds - TICK <= status.stalls[-1].duration_seconds <= seconds
                    assert status.lag.max_seconds >= status.stalls[-1].duration_seconds
                least = status.stall_count
                most = status.stall_count
            events = heartbeat.services.journal.get_events("heartbeat.stall")
            assert len(events) == status.stall_count if blocks else not events
            kept = [event.fields["duration_seconds"] for event in events[-3:]]
            assert kept == [stall.duration_seconds for stall in heartbeat.get_status().stalls]
            assert all(event.level is Level.WARNING for event in events)

    run_virtual(main())


BLOCKS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), max_size=8).map(
    lambda drawn: [(pause / 16, seconds / 16) for pause, seconds in drawn]
)


@given(BLOCKS)
def test_a_long_stall_is_always_recorded_and_a_short_one_never(blocks: list[tuple[float, float]]) -> None:
    check_stalls(blocks)


class Deaf(Monitor):
    def _note(self, stall: Stall, now: float) -> None:
        if stall.duration_seconds >= 2 * THRESHOLD:
            super()._note(stall, now)


class Nervous(Monitor):
    def _tick(self) -> None:
        self._due -= THRESHOLD / 2
        super()._tick()


class Silent(Monitor):
    def _note(self, stall: Stall, now: float) -> None:
        self._on_stall = lambda _: None
        super()._note(stall, now)


class Hoarder(Monitor):
    def _note(self, stall: Stall, now: float) -> None:
        super()._note(stall, now)
        self._stalls = type(self._stalls)(self._stalls, maxlen=100)


@pytest.mark.parametrize("broken", [Deaf, Nervous, Silent, Hoarder])
def test_a_wrong_monitor_is_caught(broken: type[Monitor]) -> None:
    must_catch(lambda blocks: check_stalls(blocks, broken), BLOCKS)


def test_in_virtual_time_nothing_ticks_unless_told_to() -> None:
    def count_steps(settings: HeartbeatSettings) -> int:
        async def main() -> int:
            async with SchedulerHeartbeat(settings=settings):
                before = asyncio.get_running_loop()._steps
                await asyncio.sleep(3600)
                return asyncio.get_running_loop()._steps - before

        return run_virtual(main())

    assert count_steps(HeartbeatSettings()) == count_steps(HeartbeatSettings(watchdog=False)) < 5
    assert count_steps(HeartbeatSettings(watchdog=True, tick_seconds=1)) >= 3600


def test_the_simulated_loop_says_that_its_time_is_made_up() -> None:
    loop = SimLoop()
    assert is_virtual(loop)
    loop.close()


# ------------------------------------------------------------------ P5: names that are not due cost nothing


def test_beats_set_no_timers_and_idle_names_cost_no_steps() -> None:
    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        async with SchedulerHeartbeat() as heartbeat:
            timers = loop._scheduled
            for number in range(1000):
                heartbeat.expect(f"n{number}", expect_every_seconds=3600 + number)
            expected = len(timers)
            for number in range(1000):
                heartbeat.beat(f"n{number}")
            before = loop._steps
            await asyncio.sleep(3000)
            assert heartbeat.is_healthy()
            return expected, loop._steps - before

    timers, steps = run_virtual(main())
    assert timers == 1
    assert steps < 5


def test_a_name_that_beats_is_looked_at_once_in_its_patience() -> None:
    looks: list[float] = []

    class Counting(Beats):
        def pop_dead(self, now: float) -> list[tuple[str, float]]:
            looks.append(now)
            return super().pop_dead(now)

    async def main() -> None:
        heartbeat = SchedulerHeartbeat()
        heartbeat._beats = Counting(10)
        async with heartbeat:
            heartbeat.expect("billing", expect_every_seconds=10, grace_seconds=90)
            for _ in range(100):
                heartbeat.beat("billing")
                await asyncio.sleep(9)

    run_virtual(main())
    assert len(looks) <= 10


def test_stop_and_expect_again_and_again_piles_nothing_up() -> None:
    beats = Beats(10)
    beats.start(0)
    for now in range(1000):
        beats.expect("a", Expectation(expect_every_seconds=3600), now)
        beats.stop_expecting("a")
    assert len(beats._alarms) == 1
    assert beats.pop_dead(1e6) == []
    assert beats.next_alarm is None


def test_names_nobody_expects_are_bounded_and_expected_ones_stay() -> None:
    async def main() -> HealthStatus:
        async with SchedulerHeartbeat(settings=HeartbeatSettings(max_unexpected=3)) as heartbeat:
            heartbeat.expect("billing", expect_every_seconds=60)
            for number in range(10):
                heartbeat.beat(f"n{number}")
            heartbeat.beat("n8")
            return heartbeat.get_health_status()

    status = run_virtual(main())
    assert [(beat.name, beat.state, beat.beats) for beat in status.beats] == [
        ("billing", STARTING, 0),
        ("n7", UNKNOWN, 1),
        ("n8", UNKNOWN, 2),
        ("n9", UNKNOWN, 1),
    ]
    assert status.healthy


# ------------------------------------------------------------------ beats, by example


def test_what_is_said_of_a_name() -> None:
    async def main() -> list[BeatStatus]:
        said = []
        async with SchedulerHeartbeat() as heartbeat:
            heartbeat.expect("billing", expect_every_seconds=60, grace_seconds=30, critical=False)
            for seconds in (0, 61, 40):
                await asyncio.sleep(seconds)
                said.append(get_beat(heartbeat, "billing"))
            heartbeat.beat("billing")
            await asyncio.sleep(7)
            said.append(get_beat(heartbeat, "billing"))
            assert heartbeat.is_healthy()
        return [*said, get_beat(heartbeat, "billing")]

    said = run_virtual(main())
    assert [(beat.state, beat.age_seconds, beat.overdue_seconds) for beat in said] == [
        (STARTING, None, 0),
        (LATE, None, 1),
        (DEAD, None, 41),
        (HEALTHY, 7, 0),
        (STOPPED, 7, 0),
    ]
    assert {(beat.expect_every_seconds, beat.grace_seconds, beat.critical) for beat in said} == {(60, 30, False)}


async def test_the_grace_is_as_long_again_where_it_is_not_said() -> None:
    heartbeat = SchedulerHeartbeat()
    heartbeat.expect("billing", expect_every_seconds=60)
    beat = get_beat(heartbeat, "billing")
    assert (beat.grace_seconds, beat.critical, beat.state) == (60, True, STARTING)
    assert not heartbeat.is_healthy()  # nobody watches yet
    heartbeat.beat("billing")
    async with heartbeat:
        assert heartbeat.is_healthy()
        assert get_beat(heartbeat, "billing").state is STARTING  # counted from the start
    assert not heartbeat.is_healthy()


async def test_a_block_may_be_watched_several_times_at_once_and_beat_inside() -> None:
    heartbeat = SchedulerHeartbeat()
    async with heartbeat.watch("a"), heartbeat.watch("a"):
        heartbeat.beat("a")
        assert get_beat(heartbeat, "a").running == 2
        assert get_beat(heartbeat, "a").beats == 1
    beat = get_beat(heartbeat, "a")
    assert (beat.running, beat.beats, beat.failures, beat.last_error) == (0, 3, 0, None)


async def test_an_error_that_cannot_be_printed_is_named_by_its_type() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise OSError

    heartbeat = SchedulerHeartbeat()
    with pytest.raises(UnprintableError):
        async with heartbeat.watch("a"):
            raise UnprintableError
    assert get_beat(heartbeat, "a").last_error == "UnprintableError"


async def test_a_beat_from_a_thread_is_noted_and_told_on_the_loop() -> None:
    told_in: list[int] = []
    told = asyncio.Event()
    async with SchedulerHeartbeat() as heartbeat:
        heartbeat.services.journal.subscribe(lambda _: (told_in.append(threading.get_ident()), told.set()))
        await asyncio.to_thread(heartbeat.expect, "a", expect_every_seconds=0.001, grace_seconds=0)
        async with asyncio.timeout(SOON):
            await told.wait()
        assert not heartbeat.is_healthy()
        await asyncio.to_thread(heartbeat.beat, "a")
        await asyncio.to_thread(heartbeat.stop_expecting, "a")
        names = [event.name for event in heartbeat.services.journal.get_events() if event.fields.get("beat") == "a"]
        assert names[:2] == ["heartbeat.dead", "heartbeat.recovered"]
        assert get_beat(heartbeat, "a").state is STOPPED
    assert set(told_in) == {threading.get_ident()}


def test_a_beat_from_a_thread_after_the_loop_is_gone_does_nothing() -> None:
    heartbeat = SchedulerHeartbeat()
    asyncio.run(heartbeat.start())  # and never stopped
    thread = threading.Thread(target=heartbeat.beat, args=("a",))
    thread.start()
    thread.join()
    assert heartbeat.get_health_status().beats == ()
    require_no_watchdog()


def test_what_timers_publish_belongs_to_no_request() -> None:
    async def main() -> list[tuple[str, str | None]]:
        with correlation("req-1"):
            heartbeat = SchedulerHeartbeat(settings=TICKING)
            await heartbeat.start()
            heartbeat.expect("a", expect_every_seconds=1)
        await asyncio.sleep(2)
        asyncio.get_running_loop()._now += 5
        await asyncio.sleep(1)
        with correlation("req-2"):
            heartbeat.beat("a")
        await heartbeat.stop()
        return [(event.name, event.correlation_id) for event in heartbeat.services.journal.get_events()]

    assert run_virtual(main()) == [
        ("heartbeat.dead", None),
        ("heartbeat.stall", None),
        ("heartbeat.recovered", "req-2"),
    ]


def test_a_schedule_is_expected_as_long_as_its_events_say() -> None:
    async def main() -> None:
        heartbeat = SchedulerHeartbeat(settings=TICKING)
        await heartbeat.start()

        def say(event: str, **fields: object) -> None:
            heartbeat.services.journal.publish(event, component="worker", schedule="tick", **fields)

        def look() -> tuple[BeatState, int]:
            beat = get_beat(heartbeat, "schedule tick")
            return beat.state, beat.beats

        say("job.failed")
        say("schedule.started", next_in_seconds=10.0)
        assert look() == (BeatState.STARTING, 0)
        say("schedule.fired", next_in_seconds=10.0)
        assert look() == (BeatState.HEALTHY, 1)
        for _ in range(2):
            say("schedule.skipped", reason="the queue is full", next_in_seconds=10.0)
        assert look() == (BeatState.HEALTHY, 2), "once is a beat, time and again is as bad as silence"
        await asyncio.sleep(16)
        assert look() == (BeatState.DEAD, 2)
        say("schedule.fired", next_in_seconds=None)
        assert look() == (BeatState.STOPPED, 3)
        say("schedule.started", next_in_seconds=10.0)
        say("schedule.stopped")
        assert look()[0] is BeatState.STOPPED
        await heartbeat.stop()

    run_virtual(main())


# ------------------------------------------------------------------ readiness


async def ask(heartbeat: SchedulerHeartbeat) -> tuple[CheckStatus, str]:
    (check,) = heartbeat.get_checks()
    assert check.critical
    assert set(check.groups) == {CheckGroup.READINESS, CheckGroup.LIVENESS}
    result: Any = await check.fn()
    return result.status, result.output


def test_the_check_fails_for_a_death_and_warns_of_a_recent_stall() -> None:
    async def main() -> list[tuple[CheckStatus, str]]:
        heartbeat = SchedulerHeartbeat(settings=replace(TICKING, recent_seconds=60))
        said = [await ask(heartbeat)]
        async with heartbeat:
            heartbeat.expect("billing", expect_every_seconds=10)
            heartbeat.expect("mail", expect_every_seconds=15, critical=False)
            said.append(await ask(heartbeat))
            await asyncio.sleep(25.25)
            said.append(await ask(heartbeat))
            heartbeat.stop_expecting("billing")
            await asyncio.sleep(5)
            said.append(await ask(heartbeat))
            heartbeat.stop_expecting("mail")
            asyncio.get_running_loop()._now += 3
            await asyncio.sleep(1)
            said.append(await ask(heartbeat))
            await asyncio.sleep(60)
            said.append(await ask(heartbeat))
        return said

    assert run_virtual(main()) == [
        (CheckStatus.FAIL, "the heartbeat does not run: start it"),
        (CheckStatus.PASS, ""),
        (CheckStatus.FAIL, "no beat of 'billing', due for 15.2 s"),
        (CheckStatus.WARN, "no beat of 'mail', due for 15.2 s"),
        (CheckStatus.WARN, "the loop stood still for 2.75 s at an unknown line"),
        (CheckStatus.PASS, ""),
    ]


# ------------------------------------------------------------------ the thread, in real time


def require_no_watchdog() -> None:
    """Check that every watchdog ends soon."""
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(SOON)
            assert not thread.is_alive()


def nap_until(holds: Callable[[], bool]) -> None:
    """Block the loop, asleep."""
    deadline = time.monotonic() + SOON
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)


def spin_until(holds: Callable[[], bool]) -> None:
    """Block the loop, busy."""
    deadline = time.monotonic() + SOON
    while not holds() and time.monotonic() < deadline:
        sum(range(1000))


@pytest.mark.parametrize("block", [nap_until, spin_until])
async def test_a_stall_is_seen_while_it_lasts_and_told_when_it_is_over(block: Callable[..., None]) -> None:
    async with SchedulerHeartbeat() as heartbeat:
        journal = heartbeat.services.journal
        await asyncio.sleep(0.1)
        seen: list[HealthStatus] = []

        async def work() -> None:
            began = time.monotonic()
            block(lambda: heartbeat._monitor.get_current_stall() is not None)
            seconds = time.monotonic() - began
            assert 0.05 <= seconds <= 1, "seen within 200 ms, and a noisy machine is allowed five times that"
            seen.append(heartbeat.get_health_status())
            assert not journal.get_events("heartbeat.stall")

        await asyncio.create_task(work(), name="guilty")
        await asyncio.sleep(0.1)
        assert heartbeat.is_healthy()
        status = heartbeat.get_health_status()
    (during,) = seen
    assert not during.healthy
    assert during.current_stall is not None
    assert during.current_stall.duration_seconds >= 0.1
    assert status.current_stall is None
    stall = next(each for each in status.stalls if each.task == "guilty")
    assert stall.stack == during.current_stall.stack
    functions = [line.function for line in stall.stack]
    assert functions[0].endswith("work"), "the loop itself is left out"
    assert block.__name__ in functions
    line = next(line for line in stall.stack if line.function == block.__name__)
    assert (line.file, bool(line.source)) == (__file__, True)
    assert str(line).startswith(f"{__file__}:{line.line} in {block.__name__}: ")
    assert stall.where == str(stall.stack[-1])
    assert stall.duration_seconds >= 0.1
    assert status.lag.max_seconds >= stall.duration_seconds
    event = next(e for e in journal.get_events("heartbeat.stall") if e.fields["task"] == "guilty")
    assert event.fields["stack"] == tuple(map(str, stall.stack))
    json.dumps(asdict(during))
    with pytest.raises(FrozenInstanceError):
        stall.task = "other"


async def test_a_callback_that_blocks_has_no_task() -> None:
    seen: list[Stall | None] = []
    async with SchedulerHeartbeat() as heartbeat:

        def callback() -> None:
            spin_until(lambda: heartbeat._monitor.get_current_stall() is not None)
            seen.append(heartbeat._monitor.get_current_stall())

        await asyncio.sleep(0.06)
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0.1)
    (stall,) = seen
    assert stall is not None
    assert stall.task is None
    assert stall.stack[0].function.endswith("callback")


async def test_another_thread_sees_that_the_loop_stands_still() -> None:
    answers: list[bool] = []
    async with SchedulerHeartbeat() as heartbeat:
        await asyncio.sleep(0.06)
        ended = threading.Event()

        def look() -> None:
            deadline = time.monotonic() + SOON
            while heartbeat.is_healthy() and time.monotonic() < deadline:
                time.sleep(0.01)
            answers.append(heartbeat.is_healthy())
            ended.set()

        thread = threading.Thread(target=look)
        thread.start()
        ended.wait(SOON)
        thread.join()
    assert answers == [False]


def test_a_loop_between_two_runs_is_not_stalled() -> None:
    heartbeat = SchedulerHeartbeat()
    with asyncio.Runner() as runner:
        runner.run(heartbeat.start())
        watchdog = heartbeat._monitor._watchdog
        nap_until(lambda: watchdog.get_sample() is not None)
        assert heartbeat.get_health_status().current_stall is None
        before = heartbeat._monitor.stall_count
        samples = heartbeat.get_health_status().lag.samples
        runner.run(asyncio.sleep(0))
        assert heartbeat._monitor.stall_count == before
        assert heartbeat.get_health_status().lag.samples == samples
        runner.run(heartbeat.stop())
    require_no_watchdog()


async def test_the_thread_ends_with_the_heartbeat_at_once_and_starts_again() -> None:
    heartbeat = SchedulerHeartbeat(settings=HeartbeatSettings(tick_seconds=60, stall_seconds=60))
    for _ in range(3):
        await heartbeat.start()
        thread = heartbeat._monitor._watchdog._thread
        assert thread.is_alive()
        assert thread.daemon
        await heartbeat.stop()
        assert not thread.is_alive()
    assert heartbeat.get_status().state is ComponentState.STOPPED


async def test_a_failed_start_leaves_no_thread_and_no_timer() -> None:
    class Failing(SchedulerHeartbeat):
        async def _start(self) -> None:
            await super()._start()
            raise OSError("no")

    heartbeat = Failing()
    heartbeat.expect("a", expect_every_seconds=1)
    with pytest.raises(OSError, match="no"):
        await heartbeat.start()
    require_no_watchdog()
    loop: Any = asyncio.get_running_loop()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


async def test_a_thread_that_cannot_start_fails_the_start_cleanly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    heartbeat = SchedulerHeartbeat()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        await heartbeat.start()
    monkeypatch.undo()
    async with heartbeat:
        assert heartbeat.is_healthy()


def test_a_loop_closed_without_a_stop_ends_the_thread() -> None:
    asyncio.run(SchedulerHeartbeat().start())
    require_no_watchdog()
    gc.collect()


async def test_a_watchdog_looks_once_between_two_ticks() -> None:
    looks: list[float] = []

    class Counting(Watchdog):
        def _look(self, ticked_at: float) -> Any:
            looks.append(ticked_at)
            return super()._look(ticked_at)

    watchdog = Counting(asyncio.get_running_loop(), patience_seconds=0.01)
    watchdog.start()
    spin_until(lambda: bool(looks))
    spin_until(lambda: time.monotonic() - looks[0] > 0.1)
    sample = watchdog.tick()
    watchdog.end()
    watchdog.end()
    assert sample is not None
    assert watchdog.get_sample() is None
    assert len(set(looks)) == len(looks) == 1


def test_the_stack_of_a_thread_that_ended_is_empty() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    assert read_stack(-1) == ()


def test_a_line_without_source_says_where_it_is() -> None:
    namespace: dict[str, Any] = {"read_stack": read_stack, "threading": threading}
    exec(compile("def f():\n    return read_stack(threading.get_ident())", "<made up>", "exec"), namespace)
    line = namespace["f"]()[-2]
    assert str(line) == "<made up>:2 in f"
    assert Stall(started_at="", duration_seconds=1, task=None, stack=()).where == ""


# ------------------------------------------------------------------ while C code holds the interpreter


HOLDS_THE_INTERPRETER = """
import asyncio, re, sys
from asyncsandbox.components.heartbeat import HeartbeatSettings, SchedulerHeartbeat
from asyncsandbox.errors import ConfigurationError

def backtrack():
    re.match(r"(a|a)*$", "a" * int(sys.argv[1]) + "b")

async def main():
    settings = HeartbeatSettings(dump_seconds=0.1)
    async with SchedulerHeartbeat(settings=settings) as heartbeat:
        try:
            await SchedulerHeartbeat(settings=settings).start()
        except ConfigurationError as error:
            print(error)
        await asyncio.sleep(0.1)
        backtrack()
        await asyncio.sleep(0.1)
        for stall in heartbeat.get_status().stalls:
            print("stall", stall.duration_seconds >= 0.2)
    async with SchedulerHeartbeat(settings=settings):
        print("again")

asyncio.run(main())
"""


def test_a_call_that_holds_the_interpreter_is_dumped_while_it_lasts() -> None:
    size = 14
    while True:  # as long a call as this machine needs a fifth of a second for
        began = time.perf_counter()
        re.match(r"(a|a)*$", "a" * size + "b")
        if time.perf_counter() - began > 0.2:
            break
        size += 1
    ended = subprocess.run(
        [sys.executable, "-c", HOLDS_THE_INTERPRETER, str(size + 1)], capture_output=True, text=True, check=True
    )
    assert "dump_seconds=0.1 is not allowed" in ended.stdout
    assert "stall True" in ended.stdout
    assert ended.stdout.endswith("again\n")
    assert "Timeout" in ended.stderr
    assert "in backtrack" in ended.stderr


async def test_without_standard_error_there_is_no_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stderr__", None)
    heartbeat = SchedulerHeartbeat(settings=HeartbeatSettings(dump_seconds=60))
    with pytest.raises(ConfigurationError, match="no standard error"):
        await heartbeat.start()
    require_no_watchdog()


# ------------------------------------------------------------------ settings and names


@pytest.mark.parametrize(
    "wrong",
    [
        {"watchdog": 1},
        {"tick_seconds": 0},
        {"stall_seconds": 0},
        {"lag_samples": 0},
        {"max_stalls": 0},
        {"recent_seconds": -1},
        {"max_unexpected": 0},
        {"dump_seconds": 0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"HeartbeatSettings.{next(iter(wrong))}"):
        HeartbeatSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"expect_every_seconds": 0},
        {"expect_every_seconds": math.inf},
        {"grace_seconds": -1},
        {"critical": 1},
    ],
)
def test_a_wrong_expectation_is_refused(wrong: dict[str, Any]) -> None:
    heartbeat = SchedulerHeartbeat()
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        heartbeat.expect(**{"name": "a", "expect_every_seconds": 1, **wrong})
    assert heartbeat.get_health_status().beats == ()


def test_a_name_is_text() -> None:
    heartbeat = SchedulerHeartbeat()
    for call in (heartbeat.beat, heartbeat.watch):
        with pytest.raises(ConfigurationError, match="name"):
            call("  ")
    with suppress(KeyError):
        heartbeat.stop_expecting("nobody")
    assert heartbeat.get_health_status().beats == ()
