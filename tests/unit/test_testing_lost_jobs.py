"""An acknowledged job is known to the end: in memory while its life has power, elsewhere also in the next one."""

import asyncio
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec
import pytest
from hypothesis import settings

from asyncsandbox import Sandbox
from asyncsandbox.components.worker import JobStatus, WorkerProcess, WorkerSettings
from asyncsandbox.components.worker.backend import Outcome, Request
from asyncsandbox.components.worker.backends import Backends
from asyncsandbox.components.worker.job import JobState
from asyncsandbox.components.worker.memory import MemoryBackend
from asyncsandbox.errors import JobNotFoundError, NotStartedError
from asyncsandbox.testing import PromiseBrokenError, Scenario, Simulation, scenarios, simulate
from asyncsandbox.testing.lost_jobs import AcknowledgedJobs
from asyncsandbox.testing.patches import Patches
from asyncsandbox.testing.runs import run_once
from asyncsandbox.testing.simulated import simulated_of
from asyncsandbox.testing.world import World

plain = settings(database=None, deadline=None, max_examples=30, derandomize=True)


@dataclass(eq=False)
class Shelf:
    """What outlives a power cut: who waits, and who has ended."""

    waiting: dict[str, Request] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)


class Shelved(MemoryBackend):
    """Keeps jobs on a shelf, and takes up those that the life before left there."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(WorkerSettings())
        self.home: Any = shelf
        self.shelf = shelf

    def open(self, clock: Any) -> None:
        super().open(clock)
        for kept in self.shelf.waiting.values():
            request = msgspec.structs.replace(kept, context=copy_context())  # that of the life before is dead
            if request.job_id not in self._jobs:
                self._accept(request)

    async def submit(self, request: Request) -> str:
        await self.put(request)
        return await super().submit(request)

    async def put(self, request: Request) -> None:
        await asyncio.sleep(0.01)
        self.shelf.waiting[request.job_id] = request

    async def finish(self, claim: Any, outcome: Outcome) -> bool:
        self.shelf.waiting.pop(claim.request.job_id, None)
        self.shelf.ended.add(claim.request.job_id)
        return await super().finish(claim, outcome)

    async def get(self, job_id: str) -> JobStatus:
        if job_id in self.shelf.waiting or job_id in self.shelf.ended:
            return None  # type: ignore[return-value] # nobody looks at it here
        raise JobNotFoundError(job_id)


class WrittenLater(Shelved):
    """Acknowledges before the job is on the shelf."""

    async def put(self, request: Request) -> None:
        asyncio.get_running_loop().call_later(0.01, self.shelf.waiting.__setitem__, request.job_id, request)


class Shop:
    """An app that answers an order when the job is acknowledged."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.box = Sandbox(dry_run=False)
        self.box.worker._backends.first = backend

    async def __aenter__(self) -> Self:
        await self.box.initialize()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.box.cleanup()

    async def order(self) -> str:
        return await self.box.worker.submit_job("mail.send", asyncio.sleep, 1)


def check(backend: type[Shelved]) -> None:
    @plain
    @simulate(scenarios(pauses=1, crashes=1))
    async def test(sim: Simulation) -> None:
        shelf = Shelf()
        app = await sim.start(lambda: Shop(backend(shelf)))
        await app.order()
        await sim.settle(0.5)

    try:
        test()
    finally:
        check.report = simulated_of(test).report  # type: ignore[attr-defined]


def test_what_outlives_a_power_cut_is_asked_for_afterwards() -> None:
    check(Shelved)


def test_a_job_acknowledged_before_it_was_written_is_found_by_one_power_cut() -> None:
    with pytest.raises(PromiseBrokenError, match="no acknowledged job is lost"):
        check(WrittenLater)
    assert check.report.scenario.describe() == "1 crash"  # type: ignore[attr-defined]


def run(test: Any, scenario: Scenario | None = None) -> BaseException | None:
    return run_once(test, scenario or Scenario(), {}).error


class Forgetful(MemoryBackend):
    """Forgets a job between two attempts."""

    async def finish(self, claim: Any, outcome: Outcome) -> bool:
        counts = await super().finish(claim, outcome)
        if outcome.retry_in_seconds is not None:
            del self._jobs[claim.request.job_id]
        return counts


async def fail() -> None:
    raise ValueError("no")


@pytest.mark.parametrize(("backend", "lost"), [(MemoryBackend, False), (Forgetful, True)])
def test_a_job_in_memory_is_asked_for_also_where_its_sandbox_has_stopped(
    backend: type[MemoryBackend], lost: bool
) -> None:
    async def test(_sim: Simulation) -> None:
        box = Sandbox(dry_run=False)
        box.worker._backends.first = backend(WorkerSettings())
        async with box:
            await box.worker.with_options(max_retries=1, retry_on=(ValueError,)).submit_job("mail.send", fail)
            await asyncio.sleep(0.01)
            queued = await box.worker.submit_job("never", asyncio.sleep, 1)
            await box.worker.cancel(queued)
            await box.worker.with_options(delay_seconds=60).submit_job("later", asyncio.sleep, 1)

    error = run(test)
    assert isinstance(error, PromiseBrokenError) is lost
    if lost:
        assert "'mail.send'" in str(error)
        assert "was accepted, has not ended, and is not known any more" in str(error)


def test_jobs_in_memory_are_forgiven_when_their_life_loses_power() -> None:
    async def test(sim: Simulation) -> None:
        app = await sim.start(lambda: Shop(Forgetful(WorkerSettings())))
        await app.order()
        await sim.restart()
        await app.order()
        await sim.settle(5)

    assert run(test) is None


def test_a_shelf_that_nobody_has_open_is_not_asked() -> None:
    async def test(_sim: Simulation) -> None:
        shelf = Shelf()
        async with Shop(Shelved(shelf)) as shop:
            await shop.order()
            await asyncio.sleep(0)
            await shop.box.worker.stop()
        shelf.ended.clear()

    assert run(test) is None


def test_outside_of_a_simulation_a_worker_has_the_backend_it_was_given() -> None:
    backend = MemoryBackend(WorkerSettings())
    worker = WorkerProcess(backend=backend)
    seen: list[object] = []

    async def test(_sim: Simulation) -> None:
        seen.append(worker._backends.first)
        seen.append(worker._backends.first)

    with World():
        assert worker._backends.first is backend, "nobody's turn"

    assert run(test) is None
    assert seen[0] is seen[1] is not backend
    assert worker._backends.first is backend
    assert "first" not in vars(Backends)


def test_ended_jobs_are_not_asked_for_and_running_ones_are() -> None:
    async def main() -> list[str | None]:
        jobs = AcknowledgedJobs()
        backend = MemoryBackend(WorkerSettings())
        watched = jobs.watch(backend)
        assert jobs.watch(backend) is watched
        worker = WorkerProcess(backend=watched, settings=WorkerSettings(grace_seconds=0.01))
        found = []
        async with worker:
            job_id = await worker.submit_job("nap", asyncio.sleep, 0.01)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (await worker.get_job_status(job_id)).state is JobState.RUNNING
            assert await watched.cancel(job_id) is JobState.RUNNING
            kept = backend._jobs.pop(job_id)
            found.append(await jobs.find_lost())
            backend._jobs[job_id] = kept
            await worker.drain()
            backend._jobs.clear()
            backend._kept.clear()
            found.append(await jobs.find_lost())
            await worker.submit_job("nap", asyncio.sleep, 0)
            assert await jobs.find_lost() is None
        return [None if each is None else each.promise for each in found]

    assert asyncio.run(main()) == ["no acknowledged job is lost", None]


def test_an_attribute_that_was_added_is_gone_afterwards() -> None:
    class Owner:
        pass

    with Patches() as patches:
        patches.add(Owner, "name", 1)
        assert Owner.name == 1  # type: ignore[attr-defined]
    assert not hasattr(Owner, "name")


def test_a_job_may_end_before_its_submitter_hears_of_it_and_a_closed_store_tells_nothing() -> None:
    class Quick(MemoryBackend):
        home = "table"  # type: ignore[assignment]

        async def submit(self, request: Request) -> str:
            job_id = await super().submit(request)
            if request.name == "quick":
                await watched.cancel(job_id)
                del self._jobs[job_id]
            return job_id

        async def get(self, job_id: str) -> JobStatus:
            if job_id not in self._jobs:
                return await super().get(job_id)
            raise NotStartedError("the store", "jobs.get")

    jobs = AcknowledgedJobs()
    watched = jobs.watch(Quick(WorkerSettings()))

    async def main() -> object:
        worker = WorkerProcess(backend=watched, settings=WorkerSettings(grace_seconds=0.01))
        async with worker:
            await worker.submit_job("quick", asyncio.sleep, 60)
            await worker.submit_job("slow", asyncio.sleep, 60)
            return await jobs.find_lost()

    assert asyncio.run(main()) is None
