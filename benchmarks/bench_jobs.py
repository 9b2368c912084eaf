"""Jobs that survive their process, through a whole `Sandbox`: submitting them, and running them to their end.

The measure is ``executemany`` as in bench_store.py. 512 callers submit jobs of one argument; then a worker with 64
places runs them, each finished durably by itself. Beside them the queues of `queues.py`, submitting.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import postgres
import queues
from bench_store import CALLERS, CLAIMED, Databases, Files, best_of, postgres_many, sqlite_many
from queues import timed

from asyncsandbox import Sandbox, WorkerSettings, job

COUNT = 6_000


@job("bench.nothing")
async def nothing(number: int) -> int:
    return number


def open_sandbox(place: str, *, run_durable: bool) -> Sandbox:
    settings = WorkerSettings(run_durable=run_durable, concurrency=CLAIMED, max_queued=10 * COUNT)
    return Sandbox(dry_run=False, store=place, worker=settings)


async def submit(place: str) -> float:
    async with open_sandbox(place, run_durable=False) as sandbox:
        worker = sandbox.worker
        return await timed(COUNT, CALLERS, lambda number: worker.submit_job("nothing", nothing, number))


async def run_jobs(place: str) -> float:
    await submit(place)
    async with open_sandbox(place, run_durable=True) as sandbox:
        began = time.perf_counter()
        await sandbox.worker.drain()
        return (time.perf_counter() - began) / COUNT


def rows_of(where: str, places: Files | Databases) -> list[tuple[str, float, str]]:
    """Return the rows of one database."""
    on_sqlite = isinstance(places, Files)
    peers = queues.ON_SQLITE if on_sqlite else queues.ON_POSTGRES
    many = sqlite_many if on_sqlite else postgres_many
    took = best_of(places, {"submit": submit, "run": run_jobs, "many": many}, peers)
    goals = (">= 0.25", ">= 0.12") if on_sqlite else (">= 0.35", "peer")
    rows = [
        (f"{where}: submit_job, share of executemany", took["many"] / took["submit"], goals[0]),
        (f"{where}: jobs run to their end, share of executemany", took["many"] / took["run"], goals[1]),
    ]
    for name in (name for name in peers if name in took):
        goal = ">= 25" if name in {"procrastinate", "SAQ", "DBOS"} else "peer"
        rows.append((f"{where}: submit_job, x {name}", took[name] / took["submit"], goal))
    return rows


def run() -> list[tuple[str, float, str]]:
    """Return label, ratio and goal of each measurement; a ratio of 2 to a peer is twice as many jobs per second."""
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of("SQLite", Files(folder))
    if postgres.find_binaries() is None:
        return [*rows, ("PostgreSQL is not installed", 0, "peer")]
    cluster = postgres.start_cluster(fsync=True)
    try:
        rows += rows_of("PostgreSQL", Databases(cluster.url))
    finally:
        postgres.end_cluster(cluster)
    return rows


if __name__ == "__main__":
    for label, ratio, goal in run():
        print(f"{label:60} {ratio:8.2f}   goal {goal}")
