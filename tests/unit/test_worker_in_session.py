"""Jobs submitted in the app's own transaction on PostgreSQL: with the rows they are about, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from postgres import with_schema
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from asyncsandbox import JobState, Sandbox, WorkerSettings, job
from asyncsandbox._core.store.app_session import AppSessions
from asyncsandbox.errors import ConfigurationError, JobNotFoundError, JobNotStorableError

Sessions = async_sessionmaker[AsyncSession]


@job("session.mail")
async def mail(order: str) -> str:
    return f"mailed {order}"


async def undeclared() -> None: ...


@asynccontextmanager
async def app(url: str, *, run_durable: bool = True, dry_run: bool = False) -> AsyncIterator[tuple[Sandbox, Sessions]]:
    place, _, schema = url.partition("?search_path=")
    engine = create_async_engine(
        place.replace("postgresql://", "postgresql+asyncpg://", 1),
        connect_args={"server_settings": {"search_path": schema}},
    )
    try:
        settings = WorkerSettings(run_durable=run_durable)
        async with Sandbox(store=url, dry_run=dry_run, worker=settings) as sandbox:
            yield sandbox, async_sessionmaker(engine)
    finally:
        await engine.dispose()


@pytest.fixture
def url(postgres_url: str) -> str:
    return with_schema(postgres_url)


async def commit_or_roll_back(url: str) -> None:
    async with app(url) as (sandbox, sessions):
        worker = sandbox.worker
        async with sessions() as session:
            gone = await worker.in_session(session).submit_job("mail", mail, "o-0")
            await session.rollback()
        with pytest.raises(JobNotFoundError):
            await worker.get_job_status(gone)
        async with sessions() as session, session.begin():
            job_id = await worker.in_session(session).submit_job("mail", mail, "o-1")
            with pytest.raises(JobNotFoundError):
                await worker.get_job_status(job_id)
            await asyncio.sleep(0.02)
        assert await worker.get_result(job_id) == "mailed o-1", "whoever runs jobs hears of the commit"


async def test_a_job_is_there_once_the_transaction_commits(url: str) -> None:
    await commit_or_roll_back(url)


async def test_a_job_submitted_beside_the_transaction_is_caught(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def beside(_self: object, _session: object, store: object, operation: object, **params: object) -> object:
        result = await store.write(operation, **params)  # type: ignore[attr-defined]
        return result.rows

    monkeypatch.setattr(AppSessions, "execute", beside)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await commit_or_roll_back(url)


async def test_options_and_the_twin_of_a_key(url: str) -> None:
    async with app(url, run_durable=False) as (sandbox, sessions):
        worker = sandbox.worker
        options = {"unique_key": "k", "priority": 3, "delay_seconds": 60.0}
        async with sessions() as session, session.begin():
            first = await worker.in_session(session, **options).submit_job("mail", mail, "o-1")
            assert await worker.in_session(session, **options).submit_job("mail", mail, "o-1") == first

        async def submit() -> str:
            async with sessions() as session, session.begin():
                return await worker.in_session(session, unique_key="other").submit_job("mail", mail, "o-2")

        assert len(set(await asyncio.gather(*(submit() for _ in range(4))))) == 1
        assert (await worker.get_job_status(first)).state is JobState.QUEUED


async def test_a_twin_that_ends_in_between_makes_room(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with app(url, run_durable=False) as (sandbox, sessions):
        worker = sandbox.worker
        first = await worker.with_options(unique_key="k").submit_job("mail", mail, "o-1")
        right = AppSessions.execute

        async def execute(self: AppSessions, session: AsyncSession, store: object, operation: object, **params: object):  # type: ignore[no-untyped-def]
            rows = await right(self, session, store, operation, **params)  # type: ignore[arg-type]
            if not rows:
                await worker.cancel(first)
            return rows

        monkeypatch.setattr(AppSessions, "execute", execute)
        async with sessions() as session, session.begin():
            assert await worker.in_session(session, unique_key="k").submit_job("mail", mail, "o-1") != first


async def test_what_cannot_be_submitted_in_a_session_is_refused(url: str, tmp_path: Path) -> None:
    async with app(url) as (sandbox, sessions), sessions() as session:
        submitter = sandbox.worker.in_session(session)
        with pytest.raises(ConfigurationError, match="declare it with @job"):
            await submitter.submit_job("undeclared", undeclared)
        with pytest.raises(JobNotStorableError):
            await submitter.submit_job("mail", mail, open)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"priority=0.5"):
            sandbox.worker.in_session(session, priority=0.5)  # type: ignore[typeddict-item]
        async with Sandbox(dry_run=False, store=tmp_path / "store.sqlite") as other:
            with pytest.raises(ConfigurationError, match="the PostgreSQL database that the session is connected to"):
                await other.worker.in_session(session).submit_job("mail", mail, "o-1")


async def test_a_dry_run_rehearses_it(url: str) -> None:
    async with app(url, dry_run=True) as (sandbox, sessions), sessions() as session, session.begin():
        job_id = await sandbox.worker.in_session(session).submit_job("mail", mail, "o-1")
        assert await sandbox.worker.get_result(job_id) == "mailed o-1"
