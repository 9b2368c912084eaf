"""SQLite inside a simulation: aiosqlite without its thread, locks that wait in virtual time, and power cuts.

Unmodified aiosqlite and SQLAlchemy code runs; each statement is one step. A connection whose life lost its power is
closed as the operating system would: what it had not committed is gone, its locks are released.

>>> import aiosqlite
>>> from asyncsandbox.testing.loop import SimLoop
>>> from asyncsandbox.testing.world import world
>>> async def main() -> int:
...     async with aiosqlite.connect(":memory:") as db, db.execute("SELECT 6 * 7") as cursor:
...         return (await cursor.fetchone())[0]
>>> loop = SimLoop()
>>> with world(loop):
...     loop.run(main())
42
"""

from __future__ import annotations

import re
import sqlite3
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from sqlite3 import dbapi2
from typing import TYPE_CHECKING, Any

import aiosqlite.core

from .incarnation import current_incarnation

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from .loop import SimLoop
    from .patches import Patches
    from .world import World

__all__ = ["replace_sqlite"]

_DEFAULT_TIMEOUT_SECONDS = 5.0  # sqlite3.connect's
_FIRST_WAIT_SECONDS = 0.001
_LONGEST_WAIT_SECONDS = 0.1
_POSITIONAL = ("detect_types", "isolation_level", "check_same_thread", "factory", "cached_statements", "uri")
_PRAGMA = re.compile(r"\s*PRAGMA\s+(busy_timeout|synchronous)\s*[=(]\s*(\w+)", re.IGNORECASE)


def replace_sqlite(patches: Patches, world: World) -> None:
    """Have aiosqlite run as steps of the loop whose turn it is, and SQLite never block it."""
    connect_really = sqlite3.connect
    start_really = aiosqlite.core.Connection.__init__
    timeouts: weakref.WeakKeyDictionary[sqlite3.Connection, float] = weakref.WeakKeyDictionary()

    def connect(database: Any, timeout: float = _DEFAULT_TIMEOUT_SECONDS, *args: Any, **kwargs: Any) -> Any:
        kwargs.update(zip(_POSITIONAL, args, strict=False))
        if kwargs.get("factory", sqlite3.Connection) is sqlite3.Connection:
            kwargs["factory"] = _Connection
        connection = connect_really(database, timeout=0, **kwargs)
        with suppress(sqlite3.Error):  # whoever uses it will see
            connection.execute("PRAGMA synchronous = OFF")  # a simulated power cut loses nothing the system has
        timeouts[connection] = timeout
        incarnation = current_incarnation()
        if incarnation is not None:
            incarnation.on_cut(partial(_close, weakref.ref(connection)))
        return connection

    def start(self: aiosqlite.core.Connection, *args: Any, **kwargs: Any) -> None:
        start_really(self, *args, **kwargs)
        queue: Any = StatementQueue(world.loop, self, timeouts)
        self._tx = queue
        if hasattr(self, "_thread"):
            self._thread = queue
        else:  # pragma: no cover - aiosqlite before 0.22 is a thread itself
            setattr(self, "start", queue.start)  # noqa: B010 - gone from newer versions
        incarnation = current_incarnation()
        if incarnation is not None:
            incarnation.on_cut(partial(_forget, weakref.ref(self)))

    patches.replace(sqlite3, "connect", connect)
    patches.replace(dbapi2, "connect", connect)
    patches.replace(aiosqlite.core.Connection, "__init__", start)


class _Connection(sqlite3.Connection):
    """A connection that can be referred to weakly, and never waits for the disk."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        governed = _PRAGMA.match(sql) if sql.startswith("PRAGMA") else None
        return super().execute(
            "PRAGMA synchronous = OFF" if governed and governed[1] == "synchronous" else sql, *parameters
        )


class StatementQueue:
    """Stands in for the queue and the thread of one aiosqlite connection: runs each call in a step, in order.

    Attributes:
        label: Its name in the trace.
        daemon: Set by SQLAlchemy on what it takes for a thread.
    """

    __slots__ = ("_connection", "_items", "_loop", "_timeouts", "_waited", "daemon", "label")

    def __init__(
        self,
        loop: SimLoop,
        connection: aiosqlite.core.Connection,
        timeouts: weakref.WeakKeyDictionary[sqlite3.Connection, float],
    ) -> None:
        self._loop = loop
        self._connection = weakref.ref(connection)
        self._timeouts = timeouts
        self._items: deque[tuple[asyncio.Future[Any] | None, Callable[[], Any]]] = deque()
        self._waited = 0.0
        self.daemon = True
        self.label = "sqlite"

    def start(self) -> None:
        """Start no thread."""

    def put_nowait(self, item: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        """Run a call after those before it; at once where the loop is closed and only tidying up is left."""
        if self._loop.is_closed():
            with suppress(sqlite3.Error):
                item[1]()
            return
        self._items.append(item)
        if len(self._items) == 1:
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        future, function = self._items[0]
        outcome: Any = None
        failure: BaseException | None = None
        try:
            outcome = self._govern(function)()
        except sqlite3.OperationalError as error:
            if self._may_wait(error):
                return
            failure = error
        except BaseException as error:  # noqa: BLE001 - it reaches whoever awaits the call
            failure = error
        self._items.popleft()
        self._waited = 0.0
        if self._items:
            self._loop.call_soon(self._step)
        if future is None or future.done():
            return
        if failure is None:
            future.set_result(outcome)
        else:
            future.set_exception(failure)

    def _may_wait(self, error: sqlite3.OperationalError) -> bool:
        """Try again later where another connection holds the lock: SQLite itself would sleep, and stop the world."""
        connection = getattr(self._connection(), "_connection", None)
        limit = self._timeouts.get(connection, 0.0) if connection is not None else 0.0
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or self._waited >= limit:
            return False
        wait = min(_LONGEST_WAIT_SECONDS, max(_FIRST_WAIT_SECONDS, self._waited))
        self._waited += wait
        self._loop.call_later(wait, self._step)
        return True

    def _govern(self, function: Any) -> Any:
        """Rewrite the two settings that would cost real time: waiting for a lock, and for the disk."""
        args: Any = getattr(function, "args", None)
        found = _PRAGMA.match(args[0]) if args and isinstance(args[0], str) else None
        if found is None:
            return function
        if found[1].lower() == "synchronous":
            return partial(function.func, "PRAGMA synchronous = OFF", *args[1:])
        connection = getattr(self._connection(), "_connection", None)
        if connection is not None:  # pragma: no branch - it is kept by whoever awaits this call
            self._timeouts[connection] = int(found[2]) / 1000 if found[2].isdigit() else 0.0
        return partial(function.func, "PRAGMA busy_timeout = 0", *args[1:])


def _close(ref: weakref.ref[sqlite3.Connection]) -> None:
    connection = ref()
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()


def _forget(ref: weakref.ref[aiosqlite.core.Connection]) -> None:
    connection = ref()
    if connection is not None:
        connection._connection = None  # noqa: SLF001 - it must not complain that it was never closed
