"""The simulated world: time, chance, threads, SQLite, and walls around it."""

import asyncio
import contextlib
import gc
import os
import random
import secrets
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from asyncsandbox import Sandbox
from asyncsandbox._core.clock import SystemClock
from asyncsandbox.testing.errors import EscapedError, NestedWorldError
from asyncsandbox.testing.loop import SimLoop
from asyncsandbox.testing.patches import Patches
from asyncsandbox.testing.world import EPOCH_SECONDS, world


def simulate(main: Any, *, seed: int = 0, pauses: tuple[int, ...] = ()) -> tuple[Any, SimLoop]:
    loop = SimLoop(pauses=pauses)
    with world(loop, seed=seed):
        return loop.run(main()), loop


# ---------------------------------------------------------------- time and chance


async def everything_governed() -> tuple[Any, ...]:
    clock = SystemClock()
    before = clock.now()
    await asyncio.sleep(90)
    return (
        time.time(),
        time.time_ns(),
        time.monotonic(),
        time.monotonic_ns(),
        (clock.now() - before).total_seconds(),
        clock.random(),
        clock.random_hex(8),
        uuid.uuid4(),
        uuid.uuid1(),
        uuid.uuid1(),
        os.urandom(4),
        secrets.token_hex(4),
        random.random(),
        random.Random().random(),
        random.Random(5).random(),
        random.SystemRandom().random(),
    )


def check_governed(seed: int) -> None:
    first, _ = simulate(everything_governed, seed=seed)
    again, _ = simulate(everything_governed, seed=seed)
    assert first == again
    assert first[:5] == (EPOCH_SECONDS + 90, (EPOCH_SECONDS + 90) * 10**9, 90, 90 * 10**9, 90)
    assert first[14] == random.Random(5).random()
    other, _ = simulate(everything_governed, seed=seed + 1)
    assert all(mine != theirs for mine, theirs in zip(first[5:8], other[5:8], strict=True))


@given(st.integers(0, 1_000))
def test_time_and_chance_are_the_worlds(seed):
    check_governed(seed)


@pytest.mark.parametrize("missing", ["_govern_time", "_governed_chance"])
def test_the_property_catches_a_world_that_does_not_govern(missing, monkeypatch):
    monkeypatch.setattr(f"asyncsandbox.testing.world.{missing}", lambda *_: contextlib.nullcontext())
    with pytest.raises(AssertionError):
        check_governed(0)


def draw_temporary_name(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tempfile, "_name_sequence", None)  # as in a new process

    async def main() -> str:
        with tempfile.NamedTemporaryFile() as file:
            return file.name

    return simulate(main)[0]


def test_processes_that_simulate_at_once_draw_different_temporary_names(monkeypatch):
    assert draw_temporary_name(monkeypatch) != draw_temporary_name(monkeypatch)
    monkeypatch.setattr("asyncsandbox.testing.world._seed_temporary_names", lambda: None)
    assert draw_temporary_name(monkeypatch) == draw_temporary_name(monkeypatch)  # what it prevents


def test_everything_is_put_back():
    names = [
        (time, "time"),
        (time, "monotonic"),
        (time, "sleep"),
        (os, "urandom"),
        (uuid, "_node"),
        (random.Random, "seed"),
        (socket.socket, "__init__"),
        (subprocess.Popen, "__init__"),
        (threading.Thread, "start"),
        (sqlite3, "connect"),
        (aiosqlite.core.Connection, "__init__"),
        (anyio.from_thread, "run"),
    ]
    before = [vars(owner).get(name) for owner, name in names]
    state = random.getstate()
    with pytest.raises(ZeroDivisionError):
        simulate(everything_wrong)
    assert [vars(owner).get(name) for owner, name in names] == before
    assert random.getstate() == state


async def everything_wrong() -> None:
    random.random()
    raise ZeroDivisionError


def test_the_time_of_day_may_jump_and_nothing_else_notices():
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        began = time.time()
        loop.call_later(5, lambda: loop.jump(-3_600))
        await asyncio.sleep(10)
        return time.time() - began, time.monotonic()

    (wall, monotonic), loop = simulate(main)
    assert (wall, monotonic) == (10 - 3_600, 10)
    assert "-3600 s" in {step.note for step in loop.trace.steps}


def test_sleeping_on_the_loop_stops_everybody():
    async def main() -> tuple[float, float]:
        sleeper = asyncio.create_task(asyncio.sleep(1))
        await asyncio.sleep(0)
        time.sleep(30)  # noqa: ASYNC251 - that is the point
        await sleeper
        return asyncio.get_running_loop().time(), time.monotonic()

    assert simulate(main)[0] == (30, 30)


def test_sleeping_in_a_job_stops_only_the_job():
    def job() -> tuple[float, float]:
        began = time.monotonic()
        time.sleep(30)
        return began, time.monotonic()

    async def main() -> tuple[Any, ...]:
        done = asyncio.create_task(asyncio.to_thread(job))
        await asyncio.sleep(5)
        early = done.done()
        try:
            await asyncio.wait_for(asyncio.to_thread(job), 2)
        except TimeoutError:
            return early, time.monotonic(), await done, time.monotonic()

    assert simulate(main)[0] == (False, 7, (0, 30), 30)


def test_other_threads_see_the_real_thing():
    seen: list[float] = []
    begin, end = threading.Event(), threading.Event()

    def look() -> None:
        begin.wait()
        seen.append(time.monotonic())
        end.set()

    thread = threading.Thread(target=look)
    thread.start()
    loop = SimLoop()
    real = time.monotonic()
    with world(loop):
        begin.set()
        while not end.is_set():
            pass
    loop.close()
    thread.join()
    assert seen[0] >= real


def test_replacing_what_is_not_there_does_nothing():
    with Patches() as patches:
        patches.set(uuid, "no_such_name", 1)
    assert not hasattr(uuid, "no_such_name")


# ---------------------------------------------------------------- walls


def with_socket() -> None:
    socket.socket()


def with_process() -> None:
    subprocess.run(["true"], check=True)


def with_thread() -> None:
    threading.Thread(target=print).start()


def with_blocking() -> None:
    threading.Event().wait(1)


async def with_connection() -> None:
    await asyncio.open_connection("localhost", 1)


async def with_server() -> None:
    await asyncio.start_server(print, "localhost", 0)


async def with_exec() -> None:
    await asyncio.create_subprocess_exec("true")


async def with_anyio_tcp() -> None:
    await anyio.connect_tcp("localhost", 1)


async def with_anyio_process() -> None:
    await anyio.run_process(["true"])


async def with_signal() -> None:
    asyncio.get_running_loop().add_signal_handler(2, print)


async def with_reader() -> None:
    asyncio.get_running_loop().add_reader(0, print)


async def with_call_from_job() -> None:
    await anyio.to_thread.run_sync(anyio.from_thread.run, anyio.sleep, 1)


async def with_waiting_job() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result())


@pytest.mark.parametrize(
    "reach",
    [
        with_socket,
        with_process,
        with_thread,
        with_blocking,
        with_connection,
        with_server,
        with_exec,
        with_anyio_tcp,
        with_anyio_process,
        with_signal,
        with_reader,
        with_call_from_job,
        with_waiting_job,
    ],
)
@pytest.mark.parametrize("swallow", [False, True], ids=["raised", "swallowed"])
def test_the_real_world_is_refused(reach, swallow):
    async def main() -> None:
        try:
            outcome = reach()
            if outcome is not None:
                await outcome
        except Exception:
            if not swallow:
                raise

    with pytest.raises(EscapedError, match=r"is refused inside a simulation: \w+ ") as caught:
        simulate(main)
    assert caught.value.remedy


def test_a_world_holds_no_other_world():
    loop = SimLoop()
    with world(loop), pytest.raises(NestedWorldError), world(loop):
        pass
    loop.close()


# ---------------------------------------------------------------- anyio


def test_anyios_threads_are_steps():
    async def main() -> tuple[Any, ...]:
        limiter = anyio.CapacityLimiter(1)
        here = threading.get_ident()

        def job() -> bool:
            anyio.from_thread.check_cancelled()
            return threading.get_ident() == here

        inside = await anyio.to_thread.run_sync(job, limiter=limiter)
        with anyio.move_on_after(5) as scope:
            await anyio.to_thread.run_sync(time.sleep, 60, abandon_on_cancel=True)
        with anyio.move_on_after(5):
            await anyio.to_thread.run_sync(time.sleep, 60)
        return inside, limiter.borrowed_tokens, scope.cancelled_caught, anyio.current_time()

    assert simulate(main)[0] == (True, 0, True, 65.0)


# ---------------------------------------------------------------- SQLite


async def orders(url: str) -> list[Any]:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (who TEXT, at REAL)"))

    async def order(who: str) -> None:
        for _ in range(3):
            async with engine.begin() as connection:
                count = (await connection.execute(text("SELECT count(*) FROM t"))).scalar()
                await connection.execute(text("INSERT INTO t VALUES (:who, :at)"), {"who": who, "at": count})

    await asyncio.gather(*(order(who) for who in "abc"))
    async with engine.connect() as connection:
        rows = (await connection.execute(text("SELECT who, at FROM t"))).all()
    await engine.dispose()
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("pauses", [(), (3,), (5, 20)])
def test_sqlalchemy_and_aiosqlite_run_unmodified_and_the_same_way_every_time(pauses, tmp_path):
    runs = []
    for number in range(5):
        path = tmp_path / f"{number}.db"
        rows, loop = simulate(lambda path=path: orders(f"sqlite+aiosqlite:///{path}"), pauses=pauses)
        runs.append((rows, loop.trace.digest(), loop.unhandled, loop.leaked))
    assert len(rows) == 9
    assert all(run == runs[0] for run in runs)


def test_a_lock_is_waited_for_in_virtual_time(tmp_path):
    async def main() -> list[Any]:
        seen: list[Any] = []
        async with aiosqlite.connect(tmp_path / "x.db") as first, aiosqlite.connect(tmp_path / "x.db") as second:
            await first.execute("CREATE TABLE t (a)")
            await first.execute("PRAGMA synchronous = FULL")
            await first.execute("PRAGMA busy_timeout = soon")  # nonsense counts as 0
            await second.execute("PRAGMA busy_timeout = 2000")

            async def write() -> None:
                await second.execute("INSERT INTO t VALUES (2)")
                await second.commit()

            await first.execute("INSERT INTO t VALUES (1)")
            writing = asyncio.create_task(write())
            await asyncio.sleep(1)
            seen.append(writing.done())
            await first.commit()
            await writing
            seen.append(time.monotonic() < 1.2)
            await first.execute("INSERT INTO t VALUES (3)")
            try:
                await write()
            except sqlite3.OperationalError as error:
                seen.extend([str(error), 3 <= time.monotonic() < 3.5])
            await first.commit()
            seen.append(await first.execute_fetchall("SELECT a FROM t ORDER BY a"))
        return seen

    began = time.perf_counter()
    assert simulate(main)[0] == [False, True, "database is locked", True, [(1,), (2,), (3,)]]
    assert time.perf_counter() - began < 2


def test_errors_of_statements_reach_their_awaiter_and_the_next_one_runs():
    async def main() -> Any:
        async with aiosqlite.connect(":memory:") as db:
            one = asyncio.create_task(db.execute("SELECT nonsense"))
            two = asyncio.create_task(db.execute_fetchall("SELECT 1"))
            three = asyncio.create_task(db.execute("INSERT INTO"))
            await asyncio.sleep(0)
            three.cancel()
            outcomes = await asyncio.gather(one, two, three, return_exceptions=True)
            with pytest.raises(sqlite3.ProgrammingError):
                await db.execute("SELECT ?", ())
            return [type(outcome) for outcome in outcomes]

    assert simulate(main)[0] == [sqlite3.OperationalError, list, asyncio.CancelledError]


@pytest.mark.parametrize("factory", [sqlite3.Connection, type("Own", (sqlite3.Connection,), {})])
def test_connections_may_be_of_the_users_class(factory):
    async def main() -> bool:
        connection = sqlite3.connect(":memory:", factory=factory)
        found = isinstance(connection, factory)
        connection.close()
        return found

    assert simulate(main)[0]


def test_a_broken_file_is_the_users_to_see(tmp_path):
    Path(tmp_path / "x.db").write_text("no database at all, but long enough" * 100)

    async def main() -> None:
        async with aiosqlite.connect(tmp_path / "x.db") as db:
            await db.execute("SELECT * FROM t")

    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        simulate(main)


def check_power_cut(tmp_path: Path) -> None:
    async def app() -> None:
        db = await aiosqlite.connect(tmp_path / "x.db")
        sqlite3.connect(tmp_path / "x.db")  # never closed
        await (await aiosqlite.connect(tmp_path / "x.db")).close()
        await db.execute("CREATE TABLE IF NOT EXISTS t (a)")
        await db.execute("INSERT INTO t VALUES ('committed')")
        await db.commit()
        try:
            await db.execute("INSERT INTO t VALUES ('lost')")
            await asyncio.sleep(60)
        finally:
            await db.commit()

    async def main() -> Any:
        loop: Any = asyncio.get_running_loop()
        for _ in range(2):
            life = loop.new_incarnation()
            started = loop.create_task(app(), context=life.context())
            await asyncio.sleep(10)
            assert not started.done()
            loop.power_cut(life)
        async with aiosqlite.connect(tmp_path / "x.db") as db:
            await db.execute("INSERT INTO t VALUES ('free')")
            return await db.execute_fetchall("SELECT a FROM t")

    rows, loop = simulate(main)
    assert rows == [("committed",), ("committed",), ("free",)]
    assert loop.unhandled == []


def test_a_power_cut_keeps_what_was_committed_and_frees_the_locks(tmp_path):
    check_power_cut(tmp_path)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_power_cut_property_catches_connections_that_live_on(tmp_path, monkeypatch):
    monkeypatch.setattr("asyncsandbox.testing.sqlite._close", lambda ref: None)
    with pytest.raises(AssertionError):  # the second life meets a locked file
        check_power_cut(tmp_path)
    gc.collect()


def test_a_connection_left_open_is_closed_after_the_run():
    async def main() -> None:
        left.append(await aiosqlite.connect(":memory:"))

    left: list[aiosqlite.Connection] = []
    simulate(main)
    left[0].stop()
    assert left[0]._connection is None


# ---------------------------------------------------------------- sandboxes


def test_a_sandbox_whose_power_was_cut_is_no_sandbox_any_more():
    async def app() -> None:
        async with Sandbox():
            await asyncio.sleep(60)

    async def main() -> bool:
        loop: Any = asyncio.get_running_loop()
        for cut in (False, True):
            life = loop.new_incarnation()
            task = loop.create_task(app(), context=life.context())
            await asyncio.sleep(10)
            if cut:
                loop.power_cut(life)
            else:
                await task
                loop.power_cut(life)
        async with Sandbox(dry_run=False) as sandbox:
            return sandbox.dry_run

    assert simulate(main)[0] is False
