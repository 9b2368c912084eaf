"""`SandboxDatabaseManager`: an isolated database for the app's rows.

It promises that concurrent sessions never share a transaction, that a dry run leaves the source database as it is (an
SQLite file to the byte), and that `cleanup` leaves no connection, thread, file, database or schema behind and says what
was leaked. It does not isolate what your program opens by itself, past this manager. SQLite and PostgreSQL.

>>> import asyncio
>>> from sqlalchemy import text
>>> async def main() -> tuple[TableChange, ...]:
...     async with SandboxDatabaseManager(use_memory=True) as db:
...         async with db.get_session() as session:
...             await session.execute(text("CREATE TABLE invoice (id INTEGER PRIMARY KEY, paid INTEGER)"))
...             await session.execute(text("INSERT INTO invoice (paid) VALUES (0), (1)"))
...             await session.commit()
...         return await db.get_row_changes()
>>> asyncio.run(main())
(TableChange(table='invoice', inserted=2, updated=0, deleted=0),)
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from ..._core.checks import Check
from ..._core.component import Component, ComponentState, ComponentStatus
from ..._core.journal import Level
from ..._core.settings import require_number
from ...errors import ConfigurationError, LifecycleError, NotStartedError
from .rows import TableChange
from .source import MEMORY, Source, parse_source
from .turns import SessionTimeoutError

if TYPE_CHECKING:
    import os
    from types import FrameType

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    from .leaks import Watch
    from .way import Way

__all__ = [
    "DatabaseSettings",
    "DatabaseStatus",
    "Isolation",
    "LeakReport",
    "SandboxDatabaseManager",
    "SessionTimeoutError",
    "TableChange",
]


class Isolation(StrEnum):
    """How the source is kept as it is.

    ``AUTO`` is ``NONE`` in a live sandbox; everywhere else it is ``CLONE`` for SQLite and ``ROLLBACK`` for PostgreSQL.
    """

    AUTO = "auto"
    CLONE = "clone"
    SCHEMA = "schema"
    ROLLBACK = "rollback"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """How the database is isolated.

    Attributes:
        isolation: A copy (``clone``), one outer transaction that is rolled back (``rollback``), an empty schema of
            its own (``schema``, PostgreSQL only), the source itself (``none``), or what fits the mode (``auto``). A
            database in memory is isolated in any case.
        busy_timeout_seconds: How long one transaction, or a lock of another program, may keep others waiting (> 0); on
            PostgreSQL only with ``rollback``.
        max_sessions: How many sessions may be in a transaction or wait for their turn (>= 1), each with a thread of
            its own (SQLite) or a connection to the server (PostgreSQL but for ``rollback``); further ones wait without.
        allow_remote: Whether a dry run may connect to a PostgreSQL server on another machine.
    """

    isolation: Isolation = Isolation.AUTO
    busy_timeout_seconds: float = 5.0
    max_sessions: int = 100
    allow_remote: bool = False

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "isolation", Isolation(self.isolation))
        except ValueError:
            allowed = f"give one of {', '.join(Isolation)}"
            raise ConfigurationError("DatabaseSettings.isolation", self.isolation, allowed) from None
        require_number("DatabaseSettings.busy_timeout_seconds", self.busy_timeout_seconds, above=0)
        require_number("DatabaseSettings.max_sessions", self.max_sessions, at_least=1, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakReport:
    """What was still open at cleanup, and was closed then.

    Attributes:
        sessions: ``file:line`` of the `get_session` call of each session that was in a transaction, oldest first.
        connections: How many connections taken from ``engine`` were open.
    """

    sessions: tuple[str, ...] = ()
    connections: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseStatus(ComponentStatus):
    """What the database says of itself.

    Attributes:
        source: The file as you wrote it, or ``":memory:"``.
        isolation: The isolation in force while it runs, else the one asked for.
        open_sessions: How many sessions are in a transaction.
        leaked: What the last cleanup found open, or None.
    """

    source: str
    isolation: Isolation
    open_sessions: int
    leaked: LeakReport | None


class SandboxDatabaseManager(Component):
    """An isolated database for the app's rows.

    Give a path or URL of an SQLite file, the URL of a PostgreSQL database, or nothing for an empty database in memory.
    Alone it isolates like a dry run; in a live sandbox it works on the source. It opens at `start`, or at first use.

    On SQLite every transaction takes the write lock when it begins, and transactions take turns, first come first
    served: to read and then write loses no update and meets no "database is locked". Sessions that only read do not
    take turns. On PostgreSQL they take turns with ``isolation="rollback"``; else the server's rules hold.

    Args:
        db_url: Path, ``sqlite:///path``, ``sqlite+aiosqlite:///path`` or ``postgresql+asyncpg://user@host/database``.
        use_memory: Whether to begin with an empty database in memory; None means: if there is no ``db_url``.
        settings: How to isolate, and for how long to wait.

    Raises:
        ConfigurationError: Both a source and ``use_memory=True``, or neither.
        DatabaseSourceError: ``db_url`` is not the path or URL of a database of these kinds.

    Concurrency: for many tasks of one loop. Cancellation: a cancelled statement ends its session's transaction.

    Example:
        >>> async def main() -> bool:
        ...     db = SandboxDatabaseManager(use_memory=True)
        ...     session = db.get_session()
        ...     there = db.engine is not None
        ...     await db.cleanup()
        ...     return there
        >>> asyncio.run(main())
        True
    """

    name: ClassVar[str] = "database"

    def __init__(
        self,
        db_url: str | os.PathLike[str] | None = None,
        *,
        use_memory: bool | None = None,
        settings: DatabaseSettings | None = None,
    ) -> None:
        super().__init__()
        self._source = MEMORY if db_url is None else parse_source(db_url)
        if use_memory and db_url is not None:
            raise ConfigurationError("use_memory", use_memory, f"the source {self._source.shown} is given: give one")
        if use_memory is False and db_url is None:
            raise ConfigurationError("use_memory", use_memory, "give a db_url, or leave out both for memory")
        self._settings = settings or DatabaseSettings()
        self._isolated: Way | None = None
        self._engine: AsyncEngine | None = None
        self._watch: Watch | None = None
        self._is_used = False
        self._leaked: LeakReport | None = None

    @property
    def engine(self) -> AsyncEngine:
        """The SQLAlchemy engine; its connections are isolated like the sessions.

        Raises:
            NotStartedError: The database was stopped.
        """
        return self._get_engine()[0]

    def get_session(self, *, read_only: bool = False) -> AsyncSession:
        """Return a new session for ``async with``; it connects at its first statement.

        Objects stay usable after a commit (``expire_on_commit=False``). Two sessions never share a transaction.

        Args:
            read_only: Let it read the committed rows at any time, without taking turns; writing in it fails. With
                ``isolation="rollback"`` it takes turns like the others.

        Returns:
            The session. Where transactions take turns, its first statement raises `SessionInUseError` if its task is in
            a transaction of another session, `SessionTimeoutError` if one of another task outlasts the busy timeout.

        Raises:
            NotStartedError: The database was stopped.

        Concurrency: a session is for one task at a time. Cancellation: not concerned.
        """
        engine, watch = self._get_engine()
        if read_only:
            from .pool import READ_ONLY

            engine = engine.execution_options(**READ_ONLY)
        self._is_used = True
        return watch.session(engine, _say_where(inspect.currentframe()))

    def get_status(self) -> DatabaseStatus:
        """Return a frozen, JSON-able account of the database."""
        return DatabaseStatus(
            name=self.name,
            state=self._state,
            source=self._source.shown,
            isolation=self._choose(self._source) if self._state is ComponentState.RUNNING else self._settings.isolation,
            open_sessions=len(self._watch.open_sessions) if self._watch else 0,
            leaked=self._leaked,
        )

    def get_checks(self) -> tuple[Check, ...]:
        """Return the question whether the database answers, for the readiness checker."""
        return (Check(name=self.name, fn=self._ping),)

    async def use(self, url_or_path: str | os.PathLike[str]) -> None:
        """Work on another source, under the same settings: for a program that gets the path as an argument.

        Args:
            url_or_path: As ``db_url`` of the constructor.

        Raises:
            LifecycleError: A session or connection was already taken, or the database was stopped.
            DatabaseSourceError: The source cannot be used; the database works on the one before.

        Concurrency: before the first session. Cancellation: nothing changes.
        """
        source = parse_source(url_or_path)
        async with self._turn:
            self._refuse_late_use()
            if self._engine is not None and (source.url is None) != (self._source.url is None):
                raise LifecycleError("sandbox.database.engine is for another kind of database: call use() before it")
            opened = await self._open(source)
            if self._is_used:
                await opened.close()
                self._refuse_late_use()
            before, self._isolated, self._source = self._isolated, opened, source
            self._state = ComponentState.RUNNING
            if before is not None:
                await before.close()

    async def get_row_changes(self) -> tuple[TableChange, ...]:
        """Compare the committed rows with the source as it was when it was isolated.

        Returns:
            The tables in which rows changed, by name; net numbers, see `TableChange`.

        Raises:
            ConfigurationError: The database is not isolated.
            NotStartedError: It was stopped.
            SessionInUseError: With ``isolation="rollback"``: the current task is in the middle of a transaction.

        Concurrency: any time. Cancellation: nothing changes.
        """
        if self._is_not_made_yet():
            return ()
        isolated = await self._get_isolated("a comparison")
        return await isolated.changes()

    async def _start(self) -> None:
        self._leaked = None
        if not self._source.is_memory:
            self._isolated = await self._open(self._source)

    async def _stop(self) -> None:
        watch, engine, isolated = self._watch, self._engine, self._isolated
        self._watch = self._engine = self._isolated = None
        self._is_used = False
        try:
            if isolated is not None:
                isolated.turns.close()
            if watch is not None and engine is not None:
                self._report(*await watch.close_all())
                await engine.dispose()
        finally:
            if isolated is not None:
                await isolated.close()

    def _report(self, sessions: tuple[str, ...], connections: int) -> None:
        if not sessions and not connections:
            return
        self._leaked = LeakReport(sessions=sessions, connections=connections)
        self.services.journal.publish(
            "database.leaked", component=self.name, level=Level.WARNING, sessions=sessions, connections=connections
        )

    def _choose(self, source: Source) -> Isolation:
        host = self.services.host
        isolation = self._settings.isolation
        if source.is_memory:
            return Isolation.CLONE
        if isolation is Isolation.AUTO:
            is_live = host is not None and not host.dry_run
            return Isolation.NONE if is_live else Isolation.ROLLBACK if source.url else Isolation.CLONE
        if isolation is Isolation.SCHEMA and source.url is None:
            raise ConfigurationError(
                "DatabaseSettings.isolation", isolation.value, "SQLite has no schemas: use 'clone'"
            )
        if isolation is Isolation.NONE and host is not None and host.dry_run:
            allowed = "a dry run never writes to the source: use 'auto', 'clone' or 'rollback'"
            raise ConfigurationError("DatabaseSettings.isolation", isolation.value, allowed)
        return isolation

    async def _open(self, source: Source) -> Way:
        isolation, timeout_seconds = self._choose(source), self._settings.busy_timeout_seconds
        if source.url is None:
            from .isolated import open_sqlite

            return await open_sqlite(source, isolation, timeout_seconds)
        from .postgres import open_postgres

        host = self.services.host
        may_be_remote = self._settings.allow_remote or (host is not None and not host.dry_run)
        return await open_postgres(source, isolation, timeout_seconds, may_be_remote=may_be_remote)

    def _get_engine(self) -> tuple[AsyncEngine, Watch]:
        if self._engine is None or self._watch is None:
            if self._state in _ENDED:
                raise NotStartedError(self.name, "a session")
            from .leaks import Watch
            from .pool import make_engine

            self._engine = make_engine(
                self._take_seat,
                is_postgres=self._source.url is not None,
                max_sessions=self._settings.max_sessions,
                get_isolation=lambda: self._choose(self._source),
            )
            self._watch = Watch(self._engine)
        return self._engine, self._watch

    async def _get_isolated(self, used_for: str) -> Way:
        if self._state not in _ENDED:
            await self.start()
        async with self._turn:
            # An empty database is made when somebody wants it: in many sandboxes nobody does.
            isolated = await self._open(self._source) if self._is_not_made_yet() else self._isolated
            self._isolated = isolated
        if isolated is None:
            raise NotStartedError(self.name, used_for)
        return isolated

    async def _take_seat(self) -> Any:
        self._is_used = True
        return await (await self._get_isolated("a session")).seat()

    async def _ping(self) -> bool:
        if not self._is_not_made_yet():
            await (await self._get_isolated("a check")).ping()
        return True

    def _is_not_made_yet(self) -> bool:
        is_running = self._state is ComponentState.RUNNING
        return is_running and self._source.is_memory and self._isolated is None

    def _refuse_late_use(self) -> None:
        if self._is_used:
            raise LifecycleError("sandbox.database is in use already: call use() before the first session")
        if self._state is ComponentState.STOPPED:
            raise NotStartedError(self.name, "use()")


_ENDED = frozenset({ComponentState.STOPPING, ComponentState.STOPPED})


def _say_where(frame: FrameType | None) -> str:
    caller = frame.f_back if frame else None
    return f"{caller.f_code.co_filename}:{caller.f_lineno}" if caller else "?"
