"""Idempotent results in the app's own transaction on PostgreSQL: rows and result commit together, or neither does."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from children import Child
from database_promises import a_source
from postgres import execute
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from asyncsandbox import IdempotencyManager, IdempotencySettings, Sandbox, irreversible
from asyncsandbox.components.idempotency import in_session
from asyncsandbox.errors import ConfigurationError, IdempotencyConflictError, ResultUnavailableError

charges: list[str] = []


@irreversible("card.charge", key=lambda order: order)
async def charge(order: str) -> str:
    charges.append(order)
    return f"ch_{order}"


def driver_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    with asyncio.Runner() as runner:
        source = a_source(postgres_url)
        made = runner.run(source.__aenter__()).replace("postgresql+asyncpg://", "postgresql://")
        runner.run(execute(made, "CREATE TABLE paid (name TEXT)"))
        yield made
        runner.run(source.__aexit__(None, None, None))


@asynccontextmanager
async def app(url: str, **settings: Any) -> AsyncIterator[tuple[Sandbox, async_sessionmaker[AsyncSession]]]:
    """Give a sandbox whose store is the app's database, and sessions of the app."""
    engine = create_async_engine(driver_url(url))
    try:
        more = IdempotencySettings(**settings)
        async with Sandbox(store=url, dry_run=False, idempotency_manager=more) as sandbox:
            yield sandbox, async_sessionmaker(engine)
    finally:
        await engine.dispose()


async def note(session: AsyncSession, order: str) -> str:
    await session.execute(text("INSERT INTO paid VALUES (:order)"), {"order": order})
    return f"noted {order}"


async def rows(sessions: async_sessionmaker[AsyncSession]) -> list[str]:
    async with sessions() as session:
        return list(await session.scalars(text("SELECT name FROM paid ORDER BY name")))


def process(sandbox: Sandbox, session: AsyncSession, key: str = "k", order: str = "o-1", function: Any = note) -> Any:
    return sandbox.idempotency_manager.in_session(session).process_idempotent(key, function, session, order)


async def commit_or_roll_back(url: str) -> None:
    async with app(url) as (sandbox, sessions):
        async with sessions() as session:
            assert await process(sandbox, session) == "noted o-1"
            await session.rollback()
        assert await rows(sessions) == [], "neither row nor result"
        async with sessions() as session, session.begin():
            assert await process(sandbox, session) == "noted o-1"
        for _ in range(2):
            async with sessions() as session, session.begin():
                assert await process(sandbox, session) == "noted o-1"
        assert await rows(sessions) == ["o-1"], "both, and once"
        async with sessions() as session:
            with pytest.raises(IdempotencyConflictError):
                await process(sandbox, session, order="o-2")


async def test_rows_and_result_commit_together_or_neither_does(url: str) -> None:
    await commit_or_roll_back(url)


async def test_a_result_kept_elsewhere_is_caught(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def elsewhere(self: Any, _session: Any, key: str, func: Any, args: Any, kwargs: Any) -> Any:
        policy = replace(self._policy, facts=lambda bound: bound["order"])
        return await self._rehearse(key, func, args, kwargs, policy)

    monkeypatch.setattr(in_session.Transactions, "process", elsewhere)
    with pytest.raises(AssertionError):
        await commit_or_roll_back(url)


async def test_concurrent_transactions_with_one_key_run_once(url: str) -> None:
    async with app(url) as (sandbox, sessions):

        async def pay() -> str:
            async with sessions() as session, session.begin():
                said: str = await process(sandbox, session)
                return said

        assert await asyncio.gather(*(pay() for _ in range(5))) == ["noted o-1"] * 5
        assert await rows(sessions) == ["o-1"]


async def test_a_call_that_raises_leaves_key_and_transaction_usable(url: str) -> None:
    async def fail(session: AsyncSession, order: str) -> None:
        await note(session, order)
        raise PermissionError(order)

    async with app(url) as (sandbox, sessions):
        async with sessions() as session, session.begin():
            await note(session, "before")
            with pytest.raises(PermissionError):
                await process(sandbox, session, function=fail)
            assert await process(sandbox, session) == "noted o-1", "the key is free again"
        assert await rows(sessions) == ["before", "o-1"], "what the failed call wrote is rolled back, and no more"


async def test_a_key_inside_itself_is_refused_and_a_plain_function_will_do(url: str) -> None:
    async with app(url) as (sandbox, sessions), sessions() as session:

        async def again(session: AsyncSession, order: str) -> str:
            inner: str = await process(sandbox, session, function=again)
            return inner

        with pytest.raises(ConfigurationError, match="would wait for itself"):
            await process(sandbox, session, function=again)
        await session.rollback()
        assert await sandbox.idempotency_manager.in_session(session).process_idempotent("sum", sum, (1, 2)) == 3


async def test_a_cancelled_thread_is_waited_for_and_nothing_is_kept(url: str) -> None:
    async with app(url) as (sandbox, sessions), sessions() as session:
        began, loop, go, ended = asyncio.Event(), asyncio.get_running_loop(), threading.Event(), []

        def work(order: str) -> str:
            loop.call_soon_threadsafe(began.set)
            assert go.wait(10)
            ended.append(order)
            return order

        in_transaction = sandbox.idempotency_manager.in_session(session)
        call = asyncio.create_task(in_transaction.process_idempotent("k", work, "o-1"))
        await began.wait()
        call.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ended == ["o-1"]
        assert await in_transaction.process_idempotent("k", work, "o-1") == "o-1"
        assert ended == ["o-1", "o-1"], "the key is free again"


async def test_a_result_that_cannot_be_stored_is_there_once(url: str) -> None:
    async def make(session: AsyncSession, order: str) -> object:
        return object()

    async with app(url) as (sandbox, sessions), sessions() as session:
        await process(sandbox, session, function=make)
        with pytest.raises(ResultUnavailableError):
            await process(sandbox, session, function=make)


async def test_a_result_expires_by_the_time_of_the_server(url: str) -> None:
    async with app(url, ttl_seconds=0.02) as (sandbox, sessions):
        for _ in range(2):
            async with sessions() as session, session.begin():
                await process(sandbox, session)
            await asyncio.sleep(0.03)
        assert await rows(sessions) == ["o-1", "o-1"]


async def test_a_dry_run_keeps_results_in_memory(url: str) -> None:
    async with Sandbox(store=url, database_url=driver_url(url), use_memory_db=False) as sandbox:
        for _ in range(2):
            async with sandbox.database.get_session() as session, session.begin():
                assert await process(sandbox, session) == "noted o-1"
        (change,) = [each for each in await sandbox.database.get_row_changes() if each.table == "paid"]
        assert change.inserted == 1
    async with app(url) as (_, sessions):
        assert await rows(sessions) == []


async def test_only_the_database_of_the_store_will_do(url: str, tmp_path: Any, postgres_url: str) -> None:
    async def refused(sandbox: Sandbox, at: str, said: str) -> None:
        engine = create_async_engine(at)
        try:
            async with AsyncSession(engine) as session:
                with pytest.raises(ConfigurationError, match=said):
                    await process(sandbox, session)
        finally:
            await engine.dispose()

    async with Sandbox(store=url, dry_run=False) as sandbox:
        await refused(sandbox, "sqlite+aiosqlite://", "database is sqlite")
        await refused(sandbox, driver_url(postgres_url.rpartition("/")[0] + "/template1"), "does not see its tables")
    async with Sandbox(store=tmp_path / "store.sqlite", dry_run=False) as sandbox:
        await refused(sandbox, driver_url(url), "the store is .*store.sqlite")
    async with Sandbox(dry_run=False) as sandbox:
        await refused(sandbox, driver_url(url), "there is no store")
    alone, session = IdempotencyManager(), AsyncSession()
    with pytest.raises(ConfigurationError, match="there is no store"):
        await alone.in_session(session).process_idempotent("k", note, session, "o-1")


async def test_actions_are_no_part_of_the_transaction(url: str) -> None:
    """What went out cannot be rolled back, so the ledger remembers it whatever becomes of the transaction."""

    async def pay(session: AsyncSession, order: str) -> str:
        await note(session, order)
        return await charge(order)

    charges.clear()
    async with app(url) as (sandbox, sessions):
        async with sessions() as session:
            assert await process(sandbox, session, function=pay) == "ch_o-1"
            await session.rollback()
        assert await rows(sessions) == []
        (record,) = sandbox.get_actions(name="card.charge")
        assert record.state == "done"
        async with sessions() as session, session.begin():
            assert await process(sandbox, session, function=pay) == "ch_o-1", "the charge is not made again"
        assert (await rows(sessions), charges) == (["o-1"], ["o-1"])


CHILD = """
import asyncio, sys
from asyncsandbox import Sandbox
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

url, commit = sys.argv[1:]

async def note(session, order):
    await session.execute(text("INSERT INTO paid VALUES (:order)"), {"order": order})
    return f"noted {order}"

async def main():
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with Sandbox(store=url, dry_run=False) as sandbox, AsyncSession(engine) as session:
        print("up", flush=True)
        said = await sandbox.idempotency_manager.in_session(session).process_idempotent("k", note, session, "o-1")
        if commit == "commit":
            await session.commit()
        print(said, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize(("commit", "left"), [("crash first", 0), ("commit", 1)])
def test_after_a_crash_both_are_there_or_neither(url: str, commit: str, left: int) -> None:
    child = Child(CHILD, url, commit)
    assert child.hear() == "noted o-1"
    child.signal(signal.SIGKILL)
    child.kill()

    async def look() -> None:
        async with app(url) as (sandbox, sessions):
            assert await rows(sessions) == ["o-1"] * left
            note.__module__, note.__qualname__ = "__main__", "note"
            try:
                async with sessions() as session, session.begin():
                    assert await process(sandbox, session) == "noted o-1"
            finally:
                note.__module__, note.__qualname__ = __name__, "note"
            assert await rows(sessions) == ["o-1"]

    asyncio.run(look())
