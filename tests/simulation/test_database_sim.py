"""The isolated database under pauses, cancellations and power cuts: no update is lost and the source stays as it is."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from sqlalchemy import text

from asyncsandbox.components.database import (
    DatabaseSettings,
    Isolation,
    SandboxDatabaseManager,
    SessionTimeoutError,
    isolated,
)
from asyncsandbox.components.database.turns import Turns
from asyncsandbox.errors import NotStartedError, SessionInUseError
from asyncsandbox.testing import CrashedError, Simulation, scenarios, simulate

SESSIONS = scenarios(pauses=1, sweep=40)
POWER_CUTS = scenarios(pauses=0, crashes=2, sweep=30)
TURNS = scenarios(pauses=2, sweep=120)
INPUTS = {"isolation": st.sampled_from([Isolation.ROLLBACK, Isolation.CLONE]), "cancel": st.booleans()}
TURN_INPUTS = {"cancelled": st.just({1, 2}) | st.sets(st.integers(0, 4)), "hands": st.booleans()}
plain = settings(database=None, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def make_source(folder: Path) -> Iterator[Path]:
    """Make a database to isolate, and a place for its copies: a power cut leaves them lying there."""
    copies, path = folder / "copies", folder / "source" / "shop.sqlite"
    copies.mkdir()
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE c (v INTEGER); INSERT INTO c VALUES (0);")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated, "_choose_directory", lambda _path: copies)
        yield path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with make_source(tmp_path_factory.mktemp("database")) as path:
        yield path


def look_at(source: Path) -> tuple[bytes, list[str]]:
    """Return what the file holds, and what lies beside it."""
    return source.read_bytes(), [path.name for path in source.parent.iterdir()]


async def add(db: SandboxDatabaseManager, *, undo: bool = False) -> None:
    async with db.get_session() as session:
        value = (await session.execute(text("SELECT v FROM c"))).scalar_one()
        await session.execute(text("UPDATE c SET v = :v"), {"v": value + 1})
        await (session.rollback() if undo else session.commit())


async def stay(db: SandboxDatabaseManager, until: asyncio.Event) -> None:
    """Keep the connection after the commit, and with it nobody waiting."""
    async with db.engine.connect() as connection:
        await connection.execute(text("UPDATE c SET v = v + 1"))
        await connection.commit()
        await until.wait()


async def look(db: SandboxDatabaseManager) -> int:
    async with db.get_session(read_only=True) as session:
        return int((await session.execute(text("SELECT v FROM c"))).scalar_one())


@settings(plain, max_examples=15)
@simulate(SESSIONS, **INPUTS)
async def test_sessions_that_read_and_then_write_lose_nothing(
    sim: Simulation, source: Path, isolation: Isolation, cancel: bool
) -> None:
    before = look_at(source)
    async with SandboxDatabaseManager(source, settings=DatabaseSettings(isolation=isolation)) as db:
        adding = [asyncio.create_task(add(db)) for _ in range(2)]
        undoing = asyncio.create_task(add(db, undo=True))
        looking = asyncio.create_task(look(db))
        unwanted = asyncio.create_task(add(db))
        others = asyncio.Event()
        staying = asyncio.create_task(stay(db, others))
        if cancel:
            await asyncio.sleep(0)
            unwanted.cancel()
        seen = await looking
        await asyncio.gather(*adding, undoing)
        (outcome,) = await asyncio.gather(unwanted, return_exceptions=True)
        others.set()
        await staying
        most = 3 if outcome is not None else 4
        assert seen <= most
        assert await look(db) == most
        (change,) = await db.get_row_changes()
        assert (change.table, change.updated) == ("c", 1) or change.inserted + change.deleted
        assert db.get_status().open_sessions == 0
    assert db.get_status().leaked is None
    assert look_at(source) == before


@settings(plain, max_examples=10)
@simulate(POWER_CUTS, isolation=st.sampled_from([Isolation.CLONE, Isolation.ROLLBACK]))
async def test_a_power_cut_leaves_the_source_as_it_is(sim: Simulation, source: Path, isolation: Isolation) -> None:
    before = look_at(source)
    db = await sim.start(lambda: SandboxDatabaseManager(source, settings=DatabaseSettings(isolation=isolation)))
    for _ in range(2):
        with suppress(CrashedError):
            await sim.call(add, db)
    assert look_at(source)[0] == before[0]
    await sim.heal()
    assert await sim.call(look, db) <= 2
    assert look_at(source)[0] == before[0]


# ------------------------------------------------------------------ turns


@settings(plain, max_examples=60)
@simulate(TURNS, **TURN_INPUTS)
async def test_turns_are_one_at_a_time_and_first_come_first_served(
    sim: Simulation, cancelled: set[int], hands: bool
) -> None:
    turns = Turns(5)
    inside: list[int] = []
    came: list[int] = []
    served: list[int] = []
    sim.always(lambda: len(inside) <= 1, "one at a time")

    async def work(number: int) -> None:
        came.append(number)
        await turns.take(number)
        served.append(number)
        inside.append(number)
        try:
            await asyncio.sleep(0.1)
        finally:
            inside.remove(number)
            turns.give_back(number)

    workers = [asyncio.create_task(work(number), name=f"worker {number}") for number in range(5)]
    # Either while they wait, or in the very moment at which the turn is handed on.
    await asyncio.sleep(0.1 if hands else 0.05)
    for number in sorted(cancelled):
        workers[number].cancel()
    _, stuck = await asyncio.wait(workers, timeout=3)
    assert not stuck
    outcomes = await asyncio.gather(*workers, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        assert outcome is None or (number in cancelled and isinstance(outcome, asyncio.CancelledError))
    assert served == [number for number in came if number in served]
    async with asyncio.timeout(1):
        await turns.take("late")
    turns.give_back("somebody else")
    with pytest.raises(SessionInUseError):
        await turns.take("again")
    patient = asyncio.create_task(turns.take("patient"))
    began = asyncio.get_running_loop().time()
    with pytest.raises(SessionTimeoutError):
        await patient
    assert 5 <= asyncio.get_running_loop().time() - began < 5.1
    waiting = asyncio.create_task(turns.take("waiting"))
    await asyncio.sleep(0)
    turns.close()
    with pytest.raises(NotStartedError):
        await waiting
    with pytest.raises(NotStartedError):
        await turns.take("too late")


@settings(plain, max_examples=30)
@simulate(TURNS)
async def test_a_long_queue_that_moves_is_no_reason_to_give_up(sim: Simulation) -> None:
    turns = Turns(1)

    async def work(number: int) -> None:
        await turns.take(number)
        await asyncio.sleep(0.8)
        turns.give_back(number)

    await asyncio.gather(*(work(number) for number in range(4)))
