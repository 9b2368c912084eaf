"""Jobs that do nothing, 16 at a time, each awaited by its id, beside aiojobs, taskiq and a bare queue.

Ours has what its docs promise of every job: status, id, correlation id and a timeout; aiojobs has a timeout on waiting.
"""

import asyncio
import gc
import time
import uuid
from collections.abc import Awaitable, Callable

from asyncsandbox._core.context import set_correlation_id
from asyncsandbox.components.worker import WorkerProcess, WorkerSettings

JOBS = 4000
ROUNDS = 7
CONCURRENCY = 16

Contender = Callable[[], Awaitable[float]]


async def work(number: int) -> int:
    return number


async def ours() -> float:
    settings = WorkerSettings(concurrency=CONCURRENCY, timeout_seconds=60)
    set_correlation_id("request-7")
    async with WorkerProcess(settings=settings) as worker:
        began = time.perf_counter()
        ids = [await worker.submit_job("work", work, number) for number in range(JOBS)]
        results = [await worker.get_result(job_id) for job_id in ids]
        took = time.perf_counter() - began
        assert results == list(range(JOBS))  # noqa: S101 - a benchmark that computes nothing measures nothing
    return took


async def floor() -> float:
    queue: asyncio.Queue[int | None] = asyncio.Queue()
    results = [-1] * JOBS

    async def consume() -> None:
        while (number := await queue.get()) is not None:
            results[number] = await work(number)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(consume())
        for number in (*range(JOBS), *[None] * CONCURRENCY):
            queue.put_nowait(number)
    return time.perf_counter() - began


async def task_each() -> float:
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(JOBS):
            group.create_task(work(number))
    return time.perf_counter() - began


async def aiojobs() -> float:
    from aiojobs import Scheduler

    scheduler = Scheduler(limit=CONCURRENCY, pending_limit=0)
    began = time.perf_counter()
    jobs = [await scheduler.spawn(work(number)) for number in range(JOBS)]
    for job in jobs:
        await job.wait()
    took = time.perf_counter() - began
    await scheduler.close()
    return took


async def aiojobs_and_more() -> float:
    """What one adds to aiojobs for the same: an id, a timeout for the job itself, results to be asked for by id."""
    from aiojobs import Scheduler

    async def within(number: int) -> int:
        async with asyncio.timeout(60):
            return await work(number)

    scheduler = Scheduler(limit=CONCURRENCY, pending_limit=0)
    began = time.perf_counter()
    jobs = {}
    for number in range(JOBS):
        jobs[uuid.uuid4().hex] = await scheduler.spawn(within(number))
    for job in jobs.values():
        await job.wait()
    took = time.perf_counter() - began
    await scheduler.close()
    return took


async def taskiq() -> float:
    from taskiq import InMemoryBroker

    broker = InMemoryBroker(max_stored_results=JOBS)
    task = broker.task(task_name="work")(work)
    await broker.startup()
    began = time.perf_counter()
    handles = [await task.kiq(number) for number in range(JOBS)]
    for handle in handles:
        await handle.wait_result(check_interval=0.001)
    took = time.perf_counter() - began
    await broker.shutdown()
    return took


def is_there(contender: Contender) -> bool:
    """Tell whether what a contender measures is installed."""
    try:
        asyncio.run(contender())
    except ImportError:
        return False
    return True


def best_of(contenders: dict[str, Contender]) -> dict[str, float]:
    """Return seconds per job, each the best of its rounds, taken in turn."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            gc.collect()
            best[name] = min(best[name], asyncio.run(contender()) / JOBS)
    return best


def run() -> list[tuple[str, float, str]]:
    """Return label, ratio and goal of each measurement; a ratio of 2 to a peer is twice as many jobs per second."""
    there: dict[str, Contender] = {"ours": ours, "queue": floor, "task each": task_each}
    peers = {"aiojobs": aiojobs, "aiojobs with ids and timeouts": aiojobs_and_more, "taskiq": taskiq}
    there |= {name: peer for name, peer in peers.items() if is_there(peer)}
    took = best_of(there)
    rows = [
        (f"jobs per second, x {name}", took[name] / took["ours"], goal)
        for name, goal in (("aiojobs", ">= 1"), ("aiojobs with ids and timeouts", "peer"), ("taskiq", ">= 6"))
        if name in took
    ]
    rows += [(f"{name}: not installed", 0, "peer") for name in peers if name not in took]
    rows += [
        ("jobs per second, x a bare queue of consumers", took["queue"] / took["ours"], "peer"),
        ("jobs per second, x a task each", took["task each"] / took["ours"], "peer"),
    ]
    rows += [(f"microseconds per job, {name}", seconds * 1e6, "peer") for name, seconds in took.items()]
    return rows


if __name__ == "__main__":
    for label, ratio, goal in run():
        print(f"{label:50} {ratio:8.2f}   goal {goal}")
