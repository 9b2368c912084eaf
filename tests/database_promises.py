"""What holds for sessions on every database and under every isolation.

A place is a folder for SQLite and a database of its own for PostgreSQL, whose isolations are named ``"postgres clone"``
and so on.
"""

import asyncio
import contextlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from asyncsandbox.components.database import DatabaseSettings, SandboxDatabaseManager

ON_SQLITE = ("memory", "clone", "rollback", "none")
ON_POSTGRES = ("postgres clone", "postgres rollback", "postgres schema", "postgres none")
TABLE = ("CREATE TABLE c (v INTEGER)", "INSERT INTO c VALUES (0)")

# Without shrinking: a broken variant need not be caught by the smallest example.
quick = settings(
    phases=set(Phase) - {Phase.shrink, Phase.explain},
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


async def on_server(url, *statements):
    """Do something past the manager; return the rows of the last statement."""
    connection = await asyncpg.connect(url)
    try:
        rows = [await connection.fetch(statement) for statement in statements][-1]
    finally:
        await connection.close()
    return [tuple(row) for row in rows]


@contextlib.asynccontextmanager
async def a_source(url, *statements, options=""):
    """Give the URL of a database of its own with some tables, to which nobody is connected."""
    name = f"source_{os.urandom(6).hex()}"
    await on_server(url, f"CREATE DATABASE {name} {options}")
    source = f"{url.rpartition('/')[0]}/{name}"
    try:
        await on_server(source, *statements or TABLE)
        yield source
    finally:
        await on_server(url, f"DROP DATABASE {name} WITH (FORCE)")


async def execute(db, *statements):
    async with db.get_session() as session:
        for statement in statements:
            await session.execute(text(statement))
        await session.commit()


async def ask(db, query="SELECT v FROM c", **options):
    async with db.get_session(**options) as session:
        return (await session.execute(text(query))).scalars().all()


async def until(condition):
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError


def make_file(path, journal="delete", script="CREATE TABLE c (v INTEGER); INSERT INTO c VALUES (0);"):
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.executescript(script)
    return path


def manager(source, isolation="auto", **more):
    return SandboxDatabaseManager(os.fspath(source), settings=DatabaseSettings(isolation=isolation, **more))


@contextlib.asynccontextmanager
async def ours(isolation, place):
    """Give a manager of ours whose sessions see the table `c`."""
    if isolation == "memory":
        db = SandboxDatabaseManager()
    elif isolation.startswith("postgres"):
        await on_server(place, "DROP TABLE IF EXISTS c", *TABLE)
        db = manager(place, isolation.partition(" ")[2], max_sessions=30)
    else:
        db = manager(make_file(Path(place) / "app.db"), isolation)
    async with db:
        if isolation in {"memory", "postgres schema"}:
            await execute(db, *TABLE)
        yield db


async def read_modify_write(new_session, lock=""):
    async with new_session() as session:
        value = (await session.execute(text(f"SELECT v FROM c{lock}"))).scalar_one()
        await asyncio.sleep(0)
        await session.execute(text("UPDATE c SET v = :v"), {"v": value + 1})
        await session.commit()


@st.composite
def plans_of_sessions(draw):
    session = st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), st.booleans())
    return draw(st.lists(session, min_size=1, max_size=6))


async def run_plan(new_session, plan):
    async def one(delta, before, after, commits):
        for _ in range(before):
            await asyncio.sleep(0)
        async with new_session() as session:
            await session.execute(text("UPDATE c SET v = v + :d"), {"d": delta})
            for _ in range(after):
                await asyncio.sleep(0)
            await (session.commit() if commits else session.rollback())

    await asyncio.gather(*(one(*step) for step in plan))
    async with new_session() as session:
        value = (await session.execute(text("SELECT v FROM c"))).scalar_one()
    assert value == sum(delta for delta, _, _, commits in plan if commits)


def sessions_are_isolated(opened, examples=25):
    """Draw what sessions do; `opened()` gives a way to make them, anew each time."""

    @settings(quick, max_examples=examples)
    @given(plan=plans_of_sessions())
    def promise(plan):
        async def main():
            async with opened() as new_session:
                await run_plan(new_session, plan)

        asyncio.run(main())

    promise()
