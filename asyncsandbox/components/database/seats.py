"""A session's seat at a connection: what SQLAlchemy takes for the driver's connection object.

A seat adds to aiosqlite's connection who may write now (`Turns`). Everything else goes straight through.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import aiosqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .turns import Turns

R = TypeVar("R")


class Seat:
    """A connection of its own to the database file."""

    def __init__(self, connection: aiosqlite.Connection, turns: Turns, on_close: Callable[[Seat], object]) -> None:
        self._seat_of = connection
        self._turns = turns
        self._on_close = on_close
        self._read_only = False
        self._closing: asyncio.Future[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seat_of, name)

    async def enter(self, *, read_only: bool) -> str:
        """Wait for the turn, unless only reading, and return the statement that begins the transaction."""
        if read_only:
            await self._seat_of.execute("PRAGMA query_only=ON")
            self._read_only = True
            return "BEGIN"
        await self._turns.take(self)
        # Deferred, two sessions that read and then write fail each other at once, and no timeout helps.
        return "BEGIN IMMEDIATE"

    def leave(self) -> None:
        """Let the next one begin."""
        self._turns.give_back(self)

    async def commit(self) -> None:
        """Commit, then let the next one begin; a refused commit keeps the turn for the rollback that follows."""
        await self._seat_of.commit()
        await self._write_again()
        self.leave()

    async def rollback(self) -> None:
        """Roll back, then let the next one begin."""
        try:
            await self._seat_of.rollback()
            await self._write_again()
        finally:
            self.leave()

    async def close(self) -> None:
        """Close the connection and end its thread; whoever calls it again, or is cancelled, gets the same end."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    def stop(self) -> None:
        """End the thread without waiting, for where nothing can be awaited; not while `close` is at it."""
        if self._closing is None:
            self._seat_of.stop()
            self.leave()
            self._on_close(self)

    async def _close(self) -> None:
        try:
            await self._seat_of.close()
        finally:
            self.leave()
            self._on_close(self)

    async def _write_again(self) -> None:
        if self._read_only:
            await self._seat_of.execute("PRAGMA query_only=OFF")
            self._read_only = False


class TidyConnection(sqlite3.Connection):
    """An SQLite connection whose end is the end of its cursors too.

    A cancelled SELECT leaves a cursor that has rows to give, and with it SQLite keeps a closed connection and its locks
    alive until the cursor is collected.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor that will be closed with the connection."""
        cursor = super().cursor(*args, **kwargs)
        self._cursors.add(cursor)
        return cursor

    def execute(self, *args: Any) -> sqlite3.Cursor:
        """Execute at such a cursor; the inherited way may make another one."""
        cursor: sqlite3.Cursor = self.cursor()
        return cursor.execute(*args)

    def close(self) -> None:
        """Close the cursors, then the connection."""
        for cursor in tuple(self._cursors):
            cursor.close()
        super().close()


async def connect(uri: str, *pragmas: str, **options: Any) -> aiosqlite.Connection:
    """Open a connection whose transactions nobody begins but SQLAlchemy.

    Args:
        uri: SQLite's URI of the file.
        pragmas: Set at once.
        options: For the driver.

    Concurrency: any number. Cancellation: what was being opened is closed first.
    """
    opening = asyncio.ensure_future(_connect(uri, pragmas, options))
    return await make_or_discard(opening, abandon=lambda: None, discard=aiosqlite.Connection.close)


async def make_or_discard(
    making: asyncio.Future[R], *, abandon: Callable[[], object], discard: Callable[[R], Awaitable[object]]
) -> R:
    """Return what is being made; a cancelled caller waits until it is made and discarded.

    Args:
        making: Ends soon after ``abandon`` was called.
        abandon: Says that nobody wants it any more.
        discard: Gets rid of what was made all the same.

    Raises:
        asyncio.CancelledError: The caller was cancelled.
    """
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        abandon()
        await asyncio.wait((making,))
        if making.exception() is None:
            await discard(making.result())
        raise


async def _connect(uri: str, pragmas: tuple[str, ...], options: dict[str, Any]) -> aiosqlite.Connection:
    # The driver's own way of beginning transactions knows nothing of SELECT, DDL and savepoints (Python < 3.12).
    options = {"factory": TidyConnection} | options
    connecting = aiosqlite.connect(uri, uri=True, isolation_level=None, **options)
    # A database that was forgotten must not keep the process from ending.
    thread: Any = getattr(connecting, "_thread", connecting)
    thread.daemon = True
    connection = await connecting
    for pragma in pragmas:
        await connection.execute(f"PRAGMA {pragma}")
    return connection
