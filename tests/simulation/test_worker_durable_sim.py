"""Jobs in a store under every single pause and power cut; the store outlives each.

What was acknowledged ends, whoever dies when. What has ended does not begin again. Nobody takes a job over from one
that lives, and of a key there is one at a time.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from simulation.glass import Glass
from worker_jobs import active, begun, ended, forget, work

from asyncsandbox import JobState, LedgerSettings, Sandbox, current_sandbox
from asyncsandbox._core.store import Row, Store, open_store
from asyncsandbox.components.worker import WorkerSettings
from asyncsandbox.errors import SandboxError
from asyncsandbox.testing import CrashedError, Simulation, scenarios, simulate

CRASHES = scenarios(pauses=2, crashes=2, sweep=100)
REPLICAS = scenarios(pauses=2, crashes=1, sweep=100)
PAUSES = scenarios(pauses=2, sweep=100)
JOBS = {"takes": st.sampled_from([0.2, 0.0, 3.0]), "key": st.sampled_from([None, "k"])}
CANCELS = {"cancelled": st.sampled_from(["a", "b", "c", "bc"]), "by_other": st.booleans()}
plain = settings(database=None, deadline=None)
pytestmark = pytest.mark.long
Jobs = dict[str, Row]


def jobs_in(store: Store) -> Callable[[], Jobs]:
    """Return what tells the rows of all jobs by id."""
    query = "SELECT id, state, attempt, lost, unique_key FROM sandbox_jobs"
    names = ("state", "attempt", "lost", "key")
    return Glass(store, query, lambda rows: {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}).look


def make_sandbox(store: Store, **more: Any) -> Sandbox:
    more = {"concurrency": 2, "retry_base_seconds": 0.5, "grace_seconds": 0.5, **more}
    return Sandbox(dry_run=False, store=store, worker=WorkerSettings(**more), ledger=LedgerSettings(lease_seconds=10.0))


def promise(sim: Simulation, jobs: Callable[[], Jobs], told: dict[str, str]) -> None:
    def ended_rows() -> set[str]:
        return {job_id for job_id, row in jobs().items() if JobState(row["state"]).has_ended}

    over: set[str] = set()

    def stays_over() -> bool:
        over.update(ended_rows())
        return over <= ended_rows()

    sim.always(lambda: told.keys() <= jobs().keys(), "what was acknowledged is in the store")
    sim.always(stays_over, "what has ended does not begin again")
    keys = Counter[str]()

    def one_at_a_time() -> bool:
        keys.clear()
        keys.update(r["key"] for r in jobs().values() if r["key"] and not JobState(r["state"]).has_ended)
        return all(count == 1 for count in keys.values())

    sim.always(one_at_a_time, "one at a time of a key")


async def submit(sim: Simulation, tag: str, told: dict[str, str], seconds: float, key: str | None) -> None:
    async def inside() -> str:
        worker = current_sandbox().worker.with_options(unique_key=key)
        return await worker.submit_job("work", work, tag, seconds, fails=int(tag == "c"))

    with suppress(CrashedError, SandboxError):
        told.setdefault(await sim.call(inside), tag)  # with a key, whoever comes later gets the id of the first


@settings(plain, max_examples=10)
@simulate(CRASHES, **JOBS)
async def test_what_was_acknowledged_ends_whoever_dies_when(sim: Simulation, takes: float, key: str | None) -> None:
    forget()
    told: dict[str, str] = {}
    async with open_store(":memory:") as store:
        jobs = jobs_in(store)
        await sim.start(lambda: make_sandbox(store))
        promise(sim, jobs, told)
        await asyncio.gather(*(submit(sim, tag, told, takes, key) for tag in "abc"))
        await sim.heal()
        await sim.settle(13)
        rows = jobs()
        assert {rows[job_id]["state"] for job_id in told} <= {"succeeded"}
        assert sum(ended.values()) >= len(told)
        assert begun.total() <= sum(row["attempt"] for row in rows.values()), "an attempt for each time it began"


@settings(plain, max_examples=10)
@simulate(REPLICAS, **JOBS)
async def test_a_replica_takes_over_from_one_that_dies_and_from_no_other(
    sim: Simulation, takes: float, key: str | None
) -> None:
    """The app, which may die, and a sandbox that does not, work on the same jobs."""
    forget()
    told: dict[str, str] = {}
    lives: list[Sandbox] = []

    def live() -> Sandbox:
        lives.append(make_sandbox(store))
        return lives[-1]

    async with open_store(":memory:") as store:
        jobs = jobs_in(store)
        await sim.start(live)
        promise(sim, jobs, told)
        async with make_sandbox(store, run_durable=True) as replica:
            sim.always(lambda: len(lives) > 1 or all(count <= 1 for count in active.values()), "one attempt at a time")
            await asyncio.gather(*(submit(sim, tag, told, takes, key) for tag in "abc"))
            results = await asyncio.gather(*map(replica.worker.get_result, told))
            assert key is not None or results == [f"did {tag}" for tag in told.values()]
            await sim.heal()
            await sim.settle(13)
        rows = jobs()
        assert all(rows[job_id]["state"] == "succeeded" for job_id in told)
        if len(lives) == 1:
            assert all(row["lost"] == 0 for row in rows.values())
            assert ended.total() == len(told)


@settings(plain, max_examples=10)
@simulate(PAUSES, **CANCELS)
async def test_what_is_cancelled_ends_wherever_it_runs(sim: Simulation, cancelled: str, by_other: bool) -> None:
    forget()
    async with open_store(":memory:") as store:
        jobs = jobs_in(store)
        async with make_sandbox(store) as works, make_sandbox(store, run_durable=False) as asks:
            submitting, ids = asks.worker if by_other else works.worker, {}
            for tag in "abc":
                ids[tag] = await submitting.submit_job("work", work, tag, 5.0)
            await asyncio.sleep(0.5)
            for tag in reversed(cancelled):  # or else c would begin in the place of b
                assert await submitting.cancel(ids[tag])
            await asks.worker.drain()
        states = {tag: jobs()[job_id]["state"] for tag, job_id in ids.items()}
        assert states == {tag: "cancelled" if tag in cancelled else "succeeded" for tag in "abc"}
        assert set(ended) == set("abc") - set(cancelled)
        assert begun["c"] == int("c" not in cancelled)
