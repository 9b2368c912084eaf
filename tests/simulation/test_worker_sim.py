"""The worker under every single pause: what it acknowledged is never lost, and nothing else ever runs."""

import asyncio
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st

from asyncsandbox.components.worker import JobState, WorkerProcess, WorkerSettings
from asyncsandbox.errors import JobCancelledError, NotStartedError, SandboxError
from asyncsandbox.testing import Simulation, scenarios, simulate

PAUSES = scenarios(pauses=2, sweep=120)
LOSSES = {
    "cancelled": st.sets(st.integers(0, 5)),
    "unwanted": st.sets(st.integers(0, 5)),
    "grace": st.sampled_from([30.0, 0.15, 0.0]),
    "stops_after": st.sampled_from([0.1, 0.0, 0.3, 2.0]),
}
KEYS = {"takes": st.sampled_from([0.0, 0.2])}
ROOM = {"leaves": st.sets(st.integers(0, 4)), "steps": st.integers(0, 6)}
TIMES = {"takes": st.sampled_from([0.1, 0.5, 3.0])}
plain = settings(database=None, deadline=None)


class Factory:
    """A worker with two places, and what its jobs did."""

    def __init__(self, concurrency: int = 2, **more: object) -> None:
        self.worker = WorkerProcess(settings=WorkerSettings(concurrency=concurrency, **more))  # type: ignore[arg-type]
        self.begun: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.known: dict[int, str] = {}
        self.active = 0

    async def work(self, number: int, seconds: float = 0.2) -> int:
        self.begun[number] += 1
        self.active += 1
        try:
            await asyncio.sleep(seconds)
            self.ended[number] += 1
        finally:
            self.active -= 1
        return number

    async def submit(self, number: int) -> None:
        self.known[number] = await self.worker.submit_job("work", self.work, number)

    def get_states(self) -> Counter[str]:
        jobs = self.worker.get_status().jobs
        return Counter({state.value: getattr(jobs, state.value) for state in JobState})


@settings(plain, max_examples=60)
@simulate(PAUSES, **LOSSES)
async def test_no_acknowledged_job_is_lost_and_no_other_runs(
    sim: Simulation, cancelled: set[int], unwanted: set[int], grace: float, stops_after: float
) -> None:
    factory = Factory(max_queued=2, grace_seconds=grace)
    worker = factory.worker
    sim.always(lambda: factory.active <= 2, "no more at a time than its concurrency")
    sim.always(lambda: worker.get_status().jobs.queued <= 2, "no more in the queue than there is room for")
    sim.always(lambda: sum(factory.get_states().values()) >= len(factory.known), "whoever knows an id is accounted for")
    await worker.start()
    submitters = [asyncio.create_task(factory.submit(number)) for number in range(6)]
    await asyncio.sleep(0.05)
    for number in sorted(cancelled):
        submitters[number].cancel()
    asked = {number for number in unwanted if number in factory.known}
    for number in sorted(asked):
        await worker.cancel(factory.known[number])
    await asyncio.sleep(stops_after)
    await worker.stop()
    ends = await asyncio.gather(*submitters, return_exceptions=True)
    assert all(end is None or isinstance(end, asyncio.CancelledError | NotStartedError) for end in ends)
    assert {n for n, end in enumerate(ends) if end is None} == set(factory.known)
    states = {number: (await worker.get_job_status(job_id)).state for number, job_id in factory.known.items()}
    assert sum(factory.get_states().values()) == len(states), "what was not acknowledged is not there"
    assert {number for number, state in states.items() if state is JobState.SUCCEEDED} == set(factory.ended)
    assert all(state.has_ended for state in states.values())
    assert set(factory.begun.values()) <= {1}
    assert set(factory.begun) <= set(states)
    assert factory.active == 0
    assert all(task.done() for task in worker._tasks)
    if grace == 30 and not asked:
        assert set(states.values()) <= {JobState.SUCCEEDED}, "the grace was long enough"


@settings(plain, max_examples=30)
@simulate(PAUSES, **KEYS)
async def test_one_key_runs_once_at_a_time_and_everybody_gets_its_result(sim: Simulation, takes: float) -> None:
    factory = Factory()
    worker = factory.worker
    sim.always(lambda: factory.active <= 1, "one key, one job at a time")
    results: list[object] = []

    async def ask() -> None:
        job_id = await worker.with_options(unique_key="report").submit_job("work", factory.work, 7, takes)
        results.append(await worker.get_result(job_id))

    async with worker:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ask())
        assert results == [7] * 4
        first = factory.begun[7]
        await ask()
        assert factory.begun[7] == first + 1, "the key is free again"


@settings(plain, max_examples=40)
@simulate(PAUSES, **ROOM)
async def test_submitters_are_let_in_in_the_order_they_came(sim: Simulation, leaves: set[int], steps: int) -> None:
    factory = Factory(concurrency=1, max_queued=1)
    worker = factory.worker
    accepted: list[int] = []
    came: list[int] = []

    async def submit(number: int) -> None:
        came.append(number)
        await factory.submit(number)
        accepted.append(number)

    sim.always(lambda: worker.get_status().jobs.queued <= 1, "no more in the queue than there is room for")
    async with worker:
        tasks = [asyncio.create_task(submit(number)) for number in range(8)]
        await asyncio.sleep(0.2)  # when the first job ends and makes room
        for _ in range(steps):
            await asyncio.sleep(0)
        for number in sorted(leaves):
            tasks[number + 2].cancel()
        await asyncio.wait(tasks)
        await worker.drain()
    assert accepted == [number for number in came if number in factory.known]
    assert {n for n in range(8) if not tasks[n].cancelled()} == set(factory.known) == set(factory.ended)


@settings(plain, max_examples=30)
@simulate(PAUSES, **TIMES)
async def test_a_job_out_of_time_is_tried_again_and_then_dead(sim: Simulation, takes: float) -> None:
    factory = Factory(retry_base_seconds=0.1)
    worker = factory.worker
    sim.always(lambda: factory.active <= 1, "an attempt begins when the one before has ended")
    async with worker:
        patient = worker.with_options(timeout_seconds=1, max_retries=2)
        job_id = await patient.submit_job("work", factory.work, 1, takes)
        await worker.drain()
        status = await worker.get_job_status(job_id)
        if takes < 1:
            assert status.state is JobState.SUCCEEDED or factory.begun[1] == 3
        else:
            assert (status.state, status.attempt, factory.ended[1]) == (JobState.DEAD, 3, 0)
        assert factory.begun[1] == status.attempt


@settings(plain, max_examples=30)
@simulate(PAUSES)
async def test_a_cancelled_job_is_over_for_whoever_waits(sim: Simulation) -> None:
    factory = Factory()
    worker = factory.worker
    async with worker:
        await asyncio.gather(*(factory.submit(number) for number in range(4)))
        waiting = asyncio.create_task(worker.get_result(factory.known[3]))
        await asyncio.sleep(0)
        cancelled = {number for number in (0, 3) if await worker.cancel(factory.known[number])}
        try:
            assert await waiting == 3
        except JobCancelledError:
            assert factory.ended[3] == 0
        await worker.drain()
        states = [(await worker.get_job_status(factory.known[number])).state for number in range(4)]
        assert [state.has_ended for state in states] == [True] * 4
        assert {n for n, state in enumerate(states) if state is JobState.CANCELLED} == cancelled
        assert {n for n, state in enumerate(states) if state is JobState.SUCCEEDED} == set(factory.ended)


@settings(plain, max_examples=20)
@simulate(PAUSES)
async def test_drain_ends_when_nothing_is_left(sim: Simulation) -> None:
    factory = Factory()
    worker = factory.worker

    async def spread(number: int) -> None:
        await factory.work(number)
        if number < 8:
            for child in (2 * number, 2 * number + 1):
                await worker.submit_job("spread", spread, child)

    async with worker:
        await worker.submit_job("spread", spread, 1)
        await worker.drain()
        assert factory.ended == Counter(range(1, 16))
        assert factory.get_states()["succeeded"] == 15


@settings(plain, max_examples=20)
@simulate(PAUSES)
async def test_a_schedule_never_overlaps_itself(sim: Simulation) -> None:
    factory = Factory()
    worker = factory.worker
    sim.always(lambda: factory.active <= 1, "no overlap")

    @worker.scheduled(every_seconds=1)
    async def tick() -> None:
        await factory.work(1, 1.5)

    async with worker:
        await asyncio.sleep(6.2)
        journal = worker.services.journal
        fired, skipped = (len(journal.get_events(f"schedule.{what}")) for what in ("fired", "skipped"))
        assert factory.begun[1] <= fired
        assert fired + skipped <= 6
    assert not journal.get_events("component.task_failed")


@settings(plain, max_examples=20)
@simulate(PAUSES)
async def test_a_worker_starts_again(sim: Simulation) -> None:
    factory = Factory(grace_seconds=0)
    worker = factory.worker
    for number in range(3):
        await worker.start()
        await factory.submit(2 * number)
        await factory.submit(2 * number + 1)
        await asyncio.sleep(0.1 * number)
        await worker.stop()
        try:
            await factory.submit(99)
        except SandboxError:
            continue
        raise AssertionError("a stopped worker accepts nothing")
    assert sum(factory.get_states().values()) == 6
    assert factory.get_states()["running"] == factory.get_states()["queued"] == 0
