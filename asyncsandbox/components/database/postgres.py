"""Where sessions really work on PostgreSQL: on the source, on clones of it, or in a scratch schema.

The source inside an outer transaction is in `postgres_outer`.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from ...errors import ConfigurationError, DatabaseSourceError, NotStartedError
from .owners import is_orphan, owned_prefix
from .postgres_link import connect, driver, errors, explaining, hang_up, ping, quote
from .postgres_rows import compare, count, find_tables
from .postgres_seal import OUTSIDE_MARK, READ_ONLY_OUTSIDE, seal_schema
from .postgres_source import refuse_remote
from .rows import TableChange
from .seats import make_or_discard
from .turns import Turns
from .way import Way

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from .source import Source


class DirectPostgres(Way):
    """The source itself: what is committed is there for good. Base of the other ways."""

    def __init__(self, source: Source, *, database: str | None = None, **settings: str) -> None:
        self.turns = Turns(0)  # nobody takes them: the server has many writers
        self._source = source
        self._database = database
        self._settings = settings
        self._open: list[Any] = []
        self._is_closed = False

    async def seat(self) -> Any:
        """Return a new connection.

        Raises:
            NotStartedError: The database was closed meanwhile.
        """
        connection = await connect(self._source, database=self._database, **self._settings)
        if self._is_closed:
            await hang_up(connection)
            raise NotStartedError("database", "a session")
        self._open = [one for one in self._open if not one.is_closed()]
        self._open.append(connection)
        return connection

    async def ping(self) -> None:
        """Ask the server, by a connection of its own."""
        await ping(self._source, self._database)

    async def changes(self) -> tuple[TableChange, ...]:
        """Refuse: there is nothing to compare with.

        Raises:
            ConfigurationError: Always.
        """
        allowed = "row changes need an isolated database: 'rollback', 'clone' or 'schema'"
        raise ConfigurationError("isolation", "none", allowed)

    async def close(self) -> None:
        """Close every connection that is still open."""
        self._is_closed = True
        await asyncio.gather(*(hang_up(connection) for connection in self._open))


class PostgresClone(DirectPostgres):
    """A database of its own, and one that stays as the source was; both are dropped in the end."""

    def __init__(self, source: Source, clone: str, before: str, maintenance: str, **settings: str) -> None:
        super().__init__(source, database=clone, **settings)
        self._names = (clone, before)
        self._before = before
        self._maintenance = maintenance

    async def changes(self) -> tuple[TableChange, ...]:
        """Compare what is committed with what was cloned."""
        new = await connect(self._source, database=self._database)
        try:
            old = await connect(self._source, database=self._before)
            try:
                async with new.transaction(isolation="repeatable_read", readonly=True):
                    return await compare(new, old, await find_tables(old))
            finally:
                await hang_up(old)
        finally:
            await hang_up(new)

    async def close(self) -> None:
        """Close every connection and drop both databases."""
        await super().close()
        with _reporting(self._source, f"the databases {' and '.join(self._names)}"):
            connection = await connect(self._source, database=self._maintenance)
            try:
                for name in self._names:
                    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            finally:
                await hang_up(connection)


class ScratchSchema(DirectPostgres):
    """An empty schema in the source's database, dropped in the end; the tables beside it are not to be changed."""

    def __init__(self, source: Source, schema: str) -> None:
        super().__init__(source, search_path=schema, **READ_ONLY_OUTSIDE)
        self._schema = schema

    async def seat(self) -> Any:
        """Return a new connection whose transactions are sealed."""
        return _SealedConnection(await super().seat(), self._source, self._schema)

    async def changes(self) -> tuple[TableChange, ...]:
        """Count what is committed: everything is new."""
        connection = await connect(self._source, **self._settings)
        try:
            tables = await find_tables(connection)
            names = sorted(name for name in tables if name[1] == self._schema)
            rows = [(name[0], await count(connection, name, tables[name])) for name in names]
        finally:
            await hang_up(connection)
        return tuple(TableChange(table=table, inserted=number) for table, number in rows if number)

    async def close(self) -> None:
        """Close every connection and drop the schema."""
        await super().close()
        with _reporting(self._source, f"the schema {self._schema}"):
            connection = await connect(self._source, lock_timeout=_DROP_PATIENCE)
            try:
                await connection.execute(f"DROP SCHEMA IF EXISTS {self._schema} CASCADE")
            finally:
                await hang_up(connection)


async def open_postgres(source: Source, isolation: str, timeout_seconds: float, *, may_be_remote: bool) -> Way:
    """Open a source as the isolation demands.

    Args:
        source: PostgreSQL's.
        isolation: ``"none"``, ``"clone"``, ``"schema"`` or ``"rollback"``.
        timeout_seconds: How long one transaction of an outer one may keep others waiting.
        may_be_remote: Whether the server may be on another machine.

    Raises:
        ConfigurationError: The driver is not installed.
        DatabaseSourceError: The source is on another machine, or the server does not let us.
    """
    from .postgres_outer import open_outer

    if not may_be_remote:
        refuse_remote(source)
    driver()
    match isolation:
        case "none":
            return await open_direct(source)
        case "clone":
            return await open_clone(source)
        case "schema":
            return await open_schema(source)
        case _:
            return await open_outer(source, timeout_seconds)


async def open_direct(source: Source) -> DirectPostgres:
    """Open the source itself.

    Raises:
        DatabaseSourceError: The server does not let us.
    """
    async with _connected(source):
        return DirectPostgres(source)


async def open_clone(source: Source) -> PostgresClone:
    """Clone the source as it is now, twice: to work on, and to compare with.

    Raises:
        DatabaseSourceError: It cannot be cloned.

    Concurrency: any number. Cancellation: what was made is dropped.
    """
    making = asyncio.ensure_future(_clone(source))
    return await make_or_discard(making, abandon=lambda: None, discard=PostgresClone.close)


async def open_schema(source: Source) -> ScratchSchema:
    """Make an empty schema in the source's database.

    Raises:
        DatabaseSourceError: It cannot be made.

    Concurrency: any number. Cancellation: what was made is dropped.
    """
    making = asyncio.ensure_future(_make_schema(source))
    return await make_or_discard(making, abandon=lambda: None, discard=ScratchSchema.close)


_MAINTENANCE = ("postgres", "template1")
_DROP_PATIENCE = "10s"
_SETTINGS = """
SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_database AS d ON d.oid = setdatabase
WHERE d.datname = current_database() AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
ORDER BY setrole
"""


async def _clone(source: Source) -> PostgresClone:
    async with _connected(source) as connection:
        template = await connection.fetchval("SELECT current_database()")
        # CREATE DATABASE copies all but what ALTER DATABASE ... SET said.
        said = [row[0].partition("=") for row in await connection.fetch(_SETTINGS)]
    in_url = {name for name, _ in parse_qsl(urlsplit(source.url or "").query)}
    async with _connected(source, _choose_maintenance(template)) as connection:
        await _reap(connection, "SELECT datname FROM pg_database", "DROP DATABASE {}")
        clone, before = await _new_name(connection), await _new_name(connection)
        try:
            await connection.execute(f"CREATE DATABASE {before} TEMPLATE {quote(template)}")
            await connection.execute(f"CREATE DATABASE {clone} TEMPLATE {before}")
        except BaseException:
            await connection.execute(f"DROP DATABASE IF EXISTS {before}")
            raise
    settings = {name: value for name, _, value in said if name not in in_url}
    return PostgresClone(source, clone, before, _choose_maintenance(template), **settings)


async def _make_schema(source: Source) -> ScratchSchema:
    async with _connected(source, lock_timeout=_DROP_PATIENCE) as connection:
        await _reap(connection, "SELECT nspname FROM pg_namespace", "DROP SCHEMA {} CASCADE")
        schema = await _new_name(connection)
        await connection.execute(f"CREATE SCHEMA {schema}")
    return ScratchSchema(source, schema)


async def _new_name(connection: Any) -> str:
    drawn: str = await connection.fetchval("SELECT left(gen_random_uuid()::text, 8)")
    return owned_prefix() + drawn


async def _reap(connection: Any, names: str, drop: str) -> None:
    """Drop what dead processes left, as far as this user may and nobody is connected to it."""
    for (name,) in await connection.fetch(names):
        if is_orphan(name):
            with suppress(driver().PostgresError):
                await connection.execute(drop.format(name))


def _choose_maintenance(template: str) -> str:
    return next(name for name in _MAINTENANCE if name != template)


@asynccontextmanager
async def _connected(source: Source, database: str | None = None, **settings: str) -> AsyncGenerator[Any]:
    """Give a connection for a while, and say in our words what goes wrong with it."""
    with explaining(source):
        connection = await connect(source, database=database, **settings)
        try:
            yield connection
        finally:
            await hang_up(connection)


@contextmanager
def _reporting(source: Source, what: str) -> Generator[None]:
    """Say what was left behind.

    Raises:
        DatabaseSourceError: It could not be dropped.
    """
    try:
        yield
    except errors() as error:
        problem = f"{what} could not be dropped ({error})"
        remedy = "drop it yourself, or leave it to the next start after this process has ended"
        raise DatabaseSourceError(source.shown, problem, remedy) from error


class _SealedConnection:
    """A connection whose transactions cannot be committed where they changed what is outside the scratch schema."""

    def __init__(self, connection: Any, source: Source, schema: str) -> None:
        self._sealed = connection
        self._source = source
        self._schema = schema
        self._numbers = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sealed, name)

    def transaction(self, **options: Any) -> Any:
        """Return a transaction that is sealed, unless it only reads."""
        transaction = self._sealed.transaction(**options)
        return transaction if options.get("readonly") else _SealedTransaction(transaction, self)

    async def seal(self) -> str:
        """Seal the transaction that just began, and return the name of the cursor that does it."""
        cursor = f"asyncsandbox_seal_{next(self._numbers)}"
        await self._sealed.execute(f"SET TRANSACTION READ WRITE; {seal_schema(self._schema, cursor)}")
        return cursor

    async def unseal(self, cursor: str) -> None:
        """Close the cursor, which stays after a commit, but for that of a failed transaction, which is a rollback."""
        with suppress(driver().InvalidCursorNameError):
            await self._sealed.execute(f"CLOSE {cursor}")

    def refuse(self, tables: str) -> DatabaseSourceError:
        """Return the server's refusal to commit, in our words."""
        problem = f"isolation='schema': the transaction changed {tables} outside the schema, and is rolled back"
        return DatabaseSourceError(self._source.shown, problem, "leave out the schema's name, or use isolation='clone'")


class _SealedTransaction:
    """The driver's transaction, with a seal."""

    def __init__(self, transaction: Any, connection: _SealedConnection) -> None:
        self._transaction = transaction
        self._connection = connection
        self._cursor = ""
        self.rollback = transaction.rollback

    async def start(self) -> None:
        """Begin and seal."""
        await self._transaction.start()
        try:
            self._cursor = await self._connection.seal()
        except BaseException:
            await self._transaction.rollback()
            raise

    async def commit(self) -> None:
        """Commit.

        Raises:
            DatabaseSourceError: It changed what is outside the scratch schema.
        """
        try:
            await self._transaction.commit()
            await self._connection.unseal(self._cursor)
        except driver().InvalidTextRepresentationError as error:
            _, is_ours, tables = str(error).rstrip('"').partition(OUTSIDE_MARK)
            if not is_ours:
                raise
            raise self._connection.refuse(tables) from error
