"""The simulated loop beside its peers (those that are installed), stock asyncio, and itself in other processes.

Given `digests COUNT`, it prints one line over COUNT scenarios instead: equal in every process on one Python.
"""

import asyncio
import contextlib
import hashlib
import importlib
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from asyncsandbox import Sandbox
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.world import world

ROUNDS = 5
ROUND_SECONDS = 0.4
TRACES = 1_000
SCENARIOS = 10_000

Row = tuple[str, float, str]


# ---------------------------------------------------------------- the programs


async def schedule() -> None:
    """Run five tasks on one lock: 39 decision points."""
    lock = asyncio.Lock()
    value = 0

    async def chatter() -> None:
        for _ in range(8):
            await asyncio.sleep(0)

    async def add(delay: int) -> None:
        nonlocal value
        for _ in range(delay):
            await asyncio.sleep(0)
        async with lock:
            seen = value
            await asyncio.sleep(0)
            value = seen + 1

    await asyncio.gather(add(0), add(4), *(chatter() for _ in range(3)))
    assert value == 2  # noqa: S101 - the peers must run the same program


async def heartbeat(hours: int = 1) -> None:
    """Beat once a second beside a sandbox with every component up."""
    async with Sandbox():
        for _ in range(3_600 * hours):
            await asyncio.sleep(1)


async def statements() -> None:
    """Run 50 statements on one aiosqlite connection in memory."""
    async with aiosqlite.connect(":memory:") as db:
        await db.execute("CREATE TABLE t (a INTEGER)")
        for number in range(50):
            await db.execute("INSERT INTO t VALUES (?)", (number,))
        await db.commit()


async def orders() -> None:
    """Run 12 transactions of three SQLAlchemy tasks on one file."""
    with tempfile.TemporaryDirectory() as folder:
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/orders.db")
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE t (a INTEGER)"))

        async def order() -> None:
            for number in range(4):
                async with engine.begin() as connection:
                    await connection.execute(text("INSERT INTO t VALUES (:a)"), {"a": number})
                    await connection.execute(text("SELECT count(*) FROM t"))

        await asyncio.gather(*(order() for _ in range(3)))
        await engine.dispose()


async def scenario(source: random.Random) -> None:
    """Do a drawn mixture of everything, with what usually differs from run to run."""
    queue: asyncio.Queue[uuid.UUID] = asyncio.Queue(2)
    lock = asyncio.Lock()

    async def work(steps: int) -> None:
        for _ in range(steps):
            match source.randrange(6):
                case 0:
                    await asyncio.sleep(random.random())  # noqa: S311 - the world's
                case 1:
                    async with lock:
                        await asyncio.sleep(0)
                case 2:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(queue.get(), 0.5)
                case 3:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(queue.put(uuid.uuid4()), 0.5)
                case 4:
                    await asyncio.to_thread(time.sleep, 0.1)
                case _:
                    await asyncio.wait({asyncio.create_task(asyncio.sleep(n % 2)) for n in range(4)})

    await asyncio.wait({asyncio.create_task(work(source.randint(1, 4))) for _ in range(source.randint(1, 4))})


# ---------------------------------------------------------------- measuring


def simulate(program: Callable[[], Coroutine[Any, Any, object]], pauses: tuple[int, ...] = ()) -> SimLoop:
    """Run a program in a world of its own."""
    loop = SimLoop(pauses=pauses)
    with world(loop):
        loop.run(program())
    return loop


def rate(run: Callable[[], object]) -> float:
    """Return how often ``run`` runs in a second."""
    began, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < ROUND_SECONDS:
        run()
        count += 1
    return count / elapsed


def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Return ours / theirs, each the best of its rounds, taken in turn."""
    ours()
    theirs()
    rates = [(rate(ours), rate(theirs)) for _ in range(ROUNDS)]
    return max(pair[0] for pair in rates) / max(pair[1] for pair in rates)


def peers() -> dict[str, Callable[[], object]]:
    """Return, for each peer that is installed, one run of the schedule."""
    seeds = itertools.count()
    adapters: dict[str, Callable[[Any], Callable[[], object]]] = {
        "detangle": lambda peer: lambda: peer.run(schedule, seed=next(seeds)),
        "seedloop": lambda peer: lambda: peer.check(lambda _: schedule(), seeds=[next(seeds)]),
        "simloom": lambda peer: lambda: peer.run(schedule, seed=next(seeds), world=False),
        "simloop": lambda peer: lambda: peer.explore(schedule, [next(seeds)]),
    }
    found = {}
    for name, adapt in adapters.items():
        with contextlib.suppress(ImportError):
            found[name] = adapt(importlib.import_module(name))
    return found


def sandbox_hours() -> float:
    """Return simulated hours per second, the best of the rounds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        simulate(heartbeat)
        times.append(time.perf_counter() - began)
    return 1 / min(times)


def digests(count: int) -> str:
    """Return one digest over the traces of ``count`` scenarios with pauses and a power cut."""
    together = hashlib.blake2b(digest_size=16)
    for seed in range(count):
        source = random.Random(seed)  # noqa: S311 - of a scenario
        loop = SimLoop(pauses=[source.randint(0, 40) for _ in range(source.randint(0, 3))])
        life, cut = loop.new_incarnation(), source.randint(0, 80)
        loop.at_step = lambda step, loop=loop, life=life, cut=cut: step == cut and loop.power_cut(life)

        async def main(loop: SimLoop = loop, life: Any = life, source: random.Random = source) -> None:
            doomed = loop.create_task(scenario(source), context=life.context())
            await scenario(source)
            del doomed

        with world(loop, seed=seed):
            loop.run(main())
        together.update(loop.trace.digest().encode())
    return together.hexdigest()


def processes() -> int:
    """Return how many different answers two processes with their own hash seeds give, over all scenarios."""
    command = [sys.executable, str(Path(__file__)), "digests", str(SCENARIOS)]
    running = [
        subprocess.Popen(  # noqa: S603 - this script
            command, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True
        )
        for seed in ("1", "2")
    ]
    return len({process.communicate()[0] for process in running})


def run() -> list[Row]:
    """Return label, figure and goal of each measurement."""
    ours = lambda: SimLoop().run(schedule())  # noqa: E731 - one run, to be called
    rows = [("schedules with recording, x stock asyncio", ratio(ours, lambda: asyncio.run(schedule())), "")]
    for name, theirs in peers().items():
        goal = ">= 1.5" if name == "detangle" else ""
        rows.append((f"schedules with recording, x {name}", ratio(ours, theirs), goal))
    rows.append(("simulated hours a second, Sandbox up", sandbox_hours(), ">= 20"))
    for program in (statements, orders):
        label = f"aiosqlite, {program.__name__}, x stock asyncio"
        faster = ratio(lambda program=program: simulate(program), lambda program=program: asyncio.run(program()))
        rows.append((label, faster, ">= 3"))
    traces = {simulate(orders, pauses=(3, 30)).trace.digest() for _ in range(TRACES)}
    rows.append((f"SQLAlchemy: traces in {TRACES} runs", len(traces), "1"))
    rows.append((f"answers of 2 processes, {SCENARIOS} scenarios", processes(), "1"))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["digests"]:
        print(digests(int(sys.argv[2])))
    else:
        for label, figure, goal in run():
            print(f"{label:44} {figure:8.2f}" + (f"   goal {goal}" if goal else ""))
