"""Where sessions really work: on the source itself, or on a private copy of it.

Each way is an object that hands out seats, compares rows, and leaves nothing behind when it is closed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
import weakref
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from ...errors import ConfigurationError, DatabaseSourceError
from .copying import copy_source, explain
from .owners import delete_orphans, owned_prefix
from .rows import compare
from .seats import Seat, connect, make_or_discard
from .source import refuse_bad_path, uri
from .turns import Turns
from .way import Way

if TYPE_CHECKING:
    import aiosqlite

    from .rows import TableChange
    from .source import Source

SOURCE_SCHEMA = "asyncsandbox_source"
"""Name under which the state before the run is attached for comparing."""


class Direct(Way):
    """The source itself: what is committed is there for good. Base of the other ways."""

    _pragmas: tuple[str, ...] = ()

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        self.turns = Turns(timeout_seconds)
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._seats: set[Seat] = set()

    async def seat(self) -> Seat:
        """Return a new seat."""
        seat = Seat(await self._connect(), self.turns, self._seats.discard)
        self._seats.add(seat)
        return seat

    async def ping(self) -> None:
        """Ask the database for its schema; never waits for a turn."""
        connection = await self._connect()
        try:
            await connection.execute_fetchall("SELECT 1 FROM sqlite_master")
        finally:
            await connection.close()

    async def changes(self) -> tuple[TableChange, ...]:
        """Refuse: there is nothing to compare with.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError("isolation", "none", "row changes need an isolated database: 'clone' or 'rollback'")

    async def close(self) -> None:
        """Close every seat that is still taken."""
        self.turns.close()
        for seat in tuple(self._seats):
            await seat.close()

    async def _connect(self) -> aiosqlite.Connection:
        return await connect(uri(self._path, "mode=rw"), *self._pragmas, timeout=self._timeout_seconds)


class Clone(Direct):
    """A private copy, or a private empty database, in a directory of its own that is deleted in the end."""

    _pragmas = ("synchronous=OFF",)  # what is thrown away need not survive a power cut

    def __init__(self, folder: Path, timeout_seconds: float, *, is_copy: bool) -> None:
        super().__init__(folder / _DATABASE, timeout_seconds)
        # Also where nobody calls close(): when this is collected, or at the end of the process.
        self._delete = weakref.finalize(self, _delete, folder)
        self._before = uri(folder / _BEFORE, "mode=ro") if is_copy else ":memory:"

    async def changes(self) -> tuple[TableChange, ...]:
        """Compare what is committed with what was copied."""
        connection = await self._connect()
        try:
            await connection.execute(f"ATTACH ? AS {SOURCE_SCHEMA}", (self._before,))
            await connection.execute("BEGIN")
            return await compare(connection, SOURCE_SCHEMA)
        finally:
            await connection.close()

    async def close(self) -> None:
        """Close every seat and delete the directory."""
        try:
            await super().close()
        finally:
            await asyncio.to_thread(self._delete)


async def open_sqlite(source: Source, isolation: str, timeout_seconds: float) -> Direct:
    """Open a source as the isolation demands."""
    from .outer import open_outer  # it builds on this module

    match isolation, source.path:
        case "none", path if path is not None:
            return await open_direct(source, path, timeout_seconds)
        case "rollback", path if path is not None:
            return await open_outer(source, path, timeout_seconds)
        case _:
            return await open_clone(source, timeout_seconds)


async def open_direct(source: Source, path: Path, timeout_seconds: float) -> Direct:
    """Open the source itself; never creates it.

    Raises:
        DatabaseSourceError: It cannot be used.
    """
    await asyncio.to_thread(_try_out, source, path, timeout_seconds)
    return Direct(path, timeout_seconds)


async def open_clone(source: Source, timeout_seconds: float) -> Clone:
    """Copy the source as it is now, or make an empty database where there is none.

    Raises:
        DatabaseSourceError: The source cannot be copied.

    Concurrency: any number. Cancellation: the copying stops and what there is of the copy is deleted.
    """
    abandoned = Event()
    making = asyncio.ensure_future(asyncio.to_thread(_make_folder, source, timeout_seconds, abandoned))
    folder = await make_or_discard(
        making, abandon=abandoned.set, discard=lambda folder: asyncio.to_thread(_delete, folder)
    )
    return Clone(folder, timeout_seconds, is_copy=source.path is not None)


_DATABASE, _BEFORE = "database.sqlite", "source.sqlite"
_RAM_DIRECTORY = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
_RAM_RESERVE = 1 << 30
_COPIES = 4  # the copy, the state to compare with, and as much again for what the run writes


def _try_out(source: Source, path: Path, timeout_seconds: float) -> None:
    refuse_bad_path(source, path)
    try:
        with closing(sqlite3.connect(uri(path, "mode=rw"), uri=True, timeout=timeout_seconds)) as connection:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise DatabaseSourceError(source.shown, *explain(error, timeout_seconds)) from error


def _make_folder(source: Source, timeout_seconds: float, abandoned: Event) -> Path:
    if source.path is not None:
        refuse_bad_path(source, source.path)
    delete_orphans({_RAM_DIRECTORY, Path(tempfile.gettempdir())})
    folder = Path(tempfile.mkdtemp(prefix=owned_prefix(), dir=_choose_directory(source.path)))
    try:
        database, before = folder / _DATABASE, folder / _BEFORE
        if source.path is not None:
            copy_source(source, source.path, before, timeout_seconds=timeout_seconds, abandoned=abandoned)
            shutil.copyfile(before, database)
        with closing(sqlite3.connect(database)) as connection:
            # Readers go on while one writes.
            connection.execute("PRAGMA journal_mode=WAL")
    except BaseException:
        _delete(folder)
        raise
    return folder


def _delete(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _choose_directory(path: Path | None) -> Path | None:
    """Return a directory in memory, if there is one with room to spare, else None for the usual temporary one."""
    size = path.stat().st_size if path else 0
    if not os.access(_RAM_DIRECTORY, os.W_OK):
        return None
    is_roomy = shutil.disk_usage(_RAM_DIRECTORY).free >= _RAM_RESERVE + _COPIES * size
    return _RAM_DIRECTORY if is_roomy else None
