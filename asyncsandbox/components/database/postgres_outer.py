"""PostgreSQL's source inside one outer transaction that is rolled back in the end.

All sessions share the one connection that holds it and take turns. What a session does is done after a savepoint: its
commit moves the savepoint on, its rollback goes back to it. What a session commits the later ones see, and nobody else.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import DatabaseSourceError
from .postgres_link import connect, driver, errors, explaining, hang_up, ping
from .postgres_rows import compare, count, find_tables
from .postgres_seal import READ_ONLY_OUTSIDE, SEAL_OUTER
from .rows import TableChange
from .turns import Turns
from .way import Way

if TYPE_CHECKING:
    from .postgres_rows import Name, Table
    from .source import Source

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_SAVE = "SAVEPOINT asyncsandbox"
_KEEP = f"RELEASE SAVEPOINT asyncsandbox; {_SAVE}"
_UNDO = "ROLLBACK TO SAVEPOINT asyncsandbox"

_TOUCHED = """
SELECT coalesce(pg_partition_root(relation)::oid, relation) AS oid, bool_or(mode = 'AccessExclusiveLock') AS is_locked
FROM pg_locks JOIN pg_database AS d ON d.oid = database AND d.datname = current_database()
WHERE pid = pg_backend_pid() AND locktype = 'relation' AND mode NOT IN ('AccessShareLock', 'RowShareLock')
GROUP BY 1
"""
_COUNTED = "SELECT n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables WHERE relid = $1"
_ESTIMATED = "SELECT greatest(pg_stat_get_live_tuples($1), 0)"


class OuterTransaction(Way):
    """One connection in one transaction; it keeps others from the rows it changes until it is closed."""

    def __init__(self, source: Source, shared: Any, timeout_seconds: float) -> None:
        self.turns = Turns(timeout_seconds)
        self.shared = shared
        self.codecs: set[tuple[str, str]] = set()
        self._source = source
        self._is_dirty = False
        self._ending: asyncio.Future[None] | None = None

    async def seat(self) -> _SharedSeat:
        """Return a new seat at the one connection."""
        return _SharedSeat(self)

    async def ping(self) -> None:
        """Ask the server, by a connection of its own."""
        self.refuse_lost()
        await ping(self._source)

    async def changes(self) -> tuple[TableChange, ...]:
        """Wait for a turn and compare what the sessions committed with the source.

        Raises:
            SessionInUseError: The current task is in the middle of a transaction.
            DatabaseSourceError: The outer transaction is gone.
        """
        await self.turns.take(self)
        try:
            await self.begin()
            reader = await connect(self._source, **READ_ONLY_OUTSIDE)
            try:
                return await self._compare(reader)
            finally:
                await reader.close()
        finally:
            await self.end(self, _UNDO)

    async def close(self) -> None:
        """Roll everything back and close the connection."""
        self.turns.close()
        with suppress(*errors()):
            # Not left to the end of the connection, of which the server may learn later.
            await self.shared.execute("ROLLBACK")
        await hang_up(self.shared)

    async def begin(self) -> None:
        """Begin a session's transaction; whoever calls it has the turn.

        Raises:
            DatabaseSourceError: The outer transaction is gone.
        """
        if self._ending is not None:
            await asyncio.wait((self._ending,))
        self.refuse_lost()
        if self._is_dirty:  # somebody left amid a statement
            await self.shared.execute(_UNDO)
        self._is_dirty = True

    async def end(self, who: object, statement: str) -> None:
        """End a session's transaction and give its turn back; goes on where the caller is cancelled."""
        self._ending = asyncio.ensure_future(self._end(who, statement))
        self._ending.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._ending)

    def refuse_lost(self) -> None:
        """Say that the outer transaction is gone.

        Raises:
            DatabaseSourceError: It is.
        """
        if self.shared.is_closed():
            problem = "the connection to the server was lost, so everything is rolled back"
            raise DatabaseSourceError(self._source.shown, problem, "start anew")
        if not self.shared.is_in_transaction():
            problem = "a statement ended the outer transaction, so everything is rolled back and nothing was written"
            raise DatabaseSourceError(self._source.shown, problem, "leave out COMMIT and ROLLBACK, or use 'clone'")

    async def _end(self, who: object, statement: str) -> None:
        try:
            if statement is _KEEP:
                self.refuse_lost()
            if not self.shared.is_closed() and self.shared.is_in_transaction():
                await self._go(statement)
            self._is_dirty = False
        finally:
            self.turns.give_back(who)

    async def _go(self, statement: str) -> None:
        try:
            await self.shared.execute(statement)
        except driver().InFailedSQLTransactionError:
            # What a server does at the COMMIT of a transaction in which a statement failed.
            await self.shared.execute(_UNDO)

    async def _compare(self, reader: Any) -> tuple[TableChange, ...]:
        touched: dict[int, bool] = dict(map(tuple, await self.shared.fetch(_TOUCHED)))
        async with reader.transaction(isolation="repeatable_read", readonly=True):
            new, old = await find_tables(self.shared), await find_tables(reader)
            locked = {oid for oid, is_locked in touched.items() if is_locked}
            names = {name for tables in (new, old) for name, table in tables.items() if table.oid in touched}
            hidden = {name for name in names if name in old and old[name].oid in locked}
            changes = await compare(self.shared, reader, old, only=names - hidden)
            guessed = [await self._estimate(reader, name, new.get(name), old[name]) for name in hidden]
        found = (*changes, *guessed)
        return tuple(sorted((c for c in found if c.inserted or c.updated or c.deleted), key=lambda c: c.table))

    async def _estimate(self, reader: Any, name: Name, new: Table | None, old: Table) -> TableChange:
        """Say what is known of a table that nobody can read as it was, because our own changes lock it."""
        if new is not None and (new.oid, new.file) == (old.oid, old.file):
            row = await self.shared.fetchrow(_COUNTED, new.oid)
            return TableChange(table=name[0], inserted=row[0], updated=row[1], deleted=row[2])
        inserted = await count(self.shared, name, new) if new is not None else 0
        return TableChange(table=name[0], inserted=inserted, deleted=await reader.fetchval(_ESTIMATED, old.oid))


async def open_outer(source: Source, timeout_seconds: float) -> OuterTransaction:
    """Begin an outer transaction on the source.

    Raises:
        DatabaseSourceError: The server does not let us.
    """
    settings = {
        **READ_ONLY_OUTSIDE,
        "lock_timeout": f"{max(1, round(timeout_seconds * 1000))}",
        "idle_in_transaction_session_timeout": "0",
    }
    with explaining(source):
        shared = await connect(source, **settings)
        try:
            await shared.execute(f"{_BEGIN}; {SEAL_OUTER}; {_SAVE}")
        except BaseException:
            shared.terminate()
            raise
    return OuterTransaction(source, shared, timeout_seconds)


class _SharedSeat:
    """A place at the one connection: what SQLAlchemy takes for a connection of the driver."""

    def __init__(self, outer: OuterTransaction) -> None:
        self._outer = outer
        self._is_left = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outer.shared, name)

    def transaction(self, **options: Any) -> _Savepoint:
        """Return a transaction that is a part of the outer one."""
        # Taking turns is as good as any isolation level.
        return _Savepoint(self._outer, self, readonly=bool(options.get("readonly")))

    async def set_type_codec(self, typename: str, *, schema: str = "public", **codec: Any) -> None:
        """Set a codec, once for all seats: it may ask the server, while a statement runs at another seat."""
        if (schema, typename) not in self._outer.codecs:
            self._outer.codecs.add((schema, typename))
            await self._outer.shared.set_type_codec(typename, schema=schema, **codec)

    def is_closed(self) -> bool:
        """Tell whether nothing can be asked here any more."""
        return self._is_left or self._outer.shared.is_closed()

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the driver's signature
        """Leave the seat; the connection stays open for the others."""
        del timeout
        self.terminate()

    def terminate(self) -> None:
        """Leave the seat; what it did is undone before the next transaction begins."""
        self._is_left = True
        self._outer.turns.give_back(self)


class _Savepoint:
    """A session's transaction."""

    def __init__(self, outer: OuterTransaction, seat: _SharedSeat, *, readonly: bool) -> None:
        self._outer = outer
        self._seat = seat
        self._readonly = readonly

    async def start(self) -> None:
        """Wait for the turn."""
        await self._outer.turns.take(self._seat)
        try:
            await self._outer.begin()
            if self._readonly:
                await self._outer.shared.execute("SET TRANSACTION READ ONLY")
        except BaseException:
            self._outer.turns.give_back(self._seat)
            raise

    async def commit(self) -> None:
        """Keep what was done, for the sessions to come."""
        await self._outer.end(self._seat, _KEEP)

    async def rollback(self) -> None:
        """Undo what was done since `start`."""
        await self._outer.end(self._seat, _UNDO)
