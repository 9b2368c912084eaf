"""The database: isolation, the untouched source, the row summary, turns, bad input, and nothing left behind."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest
from database_promises import (
    ON_POSTGRES,
    ON_SQLITE,
    a_source,
    ask,
    execute,
    make_file,
    manager,
    ours,
    quick,
    read_modify_write,
    sessions_are_isolated,
    until,
)
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ForeignKey, MetaData, StaticPool, event, select, text
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asyncsandbox._core.component import ComponentState, Services
from asyncsandbox._core.context import Host
from asyncsandbox._core.journal import Level
from asyncsandbox.components.database import (
    DatabaseSettings,
    Isolation,
    LeakReport,
    SandboxDatabaseManager,
    SessionTimeoutError,
    TableChange,
    copying,
    isolated,
)
from asyncsandbox.components.database.seats import make_or_discard
from asyncsandbox.components.database.source import Source, parse_source
from asyncsandbox.components.database.turns import Turns
from asyncsandbox.errors import (
    ConfigurationError,
    DatabaseSourceError,
    LifecycleError,
    NotStartedError,
    SessionInUseError,
)

ISOLATED = ("clone", "rollback")
EVERY = (*ISOLATED, "none")
NOBODY = 65534


@pytest.fixture(autouse=True)
def room(tmp_path, monkeypatch):
    """Where private copies are made; empty again after each test."""
    folder = tmp_path / "room"
    folder.mkdir()
    monkeypatch.setattr(isolated, "_RAM_DIRECTORY", folder)
    monkeypatch.setattr(isolated, "_RAM_RESERVE", 0)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def place(request, tmp_path):
    """Give a folder, or the URL of a database of its own."""
    if not request.node.callspec.params["isolation"].startswith("postgres"):
        yield tmp_path
        return
    with asyncio.Runner() as runner:
        source = a_source(request.getfixturevalue("postgres_url"))
        yield runner.run(source.__aenter__())
        runner.run(source.__aexit__(None, None, None))


@pytest.fixture
def path(tmp_path):
    return make_file(tmp_path / "data" / "app.db")


def digest(path):
    """Names and bytes of everything beside the database, save the lock table, which is not content."""
    files = sorted(p for p in path.parent.iterdir() if p.is_file())
    return {p.name: hashlib.sha256(b"" if p.name.endswith("-shm") else p.read_bytes()).hexdigest() for p in files}


def rows(path, query="SELECT v FROM c"):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


# ---------------------------------------------------------------- the owner's snippet, and life


async def test_the_snippet_runs_as_written():
    db = SandboxDatabaseManager(use_memory=True)
    session = db.get_session()
    assert db.engine is not None
    await db.cleanup()
    assert db.get_status().leaked is None
    await session.close()


async def test_a_session_opens_the_database_by_itself_and_cleanup_is_idempotent(room):
    db = SandboxDatabaseManager()
    session = db.get_session()
    assert (await session.execute(text("SELECT 1"))).scalar_one() == 1
    assert db.get_status().state is ComponentState.RUNNING
    assert len(list(room.iterdir())) == 1
    await session.close()
    await db.cleanup()
    await db.cleanup()
    with pytest.raises(NotStartedError, match="a session"):
        db.get_session()
    with pytest.raises(NotStartedError):
        _ = db.engine
    with pytest.raises(NotStartedError, match="a comparison"):
        await db.get_row_changes()


async def test_it_starts_anew_after_a_stop_with_another_scratch_database():
    db = SandboxDatabaseManager()
    for _ in range(2):
        async with db:
            await execute(db, "CREATE TABLE t (a)")


async def test_many_first_sessions_open_one_database(room):
    db = SandboxDatabaseManager()
    await asyncio.gather(*(ask(db, "SELECT 1") for _ in range(10)))
    assert len(list(room.iterdir())) == 1
    await db.cleanup()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"db_url": "a.db", "use_memory": True}, "use_memory"),
        ({"use_memory": False}, "use_memory"),
    ],
)
def test_contradictions_are_refused(arguments, field):
    with pytest.raises(ConfigurationError) as caught:
        SandboxDatabaseManager(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "wrong", [{"isolation": "sometimes"}, {"busy_timeout_seconds": 0}, {"max_sessions": 0}, {"max_sessions": 1.5}]
)
def test_settings_name_what_is_wrong(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        DatabaseSettings(**wrong)


def test_settings_take_the_name_of_an_isolation():
    assert DatabaseSettings(isolation="clone").isolation is Isolation.CLONE


async def test_the_status_is_json_able_and_tells_what_is_open(path):
    async with manager(path) as db:
        async with db.get_session() as session:
            await session.execute(text("SELECT 1"))
            status = db.get_status()
        assert status.open_sessions == 1
        assert db.get_status().open_sessions == 0
    assert json.loads(json.dumps(dataclasses.asdict(status))) == {
        "name": "database",
        "state": "running",
        "source": str(path),
        "isolation": "clone",
        "open_sessions": 1,
        "leaked": None,
    }


@pytest.mark.parametrize(
    ("host", "isolation", "expected"),
    [
        (None, "auto", "clone"),
        (Host(name="s", dry_run=True), "auto", "clone"),
        (Host(name="s", dry_run=False), "auto", "none"),
        (Host(name="s", dry_run=False), "rollback", "rollback"),
    ],
)
async def test_auto_isolates_everywhere_but_in_a_live_sandbox(path, host, isolation, expected):
    db = manager(path, isolation)
    db.bind(dataclasses.replace(Services.alone(), host=host))
    async with db:
        assert db.get_status().isolation == expected


async def test_a_dry_run_without_isolation_is_refused(path):
    db = manager(path, "none")
    db.bind(dataclasses.replace(Services.alone(), host=Host(name="s", dry_run=True)))
    with pytest.raises(ConfigurationError, match="a dry run never writes"):
        await db.start()


async def test_the_check_asks_the_database_and_takes_no_turn(path):
    for isolation in EVERY:
        async with manager(path, isolation) as db:
            (check,) = db.get_checks()
            assert check.name == "database"
            async with db.get_session() as session:
                await session.execute(text("UPDATE c SET v = 7"))
                assert await check.fn() is True
    async with SandboxDatabaseManager() as db:
        assert await db.get_checks()[0].fn() is True
        await db.use(path)
        assert await db.get_checks()[0].fn() is True
    with pytest.raises(NotStartedError):
        await check.fn()


def test_a_forgotten_database_does_not_keep_the_process_from_ending():
    script = (
        "import asyncio\nfrom sqlalchemy import text\nfrom asyncsandbox.components.database import *\n"
        "async def main():\n    global db, session\n    db = SandboxDatabaseManager()\n    session = db.get_session()\n"
        "    await session.execute(text('SELECT 1'))\nasyncio.run(main())\n"
        "print(db._isolated._path.parent)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert not done.returncode, done.stderr
    assert not Path(done.stdout.strip()).exists()


def test_importing_it_imports_neither_sqlalchemy_nor_aiosqlite():
    script = "import sys, asyncsandbox.components.database; print({'sqlalchemy', 'aiosqlite'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "set()\n"


# ---------------------------------------------------------------- concurrent sessions never share a transaction


@contextlib.asynccontextmanager
async def stock(folder, begin=None, **engine_options):
    engine = create_async_engine(
        "sqlite+aiosqlite:///:memory:" if engine_options else f"sqlite+aiosqlite:///{folder}/s.db"
    )
    if begin:
        event.listen(engine.sync_engine, "connect", lambda c, _: setattr(c, "isolation_level", None))
        event.listen(engine.sync_engine, "begin", lambda c: c.exec_driver_sql(begin))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE c (v INTEGER)"))
        await connection.execute(text("INSERT INTO c VALUES (0)"))
    try:
        yield lambda: AsyncSession(engine)
    finally:
        await engine.dispose()


@pytest.mark.parametrize("isolation", [*ON_SQLITE, *ON_POSTGRES])
def test_what_one_session_rolls_back_or_commits_concerns_no_other(isolation, place):
    @contextlib.asynccontextmanager
    async def opened():
        with tempfile.TemporaryDirectory() as folder:
            async with ours(isolation, place if isinstance(place, str) else folder) as db:
                yield db.get_session

    sessions_are_isolated(opened, examples=6 if isolation == "postgres clone" else 25)


def test_one_connection_for_all_sessions_breaks_that_promise():
    with pytest.raises(AssertionError):
        sessions_are_isolated(lambda: stock(None, poolclass=StaticPool))


@pytest.mark.parametrize("isolation", [*ON_SQLITE, *ON_POSTGRES])
async def test_a_rollback_elsewhere_loses_no_row(isolation, place):
    async with ours(isolation, place) as db:
        a, b = db.get_session(), db.get_session()
        await a.execute(text("INSERT INTO c VALUES (1)"))
        other = asyncio.create_task(b.execute(text("SELECT 1")))
        await asyncio.sleep(0)
        await a.commit()
        await other
        await b.rollback()
        await asyncio.gather(a.close(), b.close())
        assert await ask(db, "SELECT count(*) FROM c") == [2]


async def test_the_stock_engine_in_memory_loses_that_row(tmp_path):
    async with stock(tmp_path, poolclass=StaticPool) as new_session:
        a, b = new_session(), new_session()
        await a.execute(text("INSERT INTO c VALUES (1)"))
        await b.execute(text("SELECT 1"))
        await b.rollback()
        await a.commit()
        assert (await a.execute(text("SELECT count(*) FROM c"))).scalar_one() == 1, (
            "a's row is gone, and nobody said so"
        )
        await a.close()
        await b.close()


@pytest.mark.parametrize("isolation", [*ON_SQLITE, *ON_POSTGRES])
async def test_twenty_sessions_that_read_and_then_write_lose_no_update(isolation, place):
    # Where sessions do not take turns, PostgreSQL's own rule holds: who reads in order to write says so.
    lock = " FOR UPDATE" if isolation in {"postgres clone", "postgres schema", "postgres none"} else ""
    async with ours(isolation, place) as db:
        await asyncio.gather(*(read_modify_write(db.get_session, lock) for _ in range(20)))
        assert await ask(db) == [20]


@pytest.mark.parametrize(("begin", "errors", "updates"), [(None, 0, 1), ("BEGIN", 19, 1)])
async def test_stock_sessions_lose_updates_or_fail(begin, errors, updates, tmp_path):
    async with stock(tmp_path, begin) as new_session:
        outcome = await asyncio.gather(*(read_modify_write(new_session) for _ in range(20)), return_exceptions=True)
        async with new_session() as session:
            value = (await session.execute(text("SELECT v FROM c"))).scalar_one()
    failed = sum(isinstance(error, OperationalError) for error in outcome)
    assert value < 20, "fewer updates than sessions"
    assert (failed > 0) == (errors > 0)
    assert value >= updates


@pytest.mark.parametrize("isolation", EVERY)
async def test_a_second_session_in_the_same_task_is_refused_at_once(path, isolation):
    async with manager(path, isolation) as db, db.get_session() as first:
        await first.execute(text("UPDATE c SET v = 1"))
        with pytest.raises(SessionInUseError):
            await ask(db)
        await first.commit()
        assert await ask(db) == [1]


@pytest.mark.parametrize("isolation", ["clone", "none"])
async def test_a_session_that_only_reads_takes_no_turn_and_cannot_write(path, isolation):
    make_file(path.with_name("wal.db"), "wal")
    async with manager(path.with_name("wal.db"), isolation) as db, db.get_session() as writer:
        await writer.execute(text("UPDATE c SET v = 1"))
        async with db.get_session(read_only=True) as reader:
            assert (await reader.execute(text("SELECT v FROM c"))).scalar_one() == 0
            with pytest.raises(OperationalError, match="readonly"):
                await reader.execute(text("UPDATE c SET v = 2"))
        await writer.commit()
        assert await ask(db, read_only=True) == [1]
        await execute(db, "UPDATE c SET v = 3")
        async with db.get_session(read_only=True) as reader:
            assert (await reader.execute(text("SELECT v FROM c"))).scalar_one() == 3
            await reader.commit()
        for _ in range(6):  # also on the connections that readers used before
            await execute(db, "UPDATE c SET v = v + 1")
        assert await ask(db) == [9]


async def test_in_rollback_mode_readers_take_turns_too(path):
    async with manager(path, "rollback") as db, db.get_session() as writer:
        await writer.execute(text("UPDATE c SET v = 1"))
        with pytest.raises(SessionInUseError):
            await ask(db, read_only=True)


async def test_a_transaction_that_stays_open_makes_others_give_up_with_its_name(path):
    async with manager(path, busy_timeout_seconds=0.05) as db, db.get_session() as first:
        await first.execute(text("SELECT 1"))
        with pytest.raises(SessionTimeoutError, match=r"that task 'Task-.*' began") as caught:
            await asyncio.create_task(ask(db))
        assert caught.value.waited_seconds == 0.05
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        await first.commit()
        assert await ask(db) == [0]


async def test_a_refused_commit_can_be_rolled_back_and_the_turn_goes_on(path):
    make_file(
        path,
        script="CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE k (p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    )
    async with manager(path) as db:
        event.listen(db.engine.sync_engine, "connect", lambda c, _: c.cursor().execute("PRAGMA foreign_keys=ON"))
        async with db.get_session() as session:
            await session.execute(text("INSERT INTO k VALUES (1)"))
            with pytest.raises(IntegrityError):
                await session.commit()
            await session.rollback()
        assert await ask(db, "SELECT * FROM k") == []


async def test_a_lock_of_another_connection_ends_in_the_drivers_error_and_frees_the_turn(path):
    async with manager(path, "none", busy_timeout_seconds=0.05) as db:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(OperationalError, match="locked"):
                await ask(db)
            other.execute("ROLLBACK")
        assert await ask(db) == [0]


@pytest.mark.parametrize("isolation", EVERY)
async def test_a_cancelled_session_frees_its_turn_and_leaves_nothing(path, isolation):
    async with manager(path, isolation) as db:
        for steps in range(1, 25):
            task = asyncio.create_task(execute(db, "UPDATE c SET v = v + 100", "SELECT 1"))
            for _ in range(steps):
                await asyncio.sleep(0.0005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        before = (await ask(db))[0]
        assert before % 100 == 0
        await execute(db, "UPDATE c SET v = v + 1")
        assert await ask(db) == [before + 1]
        await until(lambda: not db.get_status().open_sessions)  # SQLAlchemy closes it in a task of its own


async def test_a_connection_that_is_closed_amid_its_rows_lets_go_of_its_locks(path):
    async with manager(path, "none") as db:
        await execute(db, *["INSERT INTO c VALUES (1)"] * 5)
        seat = await db._isolated.seat()
        await seat.execute("BEGIN IMMEDIATE")
        cursor = await seat.execute("SELECT v FROM c")
        await cursor.fetchone()
        await seat.close()
        await asyncio.wait_for(execute(db, "DELETE FROM c"), 1)


def test_without_closing_its_cursors_a_closed_connection_keeps_its_lock(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("INSERT INTO c VALUES (1), (2); BEGIN IMMEDIATE")
    cursor = connection.execute("SELECT v FROM c")
    cursor.fetchone()
    connection.close()
    with closing(sqlite3.connect(path, timeout=0)) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("DELETE FROM c")
    del cursor


async def test_more_sessions_than_connections_wait(path):
    async with manager(path, max_sessions=2) as db:
        await asyncio.gather(*(read_modify_write(db.get_session) for _ in range(10)))
        assert await ask(db) == [10]


async def test_autocommit_does_without_a_transaction_where_that_is_possible(path):
    async with manager(path) as db:
        engine = db.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text("UPDATE c SET v = 5"))
            await connection.execute(text("VACUUM"))
        assert await ask(db) == [5]
    async with manager(path, "rollback") as db:
        with pytest.raises(ConfigurationError, match="isolation='rollback'"):
            db.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with db.engine.connect() as connection:
            with pytest.raises(ConfigurationError, match="isolation='rollback'"):
                await connection.execution_options(isolation_level="AUTOCOMMIT")
    assert rows(path) == [(0,)]


# ---------------------------------------------------------------- ORM and DDL


class Base(DeclarativeBase):
    metadata = MetaData()


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Invoice(Base):
    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    total: Mapped[int]


@pytest.mark.parametrize("isolation", ["memory", *EVERY])
async def test_tables_entities_and_nested_transactions_work(isolation, path):
    db = SandboxDatabaseManager() if isolation == "memory" else manager(path, isolation)
    async with db:
        async with db.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with db.get_session() as session:
            session.add(customer := Customer(name="Ada"))
            await session.flush()
            session.add(Invoice(customer_id=customer.id, total=5))
            await session.commit()
            assert customer.name == "Ada", "still there after the commit"
            nested = await session.begin_nested()
            with pytest.raises(IntegrityError):
                await session.execute(text("INSERT INTO customer VALUES (1, 'Eve')"))
            await nested.rollback()
            await session.execute(text("UPDATE invoice SET total = 6"))
            await session.commit()
        async with db.get_session() as session:
            assert (await session.scalars(select(Customer.name))).all() == ["Ada"]
            assert (await session.scalars(select(Invoice))).one().total == 6
            session.add(Customer(name="Bob"))
            await session.flush()
            await session.rollback()
        if isolation != "none":
            assert await db.get_row_changes() == (
                TableChange(table="customer", inserted=1),
                TableChange(table="invoice", inserted=1),
            )
        async with db.engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
    assert (isolation != "none") or rows(path, "SELECT count(*) FROM sqlite_master") == [(1,)]


# ---------------------------------------------------------------- the source stays as it is


def leave_like_a_crash(path, keep_shm):
    """Make a WAL database whose committed rows are in the -wal file only, and nobody has it open."""
    live = path.with_name("live.db")
    connection = sqlite3.connect(live, isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; CREATE TABLE c (v INTEGER); INSERT INTO c VALUES (0);")
    for suffix in ("", "-wal", "-shm") if keep_shm else ("", "-wal"):
        shutil.copyfile(f"{live}{suffix}", f"{path}{suffix}")
    connection.close()
    live.unlink()
    return path


def make_source(kind, folder):
    path = Path(folder) / "source" / "ä b?#%.db"
    path.parent.mkdir()
    if kind.startswith("crashed"):
        return leave_like_a_crash(path, keep_shm=kind == "crashed with shm")
    return make_file(path, kind)


WRITES = (
    "UPDATE c SET v = v + 1",
    "INSERT INTO c VALUES (9)",
    "DELETE FROM c",
    "CREATE TABLE IF NOT EXISTS n (x)",
    "DROP TABLE c",
)
KINDS = ("delete", "wal", "crashed with shm", "crashed")


@pytest.mark.parametrize("isolation", ISOLATED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_the_same_to_the_byte_and_nothing_lies_beside_it(kind, isolation):
    if (kind, isolation) == ("crashed", "rollback"):
        pytest.skip("SQLite must make a -shm file to write to such a database")

    @quick
    @given(steps=st.lists(st.tuples(st.sampled_from(WRITES), st.booleans()), max_size=6), reports=st.booleans())
    def promise(steps, reports):
        async def main(path):
            async with manager(path, isolation) as db:
                assert await ask(db) == [0], "what was committed is there"
                for statement, commits in steps:
                    with contextlib.suppress(OperationalError):
                        async with db.get_session() as session:
                            await session.execute(text(statement))
                            if commits:
                                await session.commit()
                if reports:
                    await db.get_row_changes()

        with tempfile.TemporaryDirectory() as folder:
            path = make_source(kind, folder)
            before = digest(path)
            asyncio.run(main(path))
            assert digest(path) == before
            assert rows(path) == [(0,)]

    promise()


def test_a_plain_copy_of_the_file_misses_what_is_in_the_wal(tmp_path):
    path = leave_like_a_crash(tmp_path / "a.db", keep_shm=False)
    shutil.copyfile(path, tmp_path / "copy.db")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows(tmp_path / "copy.db")


async def test_a_clone_has_what_is_committed_and_not_what_a_live_writer_still_holds(tmp_path):
    path = make_file(tmp_path / "live.db", "wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("INSERT INTO c VALUES (1)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO c VALUES (2)")
        before = digest(path)
        async with manager(path) as db:
            assert await ask(db) == [0, 1]
            await execute(db, "DELETE FROM c")
        assert digest(path) == before
        writer.execute("COMMIT")
    assert rows(path) == [(0,), (1,), (2,)]


async def test_a_half_finished_rollback_journal_is_mended_in_the_copy_only(tmp_path):
    live = make_file(tmp_path / "live.db", script="CREATE TABLE c (v); INSERT INTO c VALUES (0);")
    path = tmp_path / "crashed" / "app.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(live, isolation_level=None)) as writer:
        writer.executescript("PRAGMA cache_size=1; PRAGMA cache_spill=1; BEGIN IMMEDIATE;")
        writer.execute("UPDATE c SET v = 1")
        writer.executemany("INSERT INTO c VALUES (?)", [("x" * 4000,)] * 50)
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{live}{suffix}", f"{path}{suffix}")
        writer.execute("ROLLBACK")
    before = digest(path)
    async with manager(path) as db:
        assert await ask(db) == [0]
    assert digest(path) == before


WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
print("ready", flush=True)
number = 0
while number < 100_000:
    number += 1
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE c SET v = v + 1")
    connection.execute("INSERT INTO log VALUES (1)")
    connection.execute("COMMIT")
    time.sleep(0.001)
"""

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
connection.execute("SELECT * FROM c").fetchall()
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def process(script, path):
    with subprocess.Popen(
        [sys.executable, "-c", script, os.fspath(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            child.stdout.readline()
            yield
        finally:
            child.kill()


@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_a_clone_is_one_moment_of_a_database_that_another_process_writes(tmp_path, journal):
    script = "CREATE TABLE c (v INTEGER); INSERT INTO c VALUES (0); CREATE TABLE log (x);"
    path = make_file(tmp_path / "busy.db", journal, script)
    with process(WRITER, path):
        for _ in range(3):
            async with manager(path, busy_timeout_seconds=20) as db:
                assert await ask(db) == await ask(db, "SELECT count(*) FROM log")


@pytest.mark.parametrize("isolation", EVERY)
async def test_a_database_locked_by_another_process_says_so_after_the_timeout(path, isolation):
    with process(HOLDER, path):
        db = manager(path, isolation, busy_timeout_seconds=0.05)
        with pytest.raises(DatabaseSourceError, match=r"kept it locked for 0\.05 s; close that program"):
            await db.start()
        assert db.get_status().state is ComponentState.FAILED
    assert rows(path) == [(0,)]


async def test_a_copy_that_never_gets_a_quiet_moment_gives_up(path, monkeypatch):
    monkeypatch.setattr(copying, "_copy_once", lambda *_: False)
    with pytest.raises(DatabaseSourceError, match="changes faster"):
        await manager(path, busy_timeout_seconds=0.05).start()


async def test_a_file_that_changes_under_an_unlocked_copy_is_copied_again(tmp_path, monkeypatch):
    path = make_file(tmp_path / "closed.db", "wal")
    backup, calls = copying._backup, []

    def disturbed(*args):
        backup(*args)
        calls.append(1)
        if len(calls) == 1:
            with closing(sqlite3.connect(path)) as writer:
                writer.execute("UPDATE c SET v = 1")
                writer.commit()

    monkeypatch.setattr(copying, "_backup", disturbed)
    async with manager(path) as db:
        assert await ask(db) == [1]
    assert len(calls) == 2


async def test_a_cancelled_start_leaves_no_copy(path, room, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    backup = copying._backup

    def slow(*args):
        begun.set()
        assert go_on.wait(10)
        backup(*args)

    monkeypatch.setattr(copying, "_backup", slow)
    for abandoned in (True, False):
        begun.clear()
        go_on.clear()
        db = manager(path)
        starting = asyncio.create_task(db.start())
        await asyncio.to_thread(begun.wait, 10)
        if abandoned:
            starting.cancel()
            await asyncio.sleep(0)
        go_on.set()
        if abandoned:
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert list(room.iterdir()) == []
        else:
            await starting
            await db.stop()


async def test_what_is_made_after_a_cancellation_is_discarded():
    made, discarded, abandoned = asyncio.get_running_loop().create_future(), [], []

    async def discard(thing):
        discarded.append(thing)

    task = asyncio.create_task(make_or_discard(made, abandon=lambda: abandoned.append(1), discard=discard))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert (abandoned, discarded) == ([1], [])
    made.set_result("thing")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert discarded == ["thing"]


@pytest.mark.parametrize(("free", "is_ram"), [(0, False), (1 << 40, True)])
def test_memory_is_used_where_there_is_room_in_it(monkeypatch, room, free, is_ram):
    monkeypatch.setattr(isolated, "_RAM_RESERVE", 1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert isolated._choose_directory(None) == (room if is_ram else None)
    monkeypatch.setattr(isolated, "_RAM_DIRECTORY", Path("/no/such/place"))
    assert isolated._choose_directory(None) is None


# ---------------------------------------------------------------- rollback mode


async def test_in_rollback_mode_later_sessions_see_earlier_commits_and_nothing_remains(path):
    async with manager(path, "rollback") as db:
        await execute(db, "INSERT INTO c VALUES (1)")
        async with db.get_session() as session:
            await session.execute(text("INSERT INTO c VALUES (2)"))
            await session.rollback()
            await session.execute(text("INSERT INTO c VALUES (3)"))
            await session.commit()
        assert await ask(db) == [0, 1, 3]
        async with db.get_session() as session:
            await session.execute(text("SELECT 1"))
            with pytest.raises(SessionInUseError):
                await db.get_row_changes()
    assert rows(path) == [(0,)]


@pytest.mark.parametrize("end", ["INSERT OR ROLLBACK INTO k VALUES (1)", "INSERT INTO k VALUES (2)"])
async def test_a_statement_that_ends_the_outer_transaction_cannot_make_the_next_one_real(path, end):
    script = (
        "CREATE TABLE k (a INTEGER PRIMARY KEY); INSERT INTO k VALUES (1); CREATE TRIGGER t BEFORE INSERT ON k "
        "WHEN new.a = 2 BEGIN SELECT RAISE(ROLLBACK, 'no'); END;"
    )
    make_file(path, script=script)
    before = digest(path)
    async with manager(path, "rollback") as db:
        async with db.get_session() as session:
            with pytest.raises(IntegrityError):
                await session.execute(text(end))
            with pytest.raises(DatabaseError, match="not authorized"):
                await session.execute(text("INSERT INTO c VALUES (5)"))
        with pytest.raises(DatabaseSourceError, match="ended the outer transaction"):
            await execute(db, "INSERT INTO c VALUES (6)")
        with pytest.raises(DatabaseSourceError, match="ended the outer transaction"):
            await db.get_row_changes()
    assert digest(path) == before


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "BEGIN"])
async def test_a_hand_written_end_of_transaction_is_refused(path, statement):
    async with manager(path, "rollback") as db:
        async with db.get_session() as session:
            await session.execute(text("UPDATE c SET v = 1"))
            with pytest.raises(DatabaseError, match="not authorized"):
                await session.execute(text(statement))
        assert await ask(db) == [0]
    assert rows(path) == [(0,)]


async def test_in_rollback_mode_a_dropped_table_does_not_shine_through(path):
    async with manager(path, "rollback") as db:
        await execute(db, "DROP TABLE c")
        assert await db.get_row_changes() == (TableChange(table="c", deleted=1),)
        with pytest.raises(DatabaseError, match=r"prohibited|no such table"):
            await ask(db)
        assert await db.get_row_changes() == (TableChange(table="c", deleted=1),)
    assert rows(path) == [(0,)]


@pytest.mark.parametrize(
    ("file", "folder", "said"), [(0o444, 0o777, "write to it; use"), (0o666, 0o555, "journal; use")]
)
async def test_rollback_mode_needs_a_file_it_may_write(path, file, folder, said):
    path.chmod(file)
    path.parent.chmod(folder)
    with unprivileged(path.parent):
        db = manager(path, "rollback")
        with pytest.raises(DatabaseSourceError, match=said):
            await db.start()


# ---------------------------------------------------------------- bad input


@contextlib.contextmanager
def unprivileged(folder):
    """Do without root's permission to read and write everything."""
    if os.geteuid() != 0:
        yield
        return
    parents = [
        parent for parent in folder.parents if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o777 == 0o700
    ]
    for parent in parents:
        parent.chmod(0o711)
    isolated._RAM_DIRECTORY.chmod(0o777)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        for parent in parents:
            parent.chmod(0o700)


def truncated(path):
    path.write_bytes(path.read_bytes()[:4096])


def scrambled(path):
    make_file(path.with_name("big.db"), script="CREATE TABLE t (a); CREATE INDEX i ON t (a);")
    with closing(sqlite3.connect(path.with_name("big.db"))) as connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(f"{i:0200}",) for i in range(500)])
        connection.commit()
    data = bytearray(path.with_name("big.db").read_bytes())
    data[40_000:60_000] = b"\xff" * 20_000
    path.with_name("big.db").unlink()
    path.write_bytes(data)


BAD_FILES = {
    "there is no such file; check the path": lambda p: p.unlink(),
    "this is a directory; name the database file": lambda p: (p.unlink(), p.mkdir()),
    "this is not an SQLite database; check the path": lambda p: p.write_bytes(b"hello, world\n" * 100),
    "it is damaged .*; restore a backup": truncated,
    "this is not a regular file; give the path": lambda p: (p.unlink(), os.mkfifo(p)),
}


@pytest.mark.parametrize("isolation", EVERY)
@pytest.mark.parametrize("problem", BAD_FILES)
async def test_a_bad_file_is_one_line_with_a_remedy_and_nothing_is_written(path, isolation, problem):
    BAD_FILES[problem](path)
    before = sorted(p.name for p in path.parent.iterdir())
    db = manager(path, isolation)
    with pytest.raises(DatabaseSourceError, match=problem) as caught:
        await ask(db)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in path.parent.iterdir()) == before
    await db.cleanup()


def torn(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [scrambled, torn])
async def test_a_clone_of_a_file_damaged_inside_is_refused(path, damage):
    damage(path)
    with pytest.raises(DatabaseSourceError, match=r"it is damaged .*; restore a backup"):
        await manager(path).start()


async def test_an_empty_file_counts_as_an_empty_database(tmp_path):
    path = tmp_path / "empty.db"
    path.touch()
    async with manager(path) as db:
        await execute(db, "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
        assert await db.get_row_changes() == (TableChange(table="t", inserted=1),)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("isolation", EVERY)
async def test_a_file_without_permission_says_so(path, isolation):
    path.chmod(0)
    with unprivileged(path.parent), pytest.raises(DatabaseSourceError, match="you may not read it; check its perm"):
        await manager(path, isolation).start()


async def test_a_directory_without_permission_says_so(path):
    path.parent.chmod(0)
    with unprivileged(path.parent), pytest.raises(DatabaseSourceError, match="cannot be followed"):
        await manager(path).start()
    path.parent.chmod(0o755)


async def test_a_live_database_in_wal_mode_needs_its_directory(tmp_path):
    path = make_source("wal", tmp_path)
    path.parent.chmod(0o555)
    with unprivileged(path.parent), pytest.raises(DatabaseSourceError, match=r"cannot be opened as needed .*; check"):
        await manager(path, "none").start()
    path.parent.chmod(0o755)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_directory_that_may_only_be_read_is_enough_for_a_clone(kind, tmp_path):
    path = make_source(kind, tmp_path)
    for file in path.parent.iterdir():
        file.chmod(0o444)
    path.parent.chmod(0o555)
    before = digest(path)
    with unprivileged(path.parent):
        async with manager(path) as db:
            assert await ask(db) == [0]
            await execute(db, "DELETE FROM c")
    assert digest(path) == before
    path.parent.chmod(0o755)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql+psycopg://app:geheim@db:5432/shop?password=geheim",
            r"^postgresql\+psycopg://\*\*\*@db:5432/shop: .*SQLite and PostgreSQL only, the latter by asyncpg",
        ),
        ("mysql://db/shop", "^mysql://db/shop: this works with SQLite and PostgreSQL only"),
        ("sqlite:///a.db?mode=ro", r"^sqlite:///a\.db: parameters in the URL"),
        ("sqlite://a.db", "three slashes"),
        ("://", "SQLite and PostgreSQL only"),
        ("  ", "no path"),
        ("a\0b", "no path"),
    ],
)
def test_a_bad_url_is_refused_at_once_and_without_its_password(url, said):
    with pytest.raises(DatabaseSourceError, match=said) as caught:
        SandboxDatabaseManager(url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("shop.db", "shop.db"),
        (Path("shop.db"), "shop.db"),
        ("sqlite:///shop.db", "shop.db"),
        ("sqlite+aiosqlite:////var/shop.db", "/var/shop.db"),
        ("sqlite+pysqlite:///sub/../shop.db", "shop.db"),
    ],
)
def test_paths_and_urls_are_understood(url, path):
    assert parse_source(url).path == Path.cwd() / path


@pytest.mark.parametrize("url", [":memory:", "sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite:///:memory:"])
def test_memory_is_understood(url):
    assert parse_source(url) == Source(path=None, shown=":memory:")


def test_an_unforeseen_complaint_of_sqlite_has_a_remedy_too():
    problem, remedy = copying.explain(sqlite3.OperationalError("disk I/O error"), 1.0)
    assert "disk I/O error" in problem
    assert remedy


# ---------------------------------------------------------------- another source


@pytest.mark.parametrize("started", [True, False])
async def test_use_points_an_unused_manager_at_another_source(path, room, started):
    db = SandboxDatabaseManager()
    if started:
        await db.start()
    await db.use(f"sqlite:///{path}")
    assert len(list(room.iterdir())) == 1
    assert await ask(db) == [0]
    assert db.get_status().source == str(path)
    with pytest.raises(LifecycleError, match="before the first session"):
        await db.use(path)
    await db.cleanup()
    with pytest.raises(NotStartedError):
        await db.use(path)


async def test_use_may_change_its_mind(path, room):
    async with SandboxDatabaseManager() as db:
        await db.use(path)
        await db.use(make_file(path.with_name("other.db"), script="CREATE TABLE c (v); INSERT INTO c VALUES (5)"))
        assert len(list(room.iterdir())) == 1
        assert await ask(db) == [5]


async def test_use_of_a_bad_source_leaves_the_one_before(path):
    async with manager(path) as db:
        with pytest.raises(DatabaseSourceError):
            await db.use(path.with_name("typo.db"))
        assert await ask(db) == [0]
    assert not path.with_name("typo.db").exists()


async def test_a_session_that_comes_while_use_opens_wins(path):
    async with SandboxDatabaseManager() as db:
        using = asyncio.create_task(db.use(path))
        await asyncio.sleep(0)
        session = db.get_session()
        with pytest.raises(LifecycleError):
            await using
        assert (await session.execute(text("SELECT count(*) FROM sqlite_master"))).scalar_one() == 0
        await session.close()


# ---------------------------------------------------------------- the row summary


NAMES = st.sampled_from(["t", 'a "b"', "select", "x'y", "ünï", "rowid"])
KEYS = {
    "integer key": "({k} INTEGER PRIMARY KEY, {v} TEXT)",
    "text key": "({k} TEXT PRIMARY KEY, {v} TEXT COLLATE NOCASE)",
    "composite key": "({k} INTEGER, k2 INTEGER DEFAULT 1, {v} TEXT, PRIMARY KEY (k2, {k}))",
    "without rowid": "({k} INTEGER PRIMARY KEY, {v} TEXT) WITHOUT ROWID",
    "no key": None,
}
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "replace"]),
        st.integers(1, 5),
        st.sampled_from([None, "a", "A", "1"]),
    ),
    max_size=8,
)


def quote(name):
    return '"' + name.replace('"', '""') + '"'


def net(before, after):
    return TableChange(
        table="",
        inserted=len(after.keys() - before.keys()),
        updated=sum(before[key] != after[key] for key in before.keys() & after.keys()),
        deleted=len(before.keys() - after.keys()),
    )


def counted_statements(_before, _after, edits):
    """What a summary would say that counts statements instead of comparing rows."""
    kinds = Counter(kind for kind, _, _ in edits)
    return TableChange(table="", inserted=kinds["put"], updated=kinds["replace"], deleted=kinds["delete"])


def apply(edits, model):
    """Yield the statements that make the edits, and make them in the model."""
    for kind, key, value in edits:
        parameters = {"k": key, "v": value}
        if kind == "delete":
            model.pop(key, None)
            yield "DELETE FROM {t} WHERE {k} = :k", {"k": key}
        elif key not in model:
            model[key] = value
            yield "INSERT INTO {t} ({k}, {v}) VALUES (:k, :v)", parameters
        elif kind == "put":
            model[key] = value
            yield "UPDATE {t} SET {v} = :v WHERE {k} = :k", parameters
        else:
            model[key] = value
            yield "REPLACE INTO {t} ({k}, {v}) VALUES (:k, :v)", parameters


def summary_is_net(isolation, summarise):
    @quick
    @given(table=NAMES, key=st.sampled_from(sorted(KEYS)), column=NAMES, seed=EDITS, edits=EDITS)
    def promise(table, key, column, seed, edits):
        columns = KEYS[key] or "({v} TEXT)"
        names = {"t": quote(table), "k": quote("id") if KEYS[key] else "_rowid_", "v": quote(column)}

        async def main(folder):
            model = {}
            script = [f"CREATE TABLE {names['t']} {columns.format(**names)}", "CREATE VIEW one AS SELECT 1"]
            path = make_file(Path(folder) / "a.db", script=";".join(script))
            with closing(sqlite3.connect(path)) as connection:
                for statement, parameters in apply(seed, model):
                    connection.execute(statement.format(**names), parameters)
                connection.commit()
            before = dict(model)
            async with manager(path, isolation) as db:
                assert await db.get_row_changes() == ()
                async with db.get_session() as session:
                    for statement, parameters in apply(edits, model):
                        filled = statement.format(**names)
                        await session.execute(text(filled), parameters)
                    await session.commit()
                changes = await db.get_row_changes()
            expected = summarise(before, model, edits)
            if expected == TableChange(table=""):
                assert changes == ()
            else:
                assert changes == (dataclasses.replace(expected, table=table),)

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(folder))

    promise()


@pytest.mark.parametrize("isolation", ISOLATED)
def test_the_summary_is_the_net_difference(isolation):
    summary_is_net(isolation, lambda before, after, _: net(before, after))


def test_counting_statements_is_no_net_difference():
    with pytest.raises(AssertionError):
        summary_is_net("clone", counted_statements)


SHAPES = [
    ("CREATE TABLE n (a); INSERT INTO n VALUES (1), (2)", [("n", 2, 0, 0)]),
    ("CREATE TABLE n (a)", []),
    ("DROP TABLE c", [("c", 0, 0, 1)]),
    ("ALTER TABLE c ADD COLUMN w", []),
    ("ALTER TABLE c ADD COLUMN w DEFAULT 1", [("c", 0, 1, 0)]),
    ("ALTER TABLE two DROP COLUMN b", [("two", 0, 1, 0)]),
    ("ALTER TABLE c RENAME TO d", [("c", 0, 0, 1), ("d", 1, 0, 0)]),
    ("DROP TABLE c; CREATE TABLE c (v INTEGER PRIMARY KEY); INSERT INTO c VALUES (0), (1)", [("c", 2, 0, 1)]),
    ("INSERT INTO hidden VALUES (3, 3, 3)", [("hidden", 1, 0, 0)]),
    ("DELETE FROM hidden WHERE rowid = 1", [("hidden", 0, 0, 1)]),
    ("INSERT INTO words VALUES ('more')", [("words", 1, 0, 0)]),
    ("UPDATE double SET a = 3 WHERE a = 1", [("double", 0, 1, 0)]),
    ("UPDATE auto SET v = 'b'", [("auto", 0, 1, 0)]),
    ("DELETE FROM auto; INSERT INTO auto (v) VALUES ('a')", [("auto", 1, 0, 1)]),
    ("UPDATE nulls SET v = 2", [("nulls", 0, 1, 0)]),
    ("UPDATE keyless SET v = 'x' WHERE v = 'a'", [("keyless", 0, 1, 0)]),
]


@pytest.mark.parametrize("isolation", ISOLATED)
@pytest.mark.parametrize(("script", "expected"), SHAPES)
async def test_tables_of_every_shape(path, isolation, script, expected):
    make_file(
        path,
        script="CREATE TABLE two (a PRIMARY KEY, b); INSERT INTO two VALUES (1, 1), (2, NULL);"
        "CREATE TABLE hidden (rowid, oid, _rowid_); INSERT INTO hidden VALUES (1, NULL, 1), (2, 2, 2);"
        "CREATE VIRTUAL TABLE words USING fts5 (word); INSERT INTO words VALUES ('one');"
        "CREATE TABLE double (a INTEGER, twice AS (a * 2)); INSERT INTO double VALUES (1), (2);"
        "CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT, v); INSERT INTO auto (v) VALUES ('a');"
        "CREATE TABLE nulls (k TEXT PRIMARY KEY, v); INSERT INTO nulls VALUES (NULL, 1);"
        "CREATE TABLE keyless (v); INSERT INTO keyless VALUES ('a'), ('b'), ('b');",
    )
    async with manager(path, isolation) as db:
        await execute(db, *script.split(";"))
        changes = await db.get_row_changes()
    assert [dataclasses.astuple(change) for change in changes] == expected


async def test_an_empty_database_is_made_only_when_somebody_wants_it(room):
    async with SandboxDatabaseManager() as db:
        assert await db.get_checks()[0].fn() is True
        assert await db.get_row_changes() == ()
        assert list(room.iterdir()) == []
        await execute(db, "CREATE TABLE t (a)")
        assert len(list(room.iterdir())) == 1
        assert await db.get_checks()[0].fn() is True


async def test_in_memory_everything_is_new():
    async with SandboxDatabaseManager() as db:
        await execute(db, "CREATE TABLE t (a)", "INSERT INTO t VALUES (1), (2)", "DELETE FROM t WHERE a = 1")
        assert await db.get_row_changes() == (TableChange(table="t", inserted=1),)


async def test_changes_that_others_make_to_the_source_meanwhile_are_not_ours(path):
    async with manager(path) as db:
        with closing(sqlite3.connect(path)) as other:
            other.execute("INSERT INTO c VALUES (1)")
            other.commit()
        assert await db.get_row_changes() == ()


async def test_without_isolation_there_is_nothing_to_compare_with(path):
    async with manager(path, "none") as db:
        with pytest.raises(ConfigurationError, match="need an isolated database"):
            await db.get_row_changes()


@pytest.mark.parametrize("isolation", ISOLATED)
async def test_a_large_unchanged_table_is_compared_quickly(path, isolation):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE big (a INTEGER PRIMARY KEY, b TEXT, d REAL)")
        connection.executemany("INSERT INTO big (b, d) VALUES (?, ?)", [(f"name {i}", i / 3) for i in range(100_000)])
        connection.commit()
    loop = asyncio.get_running_loop()
    async with manager(path, isolation) as db:
        begun = loop.time()
        assert await db.get_row_changes() == ()
        assert loop.time() - begun < 1


# ---------------------------------------------------------------- leaks


@pytest.mark.parametrize("isolation", EVERY)
async def test_cleanup_closes_what_is_open_and_says_where_it_came_from(path, isolation):
    db = manager(path, isolation)
    await db.start()
    closed = db.get_session()
    await closed.execute(text("SELECT 1"))
    await closed.close()
    unused = db.get_session()
    leaked = db.get_session()
    line = sys._getframe().f_lineno - 1
    await leaked.execute(text("UPDATE c SET v = 1"))
    await asyncio.wait_for(db.cleanup(), 5)
    report = db.get_status().leaked
    assert report == LeakReport(sessions=(f"{__file__}:{line}",), connections=0)
    (entry,) = db.services.journal.get_events("database.leaked")
    assert (entry.level, dict(entry.fields)) == (Level.WARNING, {"sessions": report.sessions, "connections": 0})
    json.dumps(dataclasses.asdict(db.get_status()))
    await leaked.close()
    await unused.close()
    assert rows(path) == [(0,)]


async def test_a_leaked_connection_and_a_dropped_session_are_closed_without_a_warning(path):
    db = manager(path)
    await (await db.engine.connect()).execute(text("SELECT 1"))
    await (db.get_session(read_only=True)).execute(text("SELECT 1"))
    await db.cleanup()
    assert db.get_status().leaked is not None
    assert (len(db.get_status().leaked.sessions), db.get_status().leaked.connections) == (1, 1)


async def test_nothing_leaked_is_not_reported(path):
    async with manager(path) as db:
        await execute(db, "SELECT 1")
    assert db.get_status().leaked is None
    assert db.services.journal.get_events("database.leaked") == ()


@pytest.mark.parametrize("isolation", EVERY)
async def test_cleanup_sends_those_home_who_wait_for_a_turn(path, isolation):
    db = manager(path, isolation)
    session = db.get_session()
    await session.execute(text("UPDATE c SET v = 1"))
    waiting = [asyncio.create_task(ask(db)) for _ in range(3)]
    await until(lambda: len(db._isolated.turns._waiting) == 3)
    await db.cleanup()
    outcome = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in outcome] == [NotStartedError] * 3


async def test_cleanup_ends_a_statement_of_another_task(path):
    db = manager(path)
    busy = asyncio.create_task(
        ask(db, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n")
    )
    await until(lambda: db.get_status().open_sessions)
    await db.cleanup()
    await asyncio.gather(busy, return_exceptions=True)
    assert db.get_status().leaked is not None


async def test_cleanup_closes_a_connection_that_is_only_being_made(path):
    db, go_on = manager(path), asyncio.Event()
    event.listen(db.engine.sync_engine, "connect", lambda c, _: c.run_async(lambda _: go_on.wait()))
    making = asyncio.create_task(ask(db))
    await db.start()
    await until(lambda: db._isolated._seats)
    (seat,) = db._isolated._seats
    await db.cleanup()
    with pytest.raises(ValueError, match="no active connection"):
        _ = seat.in_transaction
    go_on.set()
    assert isinstance((await asyncio.gather(making, return_exceptions=True))[0], Exception)


async def test_a_seat_can_be_closed_twice_and_stopped_where_nothing_can_be_awaited(path):
    async with manager(path, "none") as db:
        seat = await db._isolated.seat()
        await asyncio.gather(seat.close(), seat.close())
        seat.stop()
        stopped = await db._isolated.seat()
        assert await stopped.enter(read_only=False) == "BEGIN IMMEDIATE"
        stopped.stop()
        assert db._isolated._seats == set()
        assert await ask(db) == [0]


@pytest.mark.parametrize("cancel", [True, False])
async def test_an_outer_transaction_that_cannot_begin_leaves_no_connection(path, monkeypatch, cancel):
    async def fail(*_):
        raise asyncio.CancelledError if cancel else sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(aiosqlite.Connection, "execute_fetchall", fail)
    with pytest.raises(asyncio.CancelledError if cancel else DatabaseSourceError):
        await manager(path, "rollback").start()


# ---------------------------------------------------------------- turns


@quick
@given(cancelled=st.sets(st.integers(0, 7)))
def test_turns_come_in_the_order_of_asking_whoever_gives_up(cancelled):
    async def main():
        turns, order = Turns(5), []

        async def one(number):
            await turns.take(number)
            order.append(number)
            await asyncio.sleep(0)
            turns.give_back(number)

        await turns.take("first")
        tasks = [asyncio.create_task(one(number)) for number in range(8)]
        await asyncio.sleep(0)
        for number in cancelled:
            tasks[number].cancel()
        await asyncio.sleep(0)
        turns.give_back("first")
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [number for number in range(8) if number not in cancelled]

    asyncio.run(main())


async def test_a_turn_handed_to_a_task_that_is_being_cancelled_goes_on_to_the_next():
    turns = Turns(5)
    await turns.take("first")
    second = asyncio.create_task(turns.take("second"))
    third = asyncio.create_task(turns.take("third"))
    await asyncio.sleep(0)
    turns.give_back("first")
    second.cancel()
    await asyncio.wait_for(third, 1)
    assert second.cancelled() or (await asyncio.gather(second, return_exceptions=True))[0]


async def test_a_long_queue_that_moves_is_waited_for():
    turns = Turns(0.04)

    async def one(number):
        await turns.take(number)
        await asyncio.sleep(0.02)
        turns.give_back(number)

    await asyncio.gather(*(one(number) for number in range(5)))


async def test_giving_back_a_turn_one_does_not_hold_does_nothing():
    turns = Turns(5)
    await turns.take("first")
    turns.give_back("second")
    with pytest.raises(SessionInUseError):
        await turns.take("third")


async def test_closed_turns_are_refused():
    turns = Turns(5)
    turns.close()
    with pytest.raises(NotStartedError):
        await turns.take("first")
