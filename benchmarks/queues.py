"""Other durable queues, for bench_store.py: seconds per job that a caller waits until it is stored.

Each gets a fresh database, and the same number of callers at a time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

CALLERS = 64
JOBS = 600

Enqueue = Callable[[int], Awaitable[object]]
Peer = Callable[[str], Awaitable[float]]


async def timed(count: int, callers: int, enqueue: Enqueue) -> float:
    """Return the seconds per call, when so many callers share the work."""
    numbers = iter(range(count))

    async def call() -> None:
        for number in numbers:
            await enqueue(number)

    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(call() for _ in range(callers)))
    return (loop.time() - began) / count


async def nothing(number: int = 0) -> int:
    return number


async def huey(path: str) -> float:
    """It has no coroutines, so its calls are made one after the other; with as many threads it gets slower."""
    from huey import SqliteHuey

    queue = SqliteHuey(filename=path, fsync=True, results=True)

    @queue.task()
    def work(number: int) -> int:
        return number

    async def enqueue(number: int) -> object:
        return work(number)

    return await timed(JOBS, 1, enqueue)


async def procrastinate(url: str) -> float:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=16))
    work = app.task(name="work")(nothing)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        return await timed(JOBS, CALLERS, lambda number: work.defer_async(number=number))


async def pgqueuer(url: str) -> float:
    import asyncpg
    from pgqueuer import AsyncpgPoolDriver, Queries

    async with asyncpg.create_pool(url, min_size=16, max_size=16) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        return await timed(JOBS, CALLERS, lambda number: queries.enqueue("work", b"%d" % number, 0))


async def saq(url: str) -> float:
    from saq import Queue

    queue = Queue.from_url(url, min_size=4, max_size=16)
    await queue.connect()
    try:
        return await timed(JOBS, CALLERS, lambda number: queue.enqueue("work", number=number))
    finally:
        await queue.disconnect()


async def dbos(url: str) -> float:
    from dbos import DBOS

    logging.getLogger("dbos").setLevel(logging.CRITICAL)
    DBOS(config={"name": "bench", "system_database_url": url, "run_admin_server": False, "log_level": "CRITICAL"})
    work = DBOS.workflow()(nothing)
    DBOS.launch()
    try:
        # A queue that works no faster than this: what is measured is putting jobs in.
        await DBOS.register_queue_async("bench", worker_concurrency=1, polling_interval_sec=60)
        return await timed(JOBS // 2, CALLERS, lambda number: DBOS.enqueue_workflow_async("bench", work, number))
    finally:
        DBOS.destroy(workflow_completion_timeout_sec=0)


ON_SQLITE: dict[str, Peer] = {"huey": huey}
ON_POSTGRES: dict[str, Peer] = {"procrastinate": procrastinate, "SAQ": saq, "DBOS": dbos, "pgqueuer": pgqueuer}
