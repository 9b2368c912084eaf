"""The database on PostgreSQL: the untouched source, sessions like a server's, clones, schemas, and what goes wrong."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections import Counter

import asyncpg
import pytest
from database_promises import (
    TABLE,
    a_source,
    ask,
    execute,
    manager,
    on_server,
    quick,
    read_modify_write,
    until,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import end_cluster, start_cluster
from runtimes import must_catch
from sqlalchemy import MetaData, event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asyncsandbox import Sandbox
from asyncsandbox._core.component import ComponentState, Services
from asyncsandbox._core.context import Host
from asyncsandbox.components.database import (
    LeakReport,
    SandboxDatabaseManager,
    SessionTimeoutError,
    TableChange,
    postgres_link,
    postgres_outer,
    postgres_seal,
    postgres_source,
)
from asyncsandbox.components.database.owners import PREFIX
from asyncsandbox.components.database.postgres import PostgresClone
from asyncsandbox.components.database.postgres_source import find_remote
from asyncsandbox.components.database.source import parse_source
from asyncsandbox.components.database.turns import Turns
from asyncsandbox.errors import (
    ComponentStartError,
    ConfigurationError,
    DatabaseSourceError,
    LifecycleError,
    NotStartedError,
    SessionInUseError,
)

EVERY = ("rollback", "clone", "schema", "none")
DRY = ("rollback", "clone", "schema")
LIVE = Host(name="s", dry_run=False)


@pytest.fixture(scope="module")
def own_database(postgres_url):
    with asyncio.Runner() as runner:
        source = a_source(postgres_url)
        yield runner.run(source.__aenter__())
        runner.run(source.__aexit__(None, None, None))


@pytest.fixture
def url(own_database):
    """Give a database of our own with a table `c`, in which there is one row 0, and nothing else."""
    schemas = "SELECT nspname FROM pg_namespace WHERE nspname = 'public' OR nspname LIKE 'asyncsandbox%'"

    async def empty():
        drops = [f"DROP SCHEMA {name} CASCADE" for (name,) in await on_server(own_database, schemas)]
        await on_server(own_database, *drops, "CREATE SCHEMA public", *TABLE)

    asyncio.run(empty())
    return own_database


@contextlib.asynccontextmanager
async def opened(source, isolation, *statements, **more):
    """Give a running manager; a scratch schema gets the statements, which made the source."""
    async with manager(source, isolation, **more) as db:
        if isolation == "schema":
            await execute(db, *statements or TABLE)
        yield db


async def everything(source):
    """Return all that is in a database, tables with their columns and rows, and what copies there are of it."""
    own = "NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
    connection = await asyncpg.connect(source)

    async def rows(query):
        return [tuple(row) for row in await connection.fetch(query)]

    try:
        tables = await rows(f"SELECT schemaname, tablename FROM pg_tables WHERE schemaname {own} ORDER BY 1, 2")
        return (
            [(place, sorted(await rows(f"SELECT t::text FROM {place[0]}.{place[1]} AS t"))) for place in tables],
            await rows(
                "SELECT nspname, relname, attname, atttypid FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid "
                f"JOIN pg_namespace AS n ON n.oid = relnamespace WHERE nspname {own} AND attnum > 0 ORDER BY 1, 2, 3"
            ),
            await rows(f"SELECT nspname FROM pg_namespace WHERE nspname LIKE '{PREFIX}%'"),
            await rows(f"SELECT datname FROM pg_database WHERE datname LIKE '{PREFIX}%_{os.getpid()}_%'"),
        )
    finally:
        await connection.close()


# ---------------------------------------------------------------- which database, and where


LOCAL = [
    "postgresql://localhost/shop",
    "postgresql+asyncpg://app:secret@127.0.0.1:5433/shop",
    "postgres://[::1]:5432/shop",
    "postgresql:///shop",
    "postgresql:///shop?host=/var/run/postgresql",
    "postgresql://%2Fvar%2Frun/shop",
    "postgresql://LOCALHOST,127.1.2.3:5433/shop",
]
REMOTE = [
    ("postgresql://db.example/shop", "db.example"),
    ("postgresql+asyncpg://app:secret@10.0.0.1:5432/shop", "10.0.0.1"),
    ("postgresql://localhost,db.example:5433/shop", "db.example"),
    ("postgresql:///shop?host=db.example", "db.example"),
    ("postgresql:///shop?host=/tmp,db.example:1", "db.example"),
    ("postgresql:///shop?host=localhost&host=db.example", "db.example"),
    ("postgresql://localhost/shop?host=db.example", "db.example"),
    ("postgresql:///shop?hostaddr=10.0.0.1", "10.0.0.1"),
    ("postgresql://%64b.example/shop", "db.example"),
    ("postgresql://[2001:db8::1]:5432/shop", "2001:db8::1"),
    ("postgresql:///shop?host=2001:db8::1", "2001:db8::1"),
    ("postgresql:///?service=shop", "service shop"),
    ("postgresql://127.0.0.1.example/shop", "127.0.0.1.example"),
]


@pytest.fixture
def no_driver(monkeypatch):
    """Make it an error to get as far as the driver."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)


@pytest.mark.parametrize("given_url", LOCAL)
async def test_a_server_on_this_machine_is_connected_to(given_url, no_driver):
    with pytest.raises(ConfigurationError, match=r"pip install 'asyncsandbox\[postgres\]'"):
        await manager(given_url).start()


async def remote_is_refused(source, host):
    for isolation in DRY:
        with pytest.raises(DatabaseSourceError, match="or allow it by DatabaseSettings") as caught:
            await manager(source, isolation).start()
        assert f"may be one: {host}" in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("source", "host"), REMOTE)
async def test_a_server_elsewhere_is_refused_before_anything_is_connected_to(source, host, no_driver):
    await remote_is_refused(source, host)


async def test_a_look_at_the_host_alone_is_caught(no_driver, monkeypatch):
    monkeypatch.setattr(postgres_source, "parse_qsl", lambda *_, **__: [])
    for source, host in REMOTE:
        if "?" in source:
            with pytest.raises((ConfigurationError, AssertionError)):
                await remote_is_refused(source, host)


@pytest.mark.parametrize(("source", "host"), REMOTE)
async def test_it_may_be_allowed_and_a_live_sandbox_is_not_asked(source, host, no_driver):
    live = manager(source)
    live.bind(dataclasses.replace(Services.alone(), host=LIVE))
    for db in (live, manager(source, allow_remote=True)):
        with pytest.raises(ConfigurationError, match="install its driver"):
            await db.start()


@pytest.mark.parametrize(("name", "value"), [("PGHOST", "localhost,db.example"), ("PGSERVICE", "shop")])
def test_the_environment_counts_where_the_url_names_no_host(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert find_remote("postgresql:///shop") is not None
    assert find_remote("postgresql://localhost/shop") is None


names = st.text("ab.1", min_size=1, max_size=8)


@given(st.lists(st.sampled_from(["localhost", "127.0.0.1", "%2Ftmp", "[::1]"]) | names, min_size=1), st.booleans())
def test_one_host_elsewhere_is_enough(hosts, in_query):
    listed = ",".join(host.replace("%2F", "/") if in_query else host for host in hosts)
    given_url = f"postgresql:///shop?host={listed}" if in_query else f"postgresql://u:p@{listed}/shop"
    elsewhere = [host for host in hosts if host not in {"localhost", "127.0.0.1", "%2Ftmp", "[::1]"}]
    assert find_remote(given_url) == (elsewhere[0] if elsewhere else None)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("postgresql://u:ge@heim@db/shop", "more than one '@'"),
        ("postgresql://u:geheim@[::1/shop", "cannot be read"),
        ("postgresql://u:p@db/shop?geheim", "cannot be read"),
        ("postgresql://u:ge?heim@db/shop", "cannot be read"),
    ],
)
def test_a_url_that_can_be_read_in_two_ways_is_refused_without_its_password(bad, said):
    with pytest.raises(DatabaseSourceError, match=said) as caught:
        SandboxDatabaseManager(bad)
    assert "heim" not in str(caught.value)


def test_what_sqlalchemy_calls_ssl_is_understood():
    assert (
        parse_source("postgresql+asyncpg://db/shop?ssl=require&a=b").url == "postgresql://db/shop?sslmode=require&a=b"
    )


def test_without_the_driver_the_engine_says_what_to_install(no_driver):
    with pytest.raises(ConfigurationError, match=r"pip install 'asyncsandbox\[postgres\]'"):
        _ = manager("postgresql://localhost/shop").engine


async def test_a_plan_tells_what_a_rehearsal_changed_and_a_live_sandbox_changes_it(url):
    async def work(sandbox):
        await execute(sandbox.database, "UPDATE c SET v = 7")

    async with Sandbox(database_url=url) as sandbox:
        plan = await sandbox.rehearse(work)
    assert plan.rows == (TableChange(table="c", inserted=1, deleted=1),)
    assert await on_server(url, "SELECT v FROM c") == [(0,)]
    async with Sandbox(database_url=url, dry_run=False) as sandbox:
        await work(sandbox)
    assert await on_server(url, "SELECT v FROM c") == [(7,)]
    with pytest.raises(ComponentStartError, match="allow_remote"):
        await Sandbox(database_url="postgresql://db.example/shop").initialize()


async def test_use_takes_the_engine_of_the_right_kind_or_none(url):
    async with SandboxDatabaseManager() as db:
        await db.use(url)
        assert await ask(db) == [0]
    async with SandboxDatabaseManager() as db:
        _ = db.engine
        with pytest.raises(LifecycleError, match="another kind of database"):
            await db.use(url)


async def test_sqlite_has_no_schemas(tmp_path):
    with pytest.raises(ConfigurationError, match="SQLite has no schemas"):
        await manager(tmp_path / "a.db", "schema").start()


@pytest.mark.parametrize(
    ("host", "expected"),
    [(None, "rollback"), (Host(name="s", dry_run=True), "rollback"), (LIVE, "none")],
)
async def test_auto_is_rollback_everywhere_but_in_a_live_sandbox(url, host, expected):
    db = manager(url)
    db.bind(dataclasses.replace(Services.alone(), host=host))
    async with db:
        assert db.get_status().isolation == expected
        assert db.get_status().source == url.replace("postgres@", "***@")
        (check,) = db.get_checks()
        assert await check.fn() is True


# ---------------------------------------------------------------- the source stays as it is


WRITES = (
    "UPDATE c SET v = v + 1",
    "INSERT INTO c VALUES (9)",
    "DELETE FROM c",
    "TRUNCATE c",
    "CREATE TABLE IF NOT EXISTS n (x INTEGER)",
    "ALTER TABLE c ADD COLUMN w INTEGER",
    "DROP TABLE c",
    "INSERT INTO public.c VALUES (5)",
    "CREATE TABLE public.m (x INTEGER)",
    "DROP TABLE public.c",
    "TRUNCATE public.c",
    "CREATE INDEX ON public.c (v)",
    "COMMIT",
    "ROLLBACK",
    "SET search_path TO public",
)
steps = st.lists(st.tuples(st.sampled_from(WRITES), st.booleans()), max_size=6)


async def source_stays(source, isolation, plan):
    before = await everything(source)
    async with opened(source, isolation) as db:
        with contextlib.suppress(DatabaseSourceError, DBAPIError):
            assert await ask(db) == [0]
        session = db.get_session()
        for statement, commits in plan:
            # Whatever the program does after an error, also going on as if nothing had been.
            with contextlib.suppress(DatabaseSourceError, DBAPIError):
                await session.execute(text(statement))
                if commits:
                    await session.commit()
            if not session.is_active:
                await session.rollback()
        with contextlib.suppress(DatabaseSourceError, DBAPIError):
            await session.close()
        with contextlib.suppress(DatabaseSourceError, DBAPIError):
            await db.get_row_changes()
    assert await everything(source) == before


@pytest.mark.parametrize("isolation", DRY)
def test_whatever_a_program_does_the_source_is_the_same_afterwards(url, isolation):
    @settings(quick, max_examples=2 if isolation == "clone" else 12)
    @given(plan=steps)
    def promise(plan):
        asyncio.run(source_stays(url, isolation, plan))

    promise()


@pytest.mark.parametrize("isolation", ["rollback", "schema"])
def test_without_the_seal_the_source_is_changed(url, isolation, monkeypatch):
    monkeypatch.setattr(postgres_outer, "SEAL_OUTER", "SELECT 1")
    monkeypatch.setattr(f"{postgres_seal.__package__}.postgres.seal_schema", lambda *_: "SELECT 1")

    def check(plan):
        try:
            asyncio.run(source_stays(url, isolation, plan))
        finally:
            asyncio.run(on_server(url, "DROP TABLE IF EXISTS public.c, public.m, public.n", *TABLE))

    must_catch(check, steps, examples=100)


def test_a_clone_that_works_on_its_source_is_caught(url, monkeypatch):
    def original(self, source, _clone, before, maintenance, **settings):
        make(self, source, source.url.rpartition("/")[2], before, maintenance, **settings)
        self._names = (before,)

    make = PostgresClone.__init__
    monkeypatch.setattr(PostgresClone, "__init__", original)
    with pytest.raises(AssertionError):
        asyncio.run(source_stays(url, "clone", [("UPDATE c SET v = v + 1", True), ("INSERT INTO c VALUES (9)", True)]))


@pytest.mark.parametrize("isolation", ["rollback", "schema"])
async def test_without_read_only_as_the_rule_a_statement_after_the_end_is_real(url, isolation, monkeypatch):
    plan = [("ROLLBACK", False), ("INSERT INTO public.c VALUES (5)", False)]
    await source_stays(url, isolation, plan)
    monkeypatch.setattr(postgres_outer, "READ_ONLY_OUTSIDE", {})
    monkeypatch.setattr(f"{postgres_seal.__package__}.postgres.READ_ONLY_OUTSIDE", {})
    with pytest.raises(AssertionError):
        await source_stays(url, isolation, plan)


async def test_a_schema_refuses_what_is_outside_it_and_names_it(url):
    async with opened(url, "schema") as db:
        for statement in ("UPDATE public.c SET v = 1", "DROP TABLE public.c", "CREATE TABLE public.d (a INTEGER)"):
            with pytest.raises(DatabaseSourceError, match=r"changed public\.[cd] outside the schema.*; leave out"):
                await execute(db, "UPDATE c SET v = 8", statement)
        assert await ask(db) == [0], "rolled back as a whole"
        assert await ask(db, "SELECT v FROM public.c FOR UPDATE") == [0], "to read it is allowed"
        await execute(db, "CREATE TEMP TABLE t AS SELECT 1", "CREATE TABLE d (a INTEGER)", "DROP TABLE d")


async def test_an_error_at_commit_that_is_the_programs_own_stays_as_it_is(url):
    script = """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM 'x'::int; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER t AFTER INSERT ON c DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION fail()
    """
    async with opened(url, "schema") as db:
        await execute(db, *script.split(";\n        CREATE CONSTRAINT")[:1])
        await execute(db, "CREATE CONSTRAINT" + script.split("CREATE CONSTRAINT")[1])
        with pytest.raises(DBAPIError, match="invalid input syntax for type integer"):
            await execute(db, "INSERT INTO c VALUES (1)")
        assert await ask(db) == [0]


# ---------------------------------------------------------------- sessions behave as on the server


class Base(DeclarativeBase):
    metadata = MetaData()


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.mark.parametrize("isolation", EVERY)
async def test_tables_entities_and_nested_transactions_work(url, isolation):
    before = await everything(url)
    async with manager(url, isolation) as db:
        async with db.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with db.get_session() as session:
            session.add(customer := Customer(name="Ada"))
            await session.commit()
            assert customer.name == "Ada", "still there after the commit"
            nested = await session.begin_nested()
            with pytest.raises(IntegrityError):
                await session.execute(text(f"INSERT INTO customer VALUES ({customer.id}, 'Eve')"))
            await nested.rollback()
            async with session.begin_nested():
                session.add(Customer(name="Bob"))
            await session.commit()
        async with db.get_session() as session:
            session.add(Customer(name="Eve"))
            await session.flush()
            await session.rollback()
            assert sorted((await session.scalars(select(Customer.name))).all()) == ["Ada", "Bob"]
            streamed = await session.stream(select(Customer.name))
            assert len(await streamed.all()) == 2
        if isolation != "none":
            assert await db.get_row_changes() == (TableChange(table="customer", inserted=2),)
        async with db.engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
    assert await everything(url) == before


STEPS = (
    "INSERT INTO p VALUES (1, 1)",
    "INSERT INTO p VALUES (2, 1)",
    "UPDATE p SET v = v + 1",
    "SELECT 1 / 0",
    "DELETE FROM p WHERE k = 1",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "CREATE TABLE q (x INTEGER)",
    "DROP TABLE q",
    "commit",
    "rollback",
    "new session",
)


async def behave(db, plan):
    """Return what each step of a program says, and what is there in the end."""
    said, session = [], db.get_session()
    for step in plan:
        try:
            match step:
                case "commit":
                    await session.commit()
                case "rollback":
                    await session.rollback()
                case "new session":
                    await session.close()
                    session = db.get_session()
                case _:
                    said.append((await session.execute(text(step))).rowcount)
        except DBAPIError as error:
            said.append(error.orig.sqlstate)
    await session.close()
    rows = await ask(db, "SELECT k * 100 + v FROM p ORDER BY 1")
    return said, rows, await ask(db, "SELECT count(*) FROM pg_tables WHERE tablename = 'q'")


async def is_like_the_server(source, isolation, plan):
    made = ("CREATE TABLE p (k INTEGER PRIMARY KEY, v INTEGER)",)
    await on_server(source, "DROP TABLE IF EXISTS p, q", *made)
    async with opened(source, isolation, *made) as db:
        here = await behave(db, plan)
    async with manager(source, "none") as db:
        assert here == await behave(db, plan)


@pytest.mark.parametrize("isolation", DRY)
def test_commit_rollback_and_savepoints_do_what_they_do_on_the_server(url, isolation):
    @settings(quick, max_examples=2 if isolation == "clone" else 12)
    @given(plan=st.lists(st.sampled_from(STEPS), max_size=12))
    def promise(plan):
        asyncio.run(is_like_the_server(url, isolation, plan))

    promise()


async def test_a_commit_of_a_failed_transaction_is_a_rollback(url, monkeypatch):
    plan = ["INSERT INTO p VALUES (1, 1)", "SELECT 1 / 0", "commit", "INSERT INTO p VALUES (2, 1)", "commit"]
    for isolation in DRY:
        await is_like_the_server(url, isolation, plan)

    async def as_it_comes(self, statement):
        await self.shared.execute(statement)

    monkeypatch.setattr(postgres_outer.OuterTransaction, "_go", as_it_comes)
    with pytest.raises((AssertionError, SQLAlchemyError)):
        await is_like_the_server(url, "rollback", plan)


async def no_update_is_lost(source):
    async with manager(source, "rollback") as db, db.get_session() as first:
        seen = (await first.execute(text("SELECT v FROM c"))).scalar_one()
        committed = 0
        with contextlib.suppress(SessionInUseError):
            await execute(db, "UPDATE c SET v = v + 1")
            committed += 1
        await first.execute(text("UPDATE c SET v = :v"), {"v": seen + 1})
        await first.commit()
        assert await ask(db) == [committed + 1]


async def test_without_turns_an_outer_transaction_loses_updates(url, monkeypatch):
    async def at_once(*_):
        pass

    await no_update_is_lost(url)
    monkeypatch.setattr(Turns, "take", at_once)
    with pytest.raises(AssertionError):
        await no_update_is_lost(url)


async def test_where_sessions_take_no_turns_the_servers_rule_holds(url):
    async with opened(url, "clone") as db:
        await asyncio.gather(*(read_modify_write(db.get_session) for _ in range(20)))
        assert (await ask(db))[0] < 20, "as it would be live: FOR UPDATE is missing"


@pytest.mark.parametrize("isolation", EVERY)
async def test_a_session_that_only_reads_cannot_write(url, isolation):
    async with opened(url, isolation) as db:
        async with db.get_session(read_only=True) as reader:
            with pytest.raises(DBAPIError, match="read-only transaction"):
                await reader.execute(text("UPDATE c SET v = 2"))
        async with db.get_session(read_only=True) as reader:
            assert (await reader.execute(text("SELECT v FROM c"))).scalar_one() == 0
            await reader.commit()
        for _ in range(6):  # also on the connections that readers used before
            await execute(db, "UPDATE c SET v = v + 1")
        assert await ask(db, read_only=True) == [6]


async def test_in_rollback_mode_a_second_session_of_a_task_is_refused_and_a_slow_one_named(url):
    async with manager(url, "rollback", busy_timeout_seconds=0.05) as db, db.get_session() as first:
        await first.execute(text("UPDATE c SET v = 1"))
        with pytest.raises(SessionInUseError):
            await ask(db)
        with pytest.raises(SessionInUseError):
            await db.get_row_changes()
        with pytest.raises(SessionTimeoutError, match=r"that task 'Task-.*' began"):
            await asyncio.create_task(ask(db))
        await first.commit()
        assert await ask(db) == [1]


async def test_a_task_may_have_two_sessions_where_there_are_no_turns(url):
    async with manager(url, "clone") as db, db.get_session() as first, db.get_session() as second:
        await first.execute(text("UPDATE c SET v = 1"))
        assert (await second.execute(text("SELECT v FROM c"))).scalar_one() == 0


async def test_in_rollback_mode_a_lock_of_another_program_ends_in_the_servers_error(url):
    connection = await asyncpg.connect(url)
    async with manager(url, "rollback", busy_timeout_seconds=0.05) as db:
        async with connection.transaction():
            await connection.execute("UPDATE c SET v = 5")
            with pytest.raises(DBAPIError, match="lock timeout"):
                await execute(db, "UPDATE c SET v = 1")
        await execute(db, "UPDATE c SET v = 1")
    await connection.close()


async def test_autocommit_is_refused_where_transactions_are_watched(url):
    for isolation in ("rollback", "schema"):
        async with manager(url, isolation) as db:
            with pytest.raises(ConfigurationError, match=f"isolation='{isolation}'"):
                db.engine.execution_options(isolation_level="AUTOCOMMIT")
    for isolation, level, statement in (("clone", "AUTOCOMMIT", "VACUUM c"), ("rollback", "SERIALIZABLE", "SELECT 1")):
        db = manager(url, isolation)
        async with db, db.engine.execution_options(isolation_level=level).connect() as connection:
            await connection.execute(text(statement))


@pytest.mark.parametrize("isolation", EVERY)
async def test_a_cancelled_session_leaves_nothing_and_nobody_waits_for_it(url, isolation):
    async with opened(url, isolation) as db:
        for pause in range(1, 20):
            task = asyncio.create_task(execute(db, "UPDATE c SET v = v + 100", "SELECT pg_sleep(0.001)"))
            await asyncio.sleep(pause * 0.0005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        (before,) = await ask(db)
        assert before % 100 == 0
        await execute(db, "UPDATE c SET v = v + 1")
        assert await ask(db) == [before + 1]
        await until(lambda: not db.get_status().open_sessions)


async def test_a_commit_that_is_cancelled_is_finished_before_the_next_transaction(url):
    async with manager(url, "rollback") as db:
        for number in range(1, 30):
            session = db.get_session()
            await session.execute(text("UPDATE c SET v = v + 1"))
            committing = asyncio.create_task(session.commit())
            for _ in range(number % 5 + 1):
                await asyncio.sleep(0)
            committing.cancel()
            _, seen = await asyncio.gather(committing, asyncio.create_task(ask(db)), return_exceptions=True)
            assert seen in ([number], [number - 1])
            await session.close()
            await execute(db, f"UPDATE c SET v = {number}")


async def test_what_the_page_says_of_rollback_mode_is_so(url):
    await on_server(
        url,
        "CREATE SEQUENCE s",
        "CREATE TABLE d (a INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    )
    async with manager(url, "rollback") as db:
        assert await ask(db, "SELECT nextval('s')") == [1]
        await execute(db, "INSERT INTO d VALUES (1), (1)", "SET LOCAL work_mem TO '7MB'")
        assert await ask(db, "SHOW work_mem") == ["7MB"]
        assert (await ask(db, "SELECT now()")) == (await ask(db, "SELECT now()"))
        with pytest.raises(DBAPIError, match="cannot run inside a transaction block"):
            await execute(db, "VACUUM c")
    assert await on_server(url, "SELECT nextval('s')") == [(2,)], "sequences move on"


async def test_a_codec_is_set_once_for_the_connection_that_all_share(url):
    calls = []

    async def register(connection):
        calls.append(1)
        await connection.set_type_codec("mood", encoder=str, decoder=str.upper)

    await on_server(url, "CREATE TYPE mood AS ENUM ('glad', 'sad')")
    async with manager(url, "rollback") as db:
        event.listen(db.engine.sync_engine, "connect", lambda dbapi, _: dbapi.run_async(register))
        found = await asyncio.gather(*(ask(db, "SELECT 'glad'::mood FROM pg_sleep(0.001)") for _ in range(10)))
        assert found == [["GLAD"]] * 10
        assert len(calls) > 1


async def test_more_sessions_than_connections_wait(url):
    async with opened(url, "schema", max_sessions=2) as db:
        await asyncio.gather(*(read_modify_write(db.get_session, " FOR UPDATE") for _ in range(10)))
        assert await ask(db) == [10]


# ---------------------------------------------------------------- what ends an outer transaction


@pytest.mark.parametrize("end", ["COMMIT", "END", "ROLLBACK", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'x'"])
async def test_a_hand_written_end_undoes_everything_and_says_so(url, end):
    async with manager(url, "rollback") as db:
        async with db.get_session() as session:
            await session.execute(text("UPDATE c SET v = 1"))
            with contextlib.suppress(DBAPIError):
                await session.execute(text(end))
            with pytest.raises(DBAPIError, match="read-only transaction"):
                await session.execute(text("INSERT INTO c VALUES (5)"))
            with pytest.raises(DatabaseSourceError, match="ended the outer transaction"):
                await session.commit()
        for use in (lambda: execute(db, "INSERT INTO c VALUES (6)"), db.get_row_changes, db.get_checks()[0].fn):
            with pytest.raises(DatabaseSourceError, match="ended the outer transaction"):
                await use()
    assert await on_server(url, "SELECT v FROM c") == [(0,)]


async def test_a_chained_rollback_is_no_way_out_either(url):
    async with manager(url, "rollback") as db:
        session = db.get_session()
        await session.execute(text("ROLLBACK AND CHAIN"))
        await session.execute(text("UPDATE c SET v = 1"))
        with pytest.raises(DBAPIError, match="does not exist"):
            await session.commit()
        await session.close()
    assert await on_server(url, "SELECT v FROM c") == [(0,)]


# ---------------------------------------------------------------- clones


async def test_a_clone_needs_a_source_that_nobody_uses_and_says_what_else_would_do(url):
    connection = await asyncpg.connect(url)
    with pytest.raises(DatabaseSourceError, match=r"1 other session.*; close those.*'rollback' or 'schema'") as caught:
        await manager(url, "clone").start()
    assert "\n" not in str(caught.value)
    for isolation in ("rollback", "schema"):
        async with opened(url, isolation) as db:
            assert await ask(db) == [0]
    await connection.close()


async def test_a_clone_has_the_settings_of_its_source(postgres_url):
    async with a_source(postgres_url) as source:
        for setting in ("search_path TO a, public", "work_mem TO '8MB'"):
            await on_server(source, f"ALTER DATABASE {source.rpartition('/')[2]} SET {setting}")
        async with manager(f"{source}?work_mem=1MB", "clone") as db:
            assert await ask(db, "SHOW search_path") == ["a, public"]
            assert await ask(db, "SHOW work_mem") == ["1MB"], "the URL goes first"


async def test_a_clone_that_fails_half_way_leaves_nothing(url, monkeypatch):
    async def the_same(_):
        return f"{PREFIX}twice_{os.getpid()}_1_1"

    monkeypatch.setattr(f"{postgres_seal.__package__}.postgres._new_name", the_same)
    before = await everything(url)
    with pytest.raises(DatabaseSourceError, match="already exists"):
        await manager(url, "clone").start()
    assert await everything(url) == before


@pytest.mark.parametrize("isolation", ["clone", "schema"])
async def test_a_cancelled_start_leaves_nothing(url, isolation):
    before = await everything(url)
    for pause in (0, 0.03):
        starting = asyncio.create_task((db := manager(url, isolation)).start())
        await asyncio.sleep(pause)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await db.stop()
    assert await everything(url) == before


async def test_the_maintenance_database_can_be_cloned_too(url):
    own = url.rpartition("/")[0]
    async with manager(f"{own}/template1", "clone") as db:
        assert await ask(db, "SELECT current_database() LIKE 'asyncsandbox%'") == [True]


# ---------------------------------------------------------------- the row summary


KEYS = {
    "integer key": "(id INTEGER PRIMARY KEY, v TEXT)",
    "composite key": '(v TEXT, id INTEGER, "k 2" INTEGER DEFAULT 1, PRIMARY KEY ("k 2", id))',
    "partitioned": "(id INTEGER, v TEXT, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
    "no key": "(id INTEGER, v TEXT)",
}
EDITS = st.lists(
    st.tuples(st.sampled_from(["put", "delete"]), st.integers(1, 5), st.sampled_from([None, "a", "A", "1"])),
    max_size=8,
)


def edit(edits, model):
    """Yield the statements that make the edits, and make them in the model."""
    for kind, key, value in edits:
        shown = "NULL" if value is None else f"'{value}'"
        if kind == "delete":
            model.pop(key, None)
            yield f"DELETE FROM t WHERE id = {key}"
        elif key in model:
            model[key] = value
            yield f"UPDATE t SET v = {shown} WHERE id = {key}"
        else:
            model[key] = value
            yield f"INSERT INTO t (id, v) VALUES ({key}, {shown})"


def net(before, after, has_key):
    if not has_key:
        old, new = Counter(before.items()), Counter(after.items())
        return 0 if old == new else ((new - old).total(), 0, (old - new).total())
    changed = (
        len(after.keys() - before.keys()),
        sum(before[key] != after[key] for key in before.keys() & after.keys()),
        len(before.keys() - after.keys()),
    )
    return changed if any(changed) else 0


async def summary(source, isolation, key, seed, edits):
    model = {}
    made = [f"CREATE TABLE t {KEYS[key]}"]
    if key == "partitioned":
        made += [f"CREATE TABLE t{n} PARTITION OF t FOR VALUES FROM ({n}) TO ({n + 3})" for n in (0, 3)]
    await on_server(source, "DROP TABLE IF EXISTS t", *made, *edit(seed, model))
    before = dict(model)
    async with manager(source, isolation) as db:
        assert await db.get_row_changes() == ()
        await execute(db, "SELECT 1", *edit(edits, model))
        (*changes,) = map(dataclasses.astuple, await db.get_row_changes())
    expected = net(before, model, key != "no key")
    assert changes == ([("t", *expected)] if expected else [])


@pytest.mark.parametrize("isolation", ["rollback", "clone"])
def test_the_summary_is_the_net_difference(url, isolation):
    @settings(quick, max_examples=2 if isolation == "clone" else 12)
    @given(key=st.sampled_from(sorted(KEYS)), seed=EDITS, edits=EDITS)
    def promise(key, seed, edits):
        asyncio.run(summary(url, isolation, key, seed, edits))

    promise()


def test_counting_statements_is_no_net_difference(url, monkeypatch):
    async def counted(self):
        rows = await self.shared.fetch("SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables")
        return tuple(TableChange(table=t, inserted=i, updated=u, deleted=d) for t, i, u, d in rows if i or u or d)

    monkeypatch.setattr(postgres_outer.OuterTransaction, "changes", counted)
    drawn = st.tuples(st.just("integer key"), EDITS, EDITS)
    must_catch(lambda args: asyncio.run(summary(url, "rollback", *args)), drawn, examples=60)


# What the outer transaction locks nobody can read as it was: there the numbers are the server's.
SHAPES = [
    ("CREATE TABLE n (a INTEGER); INSERT INTO n VALUES (1), (2)", [("n", 2, 0, 0)], None),
    ("CREATE TABLE n (a INTEGER)", [], None),
    ("DROP TABLE two", [("two", 0, 0, 3)], None),
    ("TRUNCATE two", [("two", 0, 0, 3)], None),
    ("ALTER TABLE two ADD COLUMN w INTEGER", [], None),
    ("ALTER TABLE two ADD COLUMN w INTEGER DEFAULT 1", [("two", 0, 3, 0)], []),
    ("ALTER TABLE two DROP COLUMN b; DELETE FROM two WHERE a = 1", [("two", 0, 1, 1)], [("two", 0, 0, 1)]),
    ("ALTER TABLE two RENAME TO four", [("four", 3, 0, 0), ("two", 0, 0, 3)], None),
    ("ALTER TABLE two DROP CONSTRAINT two_pkey", [("two", 3, 0, 3)], []),
    ("INSERT INTO other.c VALUES (1)", [("other.c", 1, 0, 0)], None),
    ("INSERT INTO other.c VALUES (1); INSERT INTO c VALUES (1)", [("c", 1, 0, 0), ("other.c", 1, 0, 0)], None),
    ("UPDATE keyless SET v = 'x' WHERE v = 'a'", [("keyless", 1, 0, 1)], None),
    ("INSERT INTO child VALUES (4, 4)", [("child", 1, 0, 0)], None),
]


@pytest.mark.parametrize("isolation", ["rollback", "clone"])
async def test_tables_of_every_shape(postgres_url, isolation):
    made = [
        *TABLE,
        "CREATE TABLE two (a INTEGER PRIMARY KEY, b TEXT)",
        "INSERT INTO two VALUES (1, 'x'), (2, 'y'), (3, NULL)",
        "CREATE SCHEMA other",
        "CREATE TABLE other.c (v INTEGER)",
        "CREATE TABLE keyless (v TEXT)",
        "INSERT INTO keyless VALUES ('a'), ('b'), ('b')",
        "CREATE TABLE parent (a INTEGER PRIMARY KEY)",
        "CREATE TABLE child (b INTEGER) INHERITS (parent)",
    ]
    async with a_source(postgres_url, *made) as source:
        for script, exact, by_the_server in SHAPES if isolation == "rollback" else SHAPES[2:9:3]:
            async with manager(source, isolation) as db:
                await execute(db, *script.split("; "))
                changes = list(map(dataclasses.astuple, await db.get_row_changes()))
            use_server = isolation == "rollback" and by_the_server is not None
            assert changes == (by_the_server if use_server else exact), script


async def test_changes_that_others_make_meanwhile_are_not_ours(url):
    for isolation in ("rollback", "clone"):
        async with manager(url, isolation) as db:
            await execute(db, "INSERT INTO c VALUES (7)")
            await on_server(url, "INSERT INTO c VALUES (1)")
            assert await db.get_row_changes() == (TableChange(table="c", inserted=1),)


async def test_without_isolation_there_is_nothing_to_compare_with(url):
    async with manager(url, "none") as db:
        with pytest.raises(ConfigurationError, match="need an isolated database"):
            await db.get_row_changes()


# ---------------------------------------------------------------- leaks


@pytest.mark.parametrize("isolation", EVERY)
async def test_cleanup_closes_what_is_open_and_says_where_it_came_from(url, isolation):
    before = await everything(url)
    async with opened(url, isolation) as db:
        leaked = db.get_session()
        line = sys._getframe().f_lineno - 1
        await leaked.execute(text("UPDATE c SET v = 1"))
        connection = await asyncio.create_task(_connect(db)) if isolation != "rollback" else None
        await asyncio.wait_for(db.cleanup(), 5)
        report = db.get_status().leaked
        assert report == LeakReport(sessions=(f"{__file__}:{line}",), connections=connection is not None)
        await leaked.close()
    assert await everything(url) == before
    await until_alone(url)


async def _connect(db):
    connection = await db.engine.connect()
    await connection.execute(text("SELECT 1"))
    return connection


async def until_alone(source):
    alone = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for _ in range(500):
        if not await on_server(source, f"{alone} AND backend_type = 'client backend'"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError


@pytest.mark.parametrize("isolation", EVERY)
async def test_cleanup_ends_a_statement_of_another_task(url, isolation):
    before = await everything(url)
    db = manager(url, isolation)
    busy = asyncio.create_task(ask(db, "SELECT pg_sleep(30)"))
    await until(lambda: db.get_status().open_sessions)
    await asyncio.sleep(0.05)
    await asyncio.wait_for(db.cleanup(), 5)
    await asyncio.gather(busy, return_exceptions=True)
    assert db.get_status().leaked is not None
    assert await everything(url) == before
    await until_alone(url)


@pytest.mark.parametrize("isolation", ["clone", "schema", "none"])
async def test_a_connection_that_is_only_being_made_at_cleanup_is_closed(url, isolation):
    async with manager(url, isolation) as db:
        way = db._isolated
        making = asyncio.create_task(way.seat())
        await asyncio.sleep(0)
        await db.cleanup()
        with pytest.raises((NotStartedError, asyncpg.PostgresError, OSError)):
            await making
    await until_alone(url)


# ---------------------------------------------------------------- a server in trouble


@pytest.fixture(scope="module")
def cluster():
    """Give a server that may be stopped, and that wants a password from `app`."""
    cluster = start_cluster()
    rules = cluster.folder / "data" / "pg_hba.conf"
    rules.write_text(f"host all app 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
    asyncio.run(on_server(cluster.url, "CREATE ROLE app LOGIN PASSWORD 'secret'", "SELECT pg_reload_conf()", *TABLE))
    yield cluster
    end_cluster(cluster)


@pytest.mark.parametrize("isolation", EVERY)
async def test_a_server_that_is_not_there_says_so(isolation):
    db = manager("postgresql://me:secret@127.0.0.1:1/db", isolation)
    with pytest.raises(DatabaseSourceError, match=r"cannot be reached .*; start it, or check host and port") as caught:
        await db.start()
    assert "secret" not in str(caught.value)
    assert db.get_status().state is ComponentState.FAILED


@pytest.mark.parametrize("isolation", EVERY)
async def test_a_wrong_password_or_database_says_so(cluster, isolation):
    server = cluster.url.rpartition("/")[0]
    for source, said in [
        (server.replace("postgres@", "app:wrong@") + "/postgres", "password authentication failed .*; check user"),
        (server.replace("postgres@", "nobody@") + "/postgres", "lets nobody in .*; check user and password"),
        (f"{server}/nowhere", "there is no such database .*; check its name"),
        ("postgresql://127.0.0.1:x/postgres", "PostgreSQL says: .*; check the URL"),
        (f"{server}/postgres?no_such_setting=1", "PostgreSQL says: .*no_such_setting"),
    ]:
        with pytest.raises(DatabaseSourceError, match=said) as caught:
            await manager(source, isolation).start()
        assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("isolation", ["clone", "schema"])
async def test_a_user_who_may_not_says_what_is_needed(cluster, isolation):
    source = cluster.url.replace("postgres@", "app:secret@")
    with pytest.raises(DatabaseSourceError, match=r"may not do .*; 'clone' needs CREATEDB"):
        await manager(source, isolation).start()
    async with manager(source, "rollback") as db:
        assert await ask(db, "SELECT 1") == [1]


async def test_a_server_with_too_many_connections_says_so(cluster):
    source = cluster.url.replace("postgres@", "app:secret@")
    await on_server(cluster.url, "ALTER ROLE app CONNECTION LIMIT 0")
    with pytest.raises(DatabaseSourceError, match=r"are taken .*; close some"):
        await manager(source, "none").start()
    await on_server(cluster.url, "ALTER ROLE app CONNECTION LIMIT -1")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_server_that_is_restarted_while_in_use(cluster, how):
    async with a_source(cluster.url) as source, contextlib.AsyncExitStack() as stack:
        clone = await stack.enter_async_context(opened(source, "clone"))
        used = {"clone": clone}
        for isolation in ("rollback", "schema", "none"):
            used[isolation] = await stack.enter_async_context(opened(source, isolation))
        for isolation, db in used.items():
            # The outer transaction keeps the row it changes from everybody else.
            await (ask(db) if isolation == "none" else execute(db, "UPDATE c SET v = v + 0"))
        cluster.stop(how)
        for db in used.values():
            with pytest.raises((DBAPIError, OSError, DatabaseSourceError)):
                await ask(db)
        cluster.start()
        for isolation in ("clone", "schema", "none"):
            assert await ask(used[isolation]) == [0], "it connects anew"
        for use in (lambda: ask(used["rollback"]), used["rollback"].get_row_changes):
            with pytest.raises(DatabaseSourceError, match=r"connection to the server was lost.*; start anew"):
                await use()
        assert await on_server(source, "SELECT v FROM c") == [(0,)]


@pytest.mark.parametrize("isolation", ["clone", "schema"])
async def test_what_cannot_be_dropped_is_named(cluster, isolation):
    async with a_source(cluster.url) as source:
        db = manager(source, isolation)
        await db.start()
        cluster.stop()
        with pytest.raises(DatabaseSourceError, match=rf"{PREFIX}.* could not be dropped .*; drop it yourself"):
            await db.cleanup()
        cluster.start()
        left = "SELECT datname FROM pg_database UNION SELECT nspname FROM pg_namespace"
        for (name,) in await on_server(source, left):
            if name.startswith(PREFIX):
                await on_server(source, f"DROP {'DATABASE' if isolation == 'clone' else 'SCHEMA'} {name}")


async def test_a_connection_whose_server_says_nothing_any_more_is_given_up(cluster, monkeypatch):
    monkeypatch.setattr(postgres_link, "CONNECT_SECONDS", 0.05)
    connection = await asyncpg.connect(cluster.url)
    server = await connection.fetchval("SELECT pg_backend_pid()")
    busy = asyncio.create_task(connection.execute("SELECT pg_sleep(30)"))
    await asyncio.sleep(0.05)
    os.kill(server, signal.SIGSTOP)
    try:
        await postgres_link.hang_up(connection)
        assert connection.is_closed()
    finally:
        os.kill(server, signal.SIGCONT)
    await asyncio.gather(busy, return_exceptions=True)
    await on_server(cluster.url, f"SELECT pg_terminate_backend({server})")


async def test_an_outer_transaction_that_cannot_begin_leaves_no_connection(url, monkeypatch):
    monkeypatch.setattr(postgres_outer, "SEAL_OUTER", "SELECT 1 / 0")
    with pytest.raises(DatabaseSourceError, match="division by zero"):
        await manager(url, "rollback").start()
    await until_alone(url)


def test_importing_it_imports_no_driver():
    script = "import sys, asyncsandbox.components.database; print({'sqlalchemy', 'asyncpg'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "set()\n"
