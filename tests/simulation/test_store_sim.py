"""The store under every single pause and power cut: in memory, outlasting the app, and in a file, opened by each life.

Money moves from one place to another, each transfer with a note of it, in one unit. So at every moment the sum is right
and the notes agree with what moved; what was acknowledged stays; nothing happens twice.
"""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from shelf import ADD, CLAIM, ENQUEUE, FINISH, GET, JOBS, LIST, PUT, SHELF
from simulation.glass import Glass

from asyncsandbox._core.store import Store, open_store
from asyncsandbox.errors import StoreConflictError
from asyncsandbox.testing import CrashedError, EscapedError, Simulation, scenarios, simulate
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.world import world

TROUBLE = scenarios(pauses=2, crashes=1, sweep=100)
PAUSES = scenarios(pauses=2, sweep=150)
TRANSFERS = {"cancelled": st.sets(st.integers(0, 3), max_size=2)}
plain = settings(database=None, deadline=None)


class Bank:
    """An app that moves money."""

    look: Callable[[], dict[str, int]]

    def __init__(self, store: Store) -> None:
        self.store = store
        self.found_when_cancelled: dict[int, bool] = {}
        self.undisturbed: list[int] = []

    async def transfer(self, number: int) -> None:
        try:
            await self._write(number)
        except asyncio.CancelledError:
            self.found_when_cancelled[number] = f"note {number}" in self.look()
            raise

    async def _write(self, number: int) -> None:
        note = PUT(key=f"note {number}", value=1)  # refused where it has happened, and the rest with it
        await self.store.write_all(ADD(key="a", value=-1), ADD(key="b", value=1), note)
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling():
            self.undisturbed.append(number)


def shelf_of(seen_by: sqlite3.Connection | Store) -> Callable[[], dict[str, int]]:
    return Glass[dict[str, int]](seen_by, "SELECT key, value FROM sandbox_shelf", dict).look


def is_consistent(shelf: dict[str, int]) -> bool:
    notes = sum(key.startswith("note") for key in shelf)
    return (shelf.get("a", 100), shelf.get("b", 0)) == (100 - notes, notes)


async def move_money(sim: Simulation, bank: Bank, cancelled: set[int], look_now: Callable[[], dict[str, int]]) -> None:
    """Let four callers transfer at the same time, and then check what is there."""
    told: set[int] = set()
    Bank.look = staticmethod(look_now)

    async def ask(number: int) -> None:
        with suppress(CrashedError):
            await sim.call(bank.transfer, number)
            told.add(number)

    async def transfer(number: int) -> None:
        for _ in range(2 * number):
            await asyncio.sleep(0)
        asking = asyncio.create_task(ask(number))
        if number in cancelled:
            await asyncio.sleep(0)
            asking.cancel()
        await asyncio.wait([asking])

    sim.always(lambda: is_consistent(look_now()), "all of a transfer, or nothing")
    sim.always(lambda: {f"note {n}" for n in told} <= set(look_now()), "what was acknowledged is there")
    await asyncio.gather(*(transfer(number) for number in range(4)))
    await sim.settle(1)
    before = look_now()
    with suppress(CrashedError):
        told_late = {number for number, found in bank.found_when_cancelled.items() if not found}
        assert not bank.undisturbed, "a cancelled task goes on as if nothing was"
        assert not told_late & {n for n in range(4) if f"note {n}" in before}, "told before the outcome was known"
    await sim.heal()
    for number in range(4):
        if f"note {number}" in before:
            with pytest.raises(StoreConflictError):
                await sim.call(bank.transfer, number)
        else:
            await sim.call(bank.transfer, number)
    assert (look_now()["a"], look_now()["b"]) == (96, 4)


@settings(plain, max_examples=25)
@simulate(TROUBLE, **TRANSFERS)
async def test_a_store_in_memory_outlasts_the_app_and_keeps_what_it_acknowledged(
    sim: Simulation, cancelled: set[int]
) -> None:
    async with open_store(":memory:") as store:
        await store.attach(SHELF)
        await store.write_all(PUT(key="a", value=100), PUT(key="b", value=0))
        bank = await sim.start(lambda: Bank(store))
        await move_money(sim, bank, cancelled, shelf_of(store))


@asynccontextmanager
async def bank_on(path: Path) -> AsyncIterator[Bank]:
    async with open_store(path) as store:
        await store.attach(SHELF)
        with suppress(StoreConflictError):
            await store.write_all(PUT(key="a", value=100), PUT(key="b", value=0))
        yield Bank(store)


@settings(plain, max_examples=20)
@simulate(scenarios(pauses=2, crashes=1, sweep=60), **TRANSFERS)
async def test_a_store_in_a_file_keeps_what_it_acknowledged_across_a_power_cut(
    sim: Simulation, cancelled: set[int]
) -> None:
    folder = Path(tempfile.mkdtemp())
    connection = sqlite3.connect(f"file:{folder}/store.sqlite", uri=True, isolation_level=None)
    try:
        bank = await sim.start(lambda: bank_on(folder / "store.sqlite"))
        await move_money(sim, bank, cancelled, shelf_of(connection))
    finally:
        connection.close()
        shutil.rmtree(folder)


@settings(plain, max_examples=40)
@simulate(TROUBLE)
async def test_a_job_is_finished_once_whoever_dies(sim: Simulation) -> None:
    finished: list[tuple[str, int]] = []

    class Worker:
        def __init__(self, store: Store) -> None:
            self.store = store

        async def work(self) -> None:
            while claimed := (await self.store.write(CLAIM, lease=5.0, most=1)).rows:
                (job,) = claimed
                await asyncio.sleep(1)
                done = await self.store.write(FINISH, **job)
                finished.extend([(job["id"], job["attempt"])] * done.count)

    async with open_store(":memory:") as store:
        await store.attach(JOBS)
        for number in range(3):
            await store.write(ENQUEUE, id=f"{number}")

        sim.always(lambda: len({job for job, _ in finished}) == len(finished), "no job finishes twice")
        worker = await sim.start(lambda: Worker(store))

        async def work() -> None:
            with suppress(CrashedError):
                await sim.call(worker.work)

        await asyncio.gather(work(), work())
        await sim.heal()
        await sim.settle(10)  # leases of the dead end
        await asyncio.gather(work(), work())
        assert Glass(store, "SELECT state, count(*) FROM sandbox_testjobs GROUP BY state", dict).look() == {2: 3}


@settings(plain, max_examples=30)
@simulate(PAUSES)
async def test_news_reaches_who_waits_whatever_comes_first(sim: Simulation) -> None:
    async with open_store(":memory:") as store:
        await store.attach(SHELF)
        seen: list[str] = []

        async def watch() -> None:
            mark = 0
            while len(seen) < 3:
                rows = await store.read(LIST)
                seen[:] = [row["key"] for row in rows]
                if len(seen) < 3:
                    mark = await store.wait_for("shelf", since=mark, timeout_seconds=3600)

        watching = asyncio.create_task(watch())
        for key in "abc":
            await store.write(PUT, key=key, value=1)
        await watching
        assert asyncio.get_running_loop().time() == 0, "nobody waited for his time to be up"


@settings(plain, max_examples=30)
@simulate(PAUSES)
async def test_time_in_a_store_is_the_simulated_one(sim: Simulation) -> None:
    async with open_store(":memory:") as store:
        began = await store.now()
        await asyncio.sleep(3600)
        assert await store.now() == began + 3600 == sim.clock.now().timestamp()


def test_a_store_on_postgres_is_refused_with_what_to_do() -> None:
    loop = SimLoop()
    with world(loop), pytest.raises(EscapedError, match="a store in memory or in a file"):
        loop.run(open_store("postgresql://127.0.0.1/db").open())


@pytest.mark.parametrize("place", [":memory:", "file"])
def test_one_trace_in_many_runs(place: str, tmp_path: Path) -> None:
    async def main(path: str) -> list[int]:
        async with open_store(path) as store:
            await store.attach(SHELF, JOBS)
            await store.write(PUT, key="sum", value=0)
            writes = await asyncio.gather(*(store.write(ADD, key="sum", value=n) for n in range(10)))
            await store.read(GET, key="sum")
            return [write.rows[0]["value"] for write in writes]

    traces = set()
    for number in range(300 if place == ":memory:" else 30):
        loop = SimLoop()
        with world(loop):
            values = loop.run(main(place if place == ":memory:" else str(tmp_path / f"{number}.sqlite")))
        traces.add((loop.trace.digest(), tuple(values)))
    assert len(traces) == 1
