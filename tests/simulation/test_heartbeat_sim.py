"""The heartbeat under every single pause: deaths are told once and only where they are true, and nothing is left."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox import Sandbox
from asyncsandbox._core.component import ComponentState
from asyncsandbox._core.journal import Event
from asyncsandbox.components.heartbeat import BeatState, BeatStatus, HeartbeatSettings, SchedulerHeartbeat
from asyncsandbox.components.worker.trigger import Every
from asyncsandbox.testing import DeadlockError, Simulation, scenarios, simulate
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.world import world

PAUSES = scenarios(pauses=2, sweep=150)
LOOPS = {"naps": st.lists(st.sampled_from([0.5, 1.0, 2.5, 5.0]), min_size=1, max_size=4)}
WATCHED = {"outcomes": st.lists(st.sampled_from(["end", "raise", "cancel"]), min_size=1, max_size=4)}
STARTS = {"cancel_after": st.integers(0, 3), "ticks": st.booleans()}
JOBS = {"durations": st.lists(st.sampled_from([0.0, 4.0, 12.0, 23.0, 47.0]), max_size=3)}
STALLS = {"seconds": st.sampled_from([0.0, 0.4, 0.9, 1.0, 1.4, 1.6, 3.0])}
plain = settings(database=None, deadline=None)

EVERY, GRACE = 1.0, 1.0


def get_beat(heartbeat: SchedulerHeartbeat, name: str) -> BeatStatus:
    (beat,) = [beat for beat in heartbeat.get_health_status().beats if beat.name == name]
    return beat


def tell(heartbeat: SchedulerHeartbeat, name: str) -> list[str]:
    """Return what the journal says of a name."""
    events = heartbeat.services.journal.get_events()
    return [event.name.removeprefix("heartbeat.") for event in events if event.fields.get("beat") == name]


@settings(plain, max_examples=80)
@simulate(PAUSES, **LOOPS)
async def test_a_death_is_told_once_where_it_is_true_and_so_is_the_recovery(sim: Simulation, naps: list[float]) -> None:
    loop = asyncio.get_running_loop()
    last = {"even": 0.0, "odd": 0.0, "idle": 0.0}
    gaps: list[float] = []
    retired: set[str] = set()

    async with SchedulerHeartbeat() as heartbeat:

        def is_said_as_it_is() -> bool:
            for beat in heartbeat.get_health_status().beats:
                age = loop.time() - last[beat.name]
                states = [BeatState.DEAD] if age >= EVERY + GRACE else [BeatState.LATE] if age >= EVERY else []
                if beat.name in retired or heartbeat.get_status().state is not ComponentState.RUNNING:
                    states = [BeatState.STOPPED]
                if beat.state not in (states or [BeatState.STARTING, BeatState.HEALTHY]):
                    return False
            return True

        sim.always(is_said_as_it_is, "a state is what the last beat makes it")
        for name in last:
            heartbeat.expect(name, expect_every_seconds=EVERY, grace_seconds=GRACE)

        async def beat_on(name: str, naps: list[float]) -> None:
            for seconds in naps:
                await asyncio.sleep(seconds)
                if name == "odd":
                    gaps.append(loop.time() - last[name])
                last[name] = loop.time()
                heartbeat.beat(name)

        await asyncio.gather(beat_on("even", naps[::2]), beat_on("odd", naps))
        dead = sum(gap > EVERY + GRACE for gap in gaps)
        assert tell(heartbeat, "odd") == ["dead", "recovered"] * dead
        await asyncio.sleep(EVERY + GRACE + 1)
        assert not heartbeat.is_healthy()
        assert tell(heartbeat, "odd") == ["dead", "recovered"] * dead + ["dead"]
        assert tell(heartbeat, "idle") == ["dead"]
        heartbeat.stop_expecting("idle")
        retired.add("idle")
        await asyncio.sleep(100)
        assert tell(heartbeat, "idle") == ["dead"], "once"
        assert get_beat(heartbeat, "idle").state is BeatState.STOPPED
        sim.loop.timers._drop_cancelled()
        assert len(sim.loop.timers) == 0, "nothing is due, so nothing waits"


@settings(plain, max_examples=60)
@simulate(PAUSES, **WATCHED)
async def test_a_watched_block_is_a_beat_only_when_it_ends_well(sim: Simulation, outcomes: list[str]) -> None:
    async with SchedulerHeartbeat() as heartbeat:
        running = 0

        async def work(outcome: str) -> None:
            nonlocal running
            async with heartbeat.watch("billing"):
                running += 1
                try:
                    await asyncio.sleep(0)
                    if outcome == "raise":
                        raise OSError(outcome)
                    await asyncio.sleep(1 if outcome == "end" else 100)
                finally:
                    running -= 1

        tasks = [asyncio.create_task(work(outcome)) for outcome in outcomes]
        await asyncio.sleep(0.5)
        assert get_beat(heartbeat, "billing").running == running
        for task, outcome in zip(tasks, outcomes, strict=True):
            if outcome == "cancel":
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        beat = get_beat(heartbeat, "billing")
        assert (beat.running, beat.beats, beat.failures) == (0, outcomes.count("end"), outcomes.count("raise"))
        assert beat.last_error == ("OSError: raise" if beat.failures else None)
        kinds = {"end": type(None), "raise": OSError, "cancel": asyncio.CancelledError}
        assert [type(each) for each in ended] == [kinds[outcome] for outcome in outcomes], "it goes on unchanged"


@settings(plain, max_examples=60)
@simulate(PAUSES, **STARTS)
async def test_a_start_at_any_moment_cancelled_leaves_no_timer(sim: Simulation, cancel_after: int, ticks: bool) -> None:
    heartbeat = SchedulerHeartbeat(settings=HeartbeatSettings(watchdog=ticks, tick_seconds=1))
    heartbeat.expect("a", expect_every_seconds=60)

    async def live() -> None:
        async with heartbeat:
            await asyncio.sleep(1.5)

    lives = [asyncio.create_task(live()) for _ in range(2)]
    for _ in range(cancel_after):
        await asyncio.sleep(0)
    lives[0].cancel()
    with suppress(asyncio.CancelledError):
        await lives[0]
    await lives[1]
    await heartbeat.stop()
    assert heartbeat.get_status().state is ComponentState.STOPPED
    sim.loop.timers._drop_cancelled()
    assert len(sim.loop.timers) == 0
    await asyncio.sleep(100)
    assert get_beat(heartbeat, "a").state is BeatState.STOPPED
    async with heartbeat:
        assert get_beat(heartbeat, "a").state is BeatState.STARTING
        await asyncio.sleep(121)
        assert tell(heartbeat, "a") == ["dead"]


@settings(plain, max_examples=60)
@simulate(PAUSES, **STALLS)
async def test_a_loop_that_stands_still_is_told_of_by_the_tick_alone(sim: Simulation, seconds: float) -> None:
    ticking = HeartbeatSettings(watchdog=True, tick_seconds=0.5, stall_seconds=1)
    async with SchedulerHeartbeat(settings=ticking) as heartbeat:

        async def work() -> None:
            for _ in range(3):
                await asyncio.sleep(0.2)
            sim.loop.stall(seconds)  # what time.sleep does here
            await asyncio.sleep(1)

        await asyncio.gather(work(), asyncio.sleep(1))
        status = heartbeat.get_health_status()
        assert (seconds >= 1) >= bool(status.stall_count) >= (seconds >= 1.5)
        assert len(heartbeat.services.journal.get_events("heartbeat.stall")) == status.stall_count
        assert status.lag.max_seconds <= seconds
        assert heartbeat.is_healthy()


async def wait_for_ever() -> None:
    async with Sandbox():
        await asyncio.Event().wait()


def test_a_deadlock_is_still_noticed_beside_a_heartbeat() -> None:
    loop = SimLoop()
    with world(loop), pytest.raises(DeadlockError):
        loop.run(wait_for_ever())


@settings(plain, max_examples=10)
@simulate(scenarios(pauses=1, sweep=20))
async def test_a_whole_sandbox_lives_for_hours_beside_a_heartbeat(sim: Simulation) -> None:
    async with Sandbox() as sandbox:
        heartbeat = sandbox.heartbeat
        heartbeat.expect("main", expect_every_seconds=1, grace_seconds=1)
        for _ in range(3600):
            heartbeat.beat("main")
            await asyncio.sleep(1)
        assert await sandbox.is_ready()
        assert tell(heartbeat, "main") == []
        await asyncio.sleep(3600)
        assert not await sandbox.is_ready()
        assert tell(heartbeat, "main") == ["dead"]


@settings(plain, max_examples=60)
@simulate(PAUSES, **JOBS)
async def test_a_schedule_that_is_silent_turns_the_verdict_and_one_that_fires_turns_it_back(
    sim: Simulation, durations: list[float]
) -> None:
    loop = asyncio.get_running_loop()
    left = list(durations)
    sandbox = Sandbox(dry_run=False)
    told: list[tuple[str, float]] = []

    @sandbox.worker.scheduled(every_seconds=10, name="tick")
    async def tick() -> None:
        await asyncio.sleep(left.pop(0) if left else 0)

    def note(event: Event) -> None:
        if event.name.startswith(("schedule.", "heartbeat.")):
            told.append((event.name, loop.time()))

    sandbox._services.journal.subscribe(note)
    async with sandbox:
        await asyncio.sleep(10 * len(durations) + sum(durations) + 33.5)
        assert sandbox.heartbeat.is_healthy() is True, "in the end it fires on time"
        assert get_beat(sandbox.heartbeat, "schedule tick").state is BeatState.HEALTHY
        alerts = sandbox.alerts.get_alerts(task_name="heartbeat.dead")
        assert [alert.resolved for alert in alerts] == [False, True] * says(told, "dead")
    assert told[-1][0] == "schedule.stopped"
    assert get_beat(sandbox.heartbeat, "schedule tick").state is BeatState.STOPPED

    expected, since, skips = 0, 0.0, 0
    for name, at in told:
        if name in {"schedule.fired", "schedule.skipped"}:
            skips = 0 if name == "schedule.fired" else skips + 1
            if skips < 2:
                expected += at - since > 15 + 1e-6
                since = at
    assert says(told, "dead") == says(told, "recovered") == expected


def says(told: list[tuple[str, float]], what: str) -> int:
    return sum(name == f"heartbeat.{what}" for name, _ in told)


class BreaksOnThirdLook(Every):
    looks = 0

    def get_next(self, after: float) -> float:
        self.looks += 1
        if self.looks == 3:
            raise ValueError("no such day")
        return super().get_next(after)


@settings(plain, max_examples=30)
@simulate(PAUSES)
async def test_a_schedule_whose_task_died_is_silent(sim: Simulation) -> None:
    sandbox = Sandbox(dry_run=False)

    @sandbox.worker.scheduled(every_seconds=10, name="tick")
    async def tick() -> None:
        pass

    schedules = sandbox.worker._schedules
    schedules["tick"] = replace(schedules["tick"], trigger=BreaksOnThirdLook(10))
    async with sandbox:
        await asyncio.sleep(24)
        assert await sandbox.is_ready()
        await asyncio.sleep(2)
        assert not sandbox.heartbeat.is_healthy()
        assert not await sandbox.is_ready()
        (alert,) = sandbox.alerts.get_alerts(task_name="heartbeat.dead")
        assert (alert.severity, alert.context["beat"]) == ("critical", "schedule tick")
