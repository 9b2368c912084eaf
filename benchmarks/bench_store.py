"""Durable writes: one alone, and what a queue does (put in, claim, finish), beside what the same disk gives without us.

The measure is ``executemany`` of the same rows, a thousand in a transaction: jobs with a random id and 120 bytes. Files
are in WAL mode with ``synchronous=FULL``, the PostgreSQL server is one of our own with ``fsync=on``. 512 callers write
at a time. Beside them: one transaction for each operation, by hand and with SQLAlchemy, and the queues of `queues.py`
where they are installed.
"""

import asyncio
import gc
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import postgres
import queues
from queues import timed

from asyncsandbox._core.store import Migration, Operation, Schema, Store, open_store
from asyncsandbox._core.store.operations import Dialect

ROUNDS = 3
CALLERS = 512
COUNT = 12_000
ALONE = 300
AT_ONCE = 1000
CLAIMED = 64

INSERT = "INSERT INTO sandbox_jobs (ns, id, args, state, attempt, until) VALUES ({}, 0, 0, 0) ON CONFLICT DO NOTHING"
ARGS = "x" * 120
_CLAIM = (
    "UPDATE sandbox_jobs SET state = 1, attempt = attempt + 1, until = :now + :lease "
    "WHERE ns = :ns AND id IN (SELECT id FROM sandbox_jobs WHERE ns = :ns "
    "AND state < 2 AND until < :now ORDER BY until LIMIT :most{}) RETURNING id, attempt, args"
)
ENQUEUE = Operation("jobs.enqueue", INSERT.format(":ns, :id, :args"))
CLAIM = Operation("jobs.claim", _CLAIM.format(""), postgres=_CLAIM.format(" FOR UPDATE SKIP LOCKED"))
FINISH = Operation(
    "jobs.finish",
    "UPDATE sandbox_jobs SET state = 2 WHERE ns = :ns AND id = :id AND attempt = :attempt AND state = 1",
)
JOBS = Schema(
    name="jobs",
    tables=("sandbox_jobs",),
    migrations=(
        Migration(
            "CREATE TABLE sandbox_jobs (ns TEXT NOT NULL, id TEXT NOT NULL, args TEXT NOT NULL, state BIGINT NOT NULL, "
            "attempt BIGINT NOT NULL, until DOUBLE PRECISION NOT NULL, PRIMARY KEY (ns, id))",
            "CREATE INDEX sandbox_jobs_open ON sandbox_jobs (ns, until) WHERE state < 2",
        ),
    ),
    operations=(ENQUEUE, CLAIM, FINISH),
)

Contender = Callable[[str], Awaitable[float]]


def jobs(count: int) -> list[tuple[str, str, str]]:
    return [("default", uuid.uuid4().hex, ARGS) for _ in range(count)]


# ------------------------------------------------------------------ ours


async def enqueue(place: str) -> float:
    async with open_store(place) as store:
        await store.attach(JOBS)
        return await timed(COUNT, CALLERS, lambda _: store.write(ENQUEUE, id=uuid.uuid4().hex, args=ARGS))


async def run_jobs(place: str) -> float:
    """Claim jobs as a worker with 64 slots does, and have each finished durably by itself."""
    async with open_store(place) as store:
        await store.attach(JOBS)
        await timed(COUNT // 2, CALLERS, lambda _: store.write(ENQUEUE, id=uuid.uuid4().hex, args=ARGS))
        began = time.perf_counter()
        await asyncio.gather(*(work(store) for _ in range(2)))
        return (time.perf_counter() - began) / (COUNT // 2)


async def work(store: Store) -> None:
    while claimed := (await store.write(CLAIM, lease=60.0, most=CLAIMED)).rows:
        await asyncio.gather(*(store.write(FINISH, id=job["id"], attempt=job["attempt"]) for job in claimed))


# ------------------------------------------------------------------ what the disk gives


async def prepare(place: str) -> None:
    async with open_store(place) as store:
        await store.attach(JOBS)


async def sqlite_many(place: str) -> float:
    await prepare(place)
    with closing(by_hand(place)) as connection:
        rows = jobs(COUNT)
        began = time.perf_counter()
        for first in range(0, COUNT, AT_ONCE):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(INSERT.format("?, ?, ?"), rows[first : first + AT_ONCE])
            connection.execute("COMMIT")
        return (time.perf_counter() - began) / COUNT


async def sqlite_each(place: str) -> float:
    await prepare(place)
    with closing(by_hand(place)) as connection:
        began = time.perf_counter()
        for row in jobs(ALONE):
            connection.execute(INSERT.format("?, ?, ?"), row)
        return (time.perf_counter() - began) / ALONE


def by_hand(place: str) -> sqlite3.Connection:
    connection = sqlite3.connect(place, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


async def postgres_many(place: str) -> float:
    import asyncpg

    await prepare(place)
    connection = await asyncpg.connect(place)
    rows = jobs(COUNT)
    began = time.perf_counter()
    for first in range(0, COUNT, AT_ONCE):
        await connection.executemany(INSERT.format("$1, $2, $3"), rows[first : first + AT_ONCE])
    took = time.perf_counter() - began
    await connection.close()
    return took / COUNT


async def postgres_each(place: str) -> float:
    import asyncpg

    await prepare(place)
    async with asyncpg.create_pool(place, min_size=16, max_size=16) as pool:
        statement = INSERT.format("$1, $2, $3")
        rows = iter(jobs(4 * ALONE))
        return await timed(4 * ALONE, CALLERS, lambda _: pool.execute(statement, *next(rows)))


async def sqlalchemy_each(place: str) -> float:
    from sqlalchemy import event, text
    from sqlalchemy.ext.asyncio import create_async_engine

    await prepare(place)
    on_server = "://" in place
    url = place.replace("postgresql://", "postgresql+asyncpg://") if on_server else f"sqlite+aiosqlite:///{place}"
    engine = create_async_engine(url, pool_size=16 if on_server else 1, max_overflow=0)
    if not on_server:
        event.listen(engine.sync_engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = FULL"))
    statement = text(INSERT.format(":ns, :id, :args"))

    async def write(_: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(statement, {"ns": "default", "id": uuid.uuid4().hex, "args": ARGS})

    try:
        return await timed(2 * ALONE, CALLERS, write)
    finally:
        await engine.dispose()


async def alone(folder: str) -> float:
    """Return how much longer a lone write takes than a transaction by hand, at the median, taken in turn."""
    ours, raw = [], []
    with closing(by_hand(f"{folder}/by_hand.sqlite")) as connection:
        for statement in JOBS.migrations[0].statements_for(Dialect.SQLITE):
            connection.execute(statement)
        async with open_store(f"{folder}/store.sqlite") as store:
            await store.attach(JOBS)
            for row in jobs(ALONE):
                began = time.perf_counter()
                await store.write(ENQUEUE, id=row[1], args=ARGS)
                between = time.perf_counter()
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(INSERT.format("?, ?, ?"), row)
                connection.execute("COMMIT")
                raw.append(time.perf_counter() - between)
                ours.append(between - began)
    return statistics.median(ours) / statistics.median(raw)


# ------------------------------------------------------------------ the table


class Files:
    """Fresh places for SQLite."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._count = 0

    def fresh(self) -> str:
        """Return the path of a file that is not there."""
        self._count += 1
        return f"{self._folder}/{self._count}.sqlite"


class Databases:
    """Fresh databases on a server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._count = 0

    def fresh(self) -> str:
        """Make a database and return its URL."""
        self._count += 1
        asyncio.run(postgres.execute(self._url, f"CREATE DATABASE bench{self._count}"))
        return f"{self._url.rpartition('/')[0]}/bench{self._count}"


def best_of(
    places: Files | Databases, contenders: dict[str, Contender], peers: dict[str, queues.Peer]
) -> dict[str, float]:
    """Return seconds per operation, each the best of its rounds, taken in turn; without peers that do not run."""
    best: dict[str, float] = {}
    for number in range(ROUNDS):
        for name, contender in (*contenders.items(), *peers.items()):
            if number and name not in best:
                continue
            gc.collect()
            try:
                took = asyncio.run(contender(places.fresh()))
            except Exception as error:
                if name not in peers:
                    raise
                print(f"{name} does not run here: {error!r}"[:200], file=sys.stderr)
                continue
            best[name] = min(took, best.get(name, took))
    return best


def rows_of(
    where: str, places: Files | Databases, contenders: dict[str, Contender], goals: tuple[str, str, str]
) -> list[tuple[str, float, str]]:
    """Return the rows of one database; the goals are for putting in, for running, and beside peers."""
    peers = queues.ON_SQLITE if isinstance(places, Files) else queues.ON_POSTGRES
    took = best_of(places, {"put in": enqueue, "run": run_jobs, **contenders}, peers)
    rows = [
        (f"{where}: jobs put in, share of executemany", took["many"] / took["put in"], goals[0]),
        (f"{where}: jobs claimed and finished, share of executemany", took["many"] / took["run"], goals[1]),
    ]
    for name in ("a transaction each", "SQLAlchemy begin() each", *peers):
        if name in took:
            goal = goals[2] if name in {"procrastinate", "SAQ", "DBOS"} else "peer"
            rows.append((f"{where}: jobs put in, x {name}", took[name] / took["put in"], goal))
        else:
            rows.append((f"{where}: {name} is not installed, or does not run here", 0, "peer"))
    return rows


def run() -> list[tuple[str, float, str]]:
    """Return label, ratio and goal of each measurement; a ratio of 2 to a peer is twice as many jobs per second."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [("SQLite: one durable write alone, x a transaction by hand", asyncio.run(alone(folder)), "<= 1.5")]
        contenders = {
            "many": sqlite_many, "a transaction each": sqlite_each, "SQLAlchemy begin() each": sqlalchemy_each
        }  # fmt: skip
        rows += rows_of("SQLite", Files(folder), contenders, (">= 0.25", ">= 0.12", "peer"))
    if postgres.find_binaries() is None:
        return [*rows, ("PostgreSQL is not installed", 0, "peer")]
    cluster = postgres.start_cluster(fsync=True)
    try:
        contenders = {
            "many": postgres_many, "a transaction each": postgres_each, "SQLAlchemy begin() each": sqlalchemy_each
        }  # fmt: skip
        rows += rows_of("PostgreSQL", Databases(cluster.url), contenders, (">= 0.35", "peer", ">= 25"))
    finally:
        postgres.end_cluster(cluster)
    return rows


if __name__ == "__main__":
    for label, ratio, goal in run():
        print(f"{label:60} {ratio:8.2f}   goal {goal}")
