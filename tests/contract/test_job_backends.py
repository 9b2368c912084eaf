"""What every home of jobs does alike, and what only some can; docs/reference/worker.md has the table."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from children import PATIENCE_SECONDS
from postgres import with_schema

from asyncsandbox import JobState, LedgerSettings, Sandbox, correlation, job
from asyncsandbox._core.context import get_correlation_id
from asyncsandbox.components.worker import WorkerSettings
from asyncsandbox.errors import (
    JobCancelledError,
    JobNotFoundError,
    JobTimeoutError,
    NotStartedError,
    QueueFullError,
)

Events = dict[str, asyncio.Event]
HOMES = ("memory", "store in memory", "SQLite", "PostgreSQL")

_gates: Events = {}
_ran: list[str] = []


@job("contract.append")
async def append(tag: str) -> str:
    _ran.append(tag)
    return f"did {tag}"


@job("contract.wait_for")
async def wait_for(tag: str) -> str:
    _ran.append(tag)
    await _gates.setdefault(tag, asyncio.Event()).wait()
    return f"did {tag}"


@job("contract.fail", max_retries=2, retry_on=(OSError,))
async def fail(kind: str) -> None:
    _ran.append(kind)
    raise {"again": OSError, "never": ValueError}[kind](f"no {kind}")


@job("contract.in_thread")
def in_thread(number: int) -> int:
    return number * 2


@job("contract.who")
async def who() -> str | None:
    return get_correlation_id()


@pytest.fixture(autouse=True)
def fresh() -> None:
    _gates.clear()
    _ran.clear()


@pytest.fixture(params=HOMES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return {
        "memory": lambda: None,
        "store in memory": lambda: ":memory:",
        "SQLite": lambda: str(tmp_path / "store.sqlite"),
        "PostgreSQL": lambda: with_schema(request.getfixturevalue("postgres_url")),
    }[request.param]()


@asynccontextmanager
async def opened(store: str | None, **settings: Any) -> AsyncIterator[Sandbox]:
    settings = {"retry_base_seconds": 0.001, "grace_seconds": 0.05, **settings}
    ledger = LedgerSettings(lease_seconds=30)
    async with Sandbox(
        dry_run=False, store=store, ledger=ledger, worker=WorkerSettings(**settings), shutdown_seconds=1
    ) as sandbox:
        assert sandbox.worker.get_status().runs_durable is (store is not None)
        yield sandbox


async def until(holds: Any) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < ends, "it never came true"
        await asyncio.sleep(0.002)


async def state(sandbox: Sandbox, job_id: str) -> JobState:
    return (await sandbox.worker.get_job_status(job_id)).state


async def test_a_job_ends_once_with_its_result(store: str | None) -> None:
    async with opened(store) as sandbox:
        worker = sandbox.worker
        with correlation("request-1"):
            first = await worker.submit_job("append", append, "a")
            asking = await worker.submit_job("who", who)
        assert await worker.get_result(first) == "did a"
        assert await worker.get_result(first) == "did a", "as often as you like"
        assert await worker.get_result(await worker.submit_job("double", in_thread, 21)) == 42
        assert await worker.get_result(asking) == "request-1"
        alone = await worker.submit_job("who", who)
        assert await worker.get_result(alone) == alone, "a job without a request is a request of its own"
        status = await worker.get_job_status(first)
        assert (status.name, status.state, status.attempt, status.error) == ("append", JobState.SUCCEEDED, 1, None)
        assert "" < status.submitted_at <= status.started_at <= status.ended_at
        assert first.startswith("durable-") is (store is not None)
        assert (sandbox.worker.get_status().jobs.succeeded, _ran) == (4, ["a"])
        with pytest.raises(JobNotFoundError):
            await worker.get_job_status(f"{first}x")
        with pytest.raises(JobNotFoundError):
            await worker.get_result(f"{first}x")


async def test_a_failure_is_tried_again_as_declared_and_raised_as_it_was(store: str | None) -> None:
    async with opened(store) as sandbox:
        worker = sandbox.worker
        again, never = [await worker.submit_job(kind, fail, kind) for kind in ("again", "never")]
        with pytest.raises(OSError, match="no again") as raised:
            await worker.get_result(again)
        assert "is dead after 3 attempts" in raised.value.__notes__[0]
        with pytest.raises(ValueError, match="no never"):
            await worker.get_result(never)
        assert Counter(_ran) == {"again": 3, "never": 1}
        dead, failed = await worker.get_job_status(again), await worker.get_job_status(never)
        assert (dead.state, dead.attempt, dead.error) == (JobState.DEAD, 3, "OSError: no again")
        assert (failed.state, failed.attempt, failed.error) == (JobState.FAILED, 1, "ValueError: no never")


async def test_one_of_the_same_name_and_key_at_a_time(store: str | None) -> None:
    async with opened(store) as sandbox:
        worker = sandbox.worker.with_options(unique_key="k")
        ids = await asyncio.gather(*(worker.submit_job("wait", wait_for, "a") for _ in range(5)))
        assert len(set(ids)) == 1
        other = await worker.submit_job("another name", append, "b")
        assert other not in ids
        await until(lambda: "a" in _gates)
        _gates["a"].set()
        assert await sandbox.worker.get_result(ids[0]) == "did a"
        assert await worker.submit_job("wait", wait_for, "a") not in ids, "it has ended"


async def test_no_job_begins_before_its_delay(store: str | None) -> None:
    async with opened(store) as sandbox:
        began = time.monotonic()
        later = await sandbox.worker.with_options(delay_seconds=0.04).submit_job("later", append, "later")
        sooner = await sandbox.worker.submit_job("sooner", append, "sooner")
        assert await state(sandbox, later) is JobState.QUEUED
        await sandbox.worker.get_result(sooner)
        await sandbox.worker.drain()
        assert time.monotonic() - began >= 0.04
        assert _ran == ["sooner", "later"]


async def test_by_priority_and_then_in_the_order_they_came(store: str | None) -> None:
    async with opened(store, concurrency=1) as sandbox:
        worker = sandbox.worker
        await worker.submit_job("wait", wait_for, "gate")
        await until(lambda: "gate" in _gates)
        for priority, tag in ((0, "c"), (0, "d"), (-1, "e"), (7, "a"), (7, "b")):
            await worker.with_options(priority=priority).submit_job(tag, append, tag)
        _gates["gate"].set()
        await worker.drain()
    assert _ran == ["gate", "a", "b", "c", "d", "e"]


async def test_what_waits_and_what_runs_can_be_cancelled(store: str | None) -> None:
    async with opened(store, concurrency=1) as sandbox:
        worker = sandbox.worker
        runs = await worker.submit_job("wait", wait_for, "runs")
        waits = await worker.submit_job("append", append, "waits")
        await until(lambda: "runs" in _gates)
        asking = asyncio.gather(*map(worker.get_result, (runs, waits)), return_exceptions=True)
        await asyncio.sleep(0.01)
        assert [await worker.cancel(waits), await worker.cancel(runs)] == [True, True]
        assert [type(error) for error in await asking] == [JobCancelledError, JobCancelledError]
        assert [await worker.cancel(waits), await worker.cancel(runs)] == [False, False]
        ended = await worker.submit_job("append", append, "ended")
        await worker.get_result(ended)
        assert await worker.cancel(ended) is False
        with pytest.raises(JobNotFoundError):
            await worker.cancel(f"{ended}x")
    assert _ran == ["runs", "ended"]


async def test_an_attempt_that_takes_too_long_has_failed(store: str | None) -> None:
    async with opened(store) as sandbox:
        late = await sandbox.worker.with_options(timeout_seconds=0.01).submit_job("wait", wait_for, "late")
        with pytest.raises(JobTimeoutError, match=re.escape("not done within 0.01 s")):
            await sandbox.worker.get_result(late)
        assert await state(sandbox, late) is JobState.FAILED


async def test_a_full_queue_refuses_or_lets_wait(store: str | None) -> None:
    async with opened(store, concurrency=1, max_queued=2, when_full="refuse") as sandbox:
        worker = sandbox.worker
        await worker.submit_job("wait", wait_for, "refused")
        await until(lambda: "refused" in _gates)
        for _ in range(2):
            await worker.submit_job("append", append, "a")
        with pytest.raises(QueueFullError, match="2 others are waiting"):
            await worker.submit_job("append", append, "b")
        _gates["refused"].set()
        await worker.drain()
        assert Counter(_ran) == {"refused": 1, "a": 2}
    async with opened(store, concurrency=1, max_queued=2) as sandbox:
        worker = sandbox.worker
        await worker.submit_job("wait", wait_for, "waits")
        await until(lambda: "waits" in _gates)
        submitting = [asyncio.create_task(worker.submit_job("append", append, f"{n}")) for n in range(6)]
        await asyncio.sleep(0.02)
        assert [task.done() for task in submitting] == [True] * 2 + [False] * 4
        submitting[2].cancel()
        _gates["waits"].set()
        await asyncio.wait(submitting)
        await worker.drain()
        assert [tag for tag in _ran if tag.isdigit()] == ["0", "1", "3", "4", "5"]


async def test_nothing_is_accepted_before_the_start_and_after_the_stop(store: str | None) -> None:
    async with opened(store) as sandbox:
        pass
    with pytest.raises(NotStartedError):
        await sandbox.worker.submit_job("append", append, "a")
    assert _ran == []


async def test_a_stop_lets_what_runs_end(store: str | None) -> None:
    async with opened(store, grace_seconds=5) as sandbox:
        job_id = await sandbox.worker.submit_job("wait", wait_for, "a")
        await until(lambda: "a" in _gates)
        asyncio.get_running_loop().call_later(0.02, _gates["a"].set)
        getting = asyncio.create_task(sandbox.worker.get_result(job_id))
        await asyncio.sleep(0)
        await sandbox.worker.stop()
        assert await getting == "did a"


async def test_many_jobs_are_accounted_for_exactly(store: str | None) -> None:
    many = 300 if store not in (None, ":memory:") else 10_000  # as many on a disk: test_worker_processes.py
    async with opened(store, concurrency=8) as sandbox:
        worker = sandbox.worker
        ids = await asyncio.gather(*(worker.submit_job("append", append, f"{n}") for n in range(many)))
        assert await asyncio.gather(*map(worker.get_result, ids)) == [f"did {n}" for n in range(many)]
        jobs = worker.get_status().jobs
        assert (jobs.succeeded, jobs.queued, jobs.running) == (many, 0, 0)
    assert Counter(_ran) == Counter(map(str, range(many)))


# ------------------------------------------------------------------ what outlives a life


async def test_what_waits_and_what_ran_outlives_the_sandbox_where_it_is_in_a_store(store: str | None) -> None:
    async with opened(store, concurrency=1) as sandbox:
        runs = await sandbox.worker.submit_job("wait", wait_for, "runs")
        waits = await sandbox.worker.submit_job("append", append, "waits")
        ended = await sandbox.worker.with_options(priority=9).submit_job("append", append, "ended")
        await until(lambda: "runs" in _gates)
        del ended
    _gates.clear()
    async with opened(store, concurrency=1) as sandbox:
        if store in (None, ":memory:"):
            for job_id in (runs, waits):
                with pytest.raises(JobNotFoundError):
                    await sandbox.worker.get_job_status(job_id)
            return
        await until(lambda: _gates)
        _gates["runs"].set()
        assert await sandbox.worker.get_result(runs) == "did runs"
        assert await sandbox.worker.get_result(waits) == "did waits"
        assert (await sandbox.worker.get_job_status(runs)).attempt == 2
    assert Counter(_ran) == {"runs": 2, "waits": 1, "ended": 1}


# ------------------------------------------------------------------ the table


CAN = {
    "result, status, failure, retries": HOMES,
    "unique key, delay, priority, timeout": HOMES,
    "cancel what waits and what runs": HOMES,
    "backpressure when full": HOMES,
    "10,000 jobs accounted for": HOMES,
    "a stop lets running jobs end": HOMES,
    "SIGTERM of `asyncsandbox worker` does": HOMES[2:],
    "kill -9 while running: run again, once": HOMES[2:],
    "no double finish after a stall longer than the lease": HOMES[2:],
    "several processes": HOMES[2:],
    "submit in the app's transaction": HOMES[3:],
    "the server restarts: nothing lost, nothing doubled": HOMES[3:],
}


def test_the_table_in_the_docs_is_this_one() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "worker.md"
    rows = [line.strip("| ").split(" | ") for line in page.read_text("utf-8").splitlines() if line.startswith("| ")]
    table = {row[0]: row[1:] for row in rows if len(row) == len(HOMES) + 1}
    assert table.pop("promise") == list(HOMES)
    assert table == {what: ["yes" if home in homes else "-" for home in HOMES] for what, homes in CAN.items()}
