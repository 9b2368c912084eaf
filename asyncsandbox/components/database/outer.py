"""The source inside one outer transaction that is rolled back in the end.

All sessions share the one connection that holds it: their transactions are savepoints and take turns. What a session
commits the later ones see; the file is not written to.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from ...errors import DatabaseSourceError
from .copying import explain
from .isolated import SOURCE_SCHEMA, Direct
from .rows import compare
from .seats import Seat, TidyConnection, connect
from .source import refuse_bad_path, refuse_read_only, uri

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import aiosqlite

    from .rows import TableChange
    from .source import Source
    from .turns import Turns


class OuterTransaction(Direct):
    """One connection in one transaction; it keeps other writers out of the source until it is closed."""

    def __init__(
        self, source: Source, path: Path, shared: aiosqlite.Connection, seal: _Seal, connections: AsyncExitStack
    ) -> None:
        super().__init__(path, seal.timeout_seconds)
        self._shared = shared
        self._seal = seal
        self._connections = connections
        self._is_attached = False
        self.numbers = itertools.count(1)
        self.functions: set[tuple[object, ...]] = set()
        self.lost = DatabaseSourceError(
            source.shown,
            "a statement ended the outer transaction (INSERT OR ROLLBACK, RAISE(ROLLBACK) or a full disk), "
            "so everything is rolled back and nothing was written",
            "use isolation='clone'",
        )

    async def seat(self) -> Seat:
        """Return a new seat at the one connection."""
        seat = _SharedSeat(self._shared, self.turns, self._seats.discard, self)
        self._seats.add(seat)
        return seat

    async def changes(self) -> tuple[TableChange, ...]:
        """Wait for a turn and compare what the sessions committed with the source.

        Raises:
            SessionInUseError: The current task is in the middle of a transaction.
            DatabaseSourceError: The outer transaction is gone.
        """
        await self.turns.take(self)
        try:
            if not self._shared.in_transaction:
                raise self.lost
            if not self._is_attached:
                await self._shared.execute(f"ATTACH ? AS {SOURCE_SCHEMA}", (uri(self._path, "mode=ro"),))
                self._is_attached = True
            self._seal.shows_source = True
            return await compare(self._shared, SOURCE_SCHEMA)
        finally:
            self._seal.shows_source = False
            self.turns.give_back(self)

    async def close(self) -> None:
        """Roll everything back and close the connection."""
        async with self._connections:
            await super().close()
            self._seal.is_closed = False
            await self._shared.rollback()
            if self._is_attached:
                # Closed last, a reader would leave the -wal and -shm files behind.
                await self._shared.execute(f"DETACH {SOURCE_SCHEMA}")


async def open_outer(source: Source, path: Path, timeout_seconds: float) -> OuterTransaction:
    """Begin an outer transaction on the source.

    Raises:
        DatabaseSourceError: The source cannot be written to.
    """
    await asyncio.to_thread(refuse_bad_path, source, path)
    await asyncio.to_thread(refuse_read_only, source, path)
    seal = _Seal(timeout_seconds)
    connections = AsyncExitStack()
    try:
        shared = await _begin(path, seal, connections)
    except BaseException as error:
        await connections.aclose()
        if isinstance(error, sqlite3.Error):
            raise DatabaseSourceError(source.shown, *explain(error, timeout_seconds)) from error
        raise
    return OuterTransaction(source, path, shared, seal, connections)


async def _begin(path: Path, seal: _Seal, connections: AsyncExitStack) -> aiosqlite.Connection:
    wal = path.with_name(path.name + "-wal")
    if await asyncio.to_thread(lambda: wal.exists() and wal.stat().st_size > 0):
        # Whoever closes a database last writes its -wal into it. A reader that stays until after that prevents it.
        guard = await connect(uri(path, "mode=ro"), timeout=seal.timeout_seconds)
        connections.push_async_callback(guard.close)
        await guard.execute("BEGIN")
        await guard.execute_fetchall("SELECT 1 FROM sqlite_master")
    # Statements are compiled anew each time, so that the seal is asked each time.
    options = {"timeout": seal.timeout_seconds, "cached_statements": 0, "factory": seal.connect}
    shared = await connect(uri(path, "mode=rw"), **options)
    connections.push_async_callback(shared.close)
    # Spilling would write uncommitted pages into the file.
    await shared.execute("PRAGMA cache_spill=OFF")
    await shared.execute("BEGIN IMMEDIATE")
    await shared.execute_fetchall("SELECT 1 FROM sqlite_master")
    seal.is_closed = True
    return shared


class _SharedSeat(Seat):
    """A place at the one connection."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        turns: Turns,
        on_close: Callable[[Seat], object],
        outer: OuterTransaction,
    ) -> None:
        super().__init__(connection, turns, on_close)
        self._outer = outer
        self._savepoint = ""

    async def enter(self, *, read_only: bool) -> str:
        """Wait for the turn, reading or not, and return the statement that begins the savepoint.

        Raises:
            DatabaseSourceError: A statement ended the outer transaction.
        """
        del read_only  # there is one connection, so readers take turns too
        await self._turns.take(self)
        if not self._seat_of.in_transaction:
            self.leave()
            raise self._outer.lost
        # A name of its own: after a cancellation, one savepoint too many may be there or one too few.
        self._savepoint = f"asyncsandbox_{next(self._outer.numbers)}"
        return f"SAVEPOINT {self._savepoint}"

    async def create_function(self, name: str, num_params: int, *args: Any, **kwargs: Any) -> None:
        """Register a function, once for all seats: SQLite refuses that while a statement runs at another."""
        if (name, num_params) not in self._outer.functions:
            await self._seat_of.create_function(name, num_params, *args, **kwargs)
            self._outer.functions.add((name, num_params))

    def leave(self) -> None:
        """Let the next one begin."""
        self._savepoint = ""
        super().leave()

    async def commit(self) -> None:
        """End the savepoint and keep its rows, for the sessions to come."""
        await self._seat_of.execute(f"RELEASE {self._savepoint}")
        self.leave()

    async def rollback(self) -> None:
        """Undo what this session did since its transaction began, and nothing else."""
        if not self._savepoint:
            return
        try:
            await self._seat_of.execute(f"ROLLBACK TO {self._savepoint}")
            await self._seat_of.execute(f"RELEASE {self._savepoint}")
        except sqlite3.Error:
            # The savepoint was never made, or the outer transaction is gone and everything is undone already.
            pass
        finally:
            self.leave()

    async def close(self) -> None:
        """Leave the seat; the connection stays open for the others."""
        try:
            await self.rollback()
        finally:
            self._on_close(self)

    def stop(self) -> None:
        """Do nothing: a `close` that was cancelled goes on in a task of its own."""


class _Seal:
    """Keeps a connection from writing outside its outer transaction, and anybody else from ending that.

    ``INSERT OR ROLLBACK``, a trigger's ``RAISE(ROLLBACK)``, a full disk or a plain ``COMMIT`` would end it, and the
    next statement would reach the source for good.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.is_closed = False
        self.shows_source = False
        self._connection: sqlite3.Connection | None = None

    def connect(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        """Make a connection that asks this seal about every statement."""
        self._connection = TidyConnection(*args, **kwargs)
        self._connection.set_authorizer(self._authorize)
        return self._connection

    def _authorize(self, action: int, _1: str | None, _2: str | None, schema: str | None, _4: str | None) -> int:
        if not self.is_closed or self._connection is None:
            return sqlite3.SQLITE_OK
        ends_outer = action == sqlite3.SQLITE_TRANSACTION
        writes_for_real = action not in _READS and not self._connection.in_transaction
        is_hidden = schema == SOURCE_SCHEMA and not self.shows_source
        return sqlite3.SQLITE_DENY if ends_outer or writes_for_real or is_hidden else sqlite3.SQLITE_OK


_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
