"""The store in an SQLite file: one thread that writes in groups, another that reads, nothing acknowledged before fsync.

Several processes may open one file: they take turns by SQLite's lock. A process that was forked after opening must not
use the store, and is told so.

>>> import tempfile
>>> from pathlib import Path
>>> async def main() -> str:
...     engine = SqliteEngine(Path(tempfile.mkdtemp(), "store.sqlite"), "store.sqlite", StoreSettings(), SystemClock())
...     await engine.open()
...     await engine.close()
...     return engine.shown
>>> asyncio.run(main())
'store.sqlite'
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ...errors import NotStartedError
from ..clock import SystemClock
from ..tasks import outlast
from .engine import StoreSettings
from .lane import Home, Lane, Unit
from .operations import Dialect
from .signals import Signals, channels_of
from .sqlite_connection import SIZE, SqliteConnection
from .sqlite_file import open_reader, open_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from pathlib import Path

    from ..clock import Clock
    from .operations import Bound, Operation, Result
    from .schema import Script

__all__ = ["SqliteEngine", "StoreSettings", "SystemClock", "asyncio"]

T = TypeVar("T")


class SqliteEngine:
    """One SQLite file in WAL mode with ``synchronous=FULL``.

    Concurrency: any number of tasks of the loop that opened it. Cancellation: a write that was submitted is carried
    out, and the caller's cancellation goes on once its outcome is known; reads are abandoned.
    """

    kind: ClassVar[str] = "sqlite"
    dialect: ClassVar[Dialect] = Dialect.SQLITE
    size: ClassVar[Operation] = SIZE

    def __init__(self, path: Path, shown: str, settings: StoreSettings, clock: Clock) -> None:
        self.shown = shown
        self._path = path
        self._settings = settings
        self._clock = clock
        self._signals = Signals()
        self._opened: _Opened | None = None

    async def open(self) -> None:
        """Open the file; make a store of it where there is none or an empty one.

        Raises:
            StoreOpenError: It cannot be used; it was left as it is.
            StoreBusyError: Another process holds it locked.
        """
        loop = asyncio.get_running_loop()
        threads = tuple(ThreadPoolExecutor(1, f"asyncsandbox-store-{name}") for name in ("writer", "reader"))
        connecting = loop.run_in_executor(threads[0], self._connect)
        cancellation = await outlast(connecting)
        failed = connecting.exception() is not None
        if failed or cancellation is not None:
            if not failed:
                for connection in connecting.result():
                    connection.close()
            for thread in threads:
                thread.shutdown(wait=False)
        if cancellation is not None:
            raise cancellation
        self._opened = _Opened(threads, connecting.result(), self._settings.max_pending, self._tell)

    async def close(self) -> None:
        """Write what was submitted, and close the file; in a forked child, leave the parent's alone."""
        opened = self._opened
        if opened is not None and opened.home.is_here():
            self._opened = None  # not in a child: SQLite would close the parent's file
            await opened.close()

    async def check(self, operations: Iterable[Operation]) -> None:
        """Refuse operations that SQLite cannot compile.

        Raises:
            StoreOperationError: It cannot.
        """
        writer = self._get("checking operations").writer
        for operation in operations:
            await self._in_writer_thread(writer.check, operation)

    async def run(self, script: Callable[[], Script[T]]) -> T:
        """Run a script between two groups of writes.

        Raises:
            StoreError: A step of it failed.
        """
        writer = self._get("running a script").writer
        return await self._in_writer_thread(lambda: writer.run(script()))

    def write(self, bounds: tuple[Bound, ...]) -> Coroutine[Any, Any, tuple[Result, ...]]:
        """Carry out operations together; they are on the disk when what this returns has been awaited.

        Raises:
            StoreError: They failed.
        """
        return self._get(bounds[0].operation.name).writes.submit(bounds)

    def read(self, bounds: tuple[Bound, ...]) -> Coroutine[Any, Any, tuple[Result, ...]]:
        """Carry out a read, once what this returns is awaited; it sees every acknowledged write.

        Raises:
            StoreError: It failed.
        """
        return self._get(bounds[0].operation.name).reads.submit(bounds)

    async def now(self) -> float:
        """Return the time of the clock this engine was given."""
        return self._clock.now().timestamp()

    async def wait_for(self, channel: str, *, since: int, timeout_seconds: float) -> int:
        """Wait until a channel's count is not ``since``, or time is up; return the count.

        News of other processes does not come here: look again whenever time is up.
        """
        return await self._signals.wait(channel, since=since, timeout_seconds=timeout_seconds)

    def _connect(self) -> tuple[SqliteConnection, SqliteConnection]:
        busy = self._settings.busy_seconds
        writer = open_writer(self._path, shown=self.shown, busy_seconds=busy, create=self._settings.create)
        return SqliteConnection(writer), SqliteConnection(open_reader(self._path, busy_seconds=busy))

    def _get(self, used_for: str) -> _Opened:
        if self._opened is None:
            raise NotStartedError("the store", used_for)
        self._opened.home.check(used_for)
        return self._opened

    async def _in_writer_thread(self, function: Callable[..., T], *args: Any) -> T:
        thread = self._get("this").threads[0]
        job = asyncio.get_running_loop().run_in_executor(thread, partial(function, *args))
        cancellation = await outlast(job)
        if cancellation is not None:
            raise cancellation
        return job.result()

    def _tell(self, group: list[Unit]) -> None:
        self._signals.tell(channels_of(group))


class _Opened:
    """What there is while the file is open."""

    def __init__(
        self,
        threads: tuple[ThreadPoolExecutor, ...],
        connections: tuple[SqliteConnection, SqliteConnection],
        limit: int,
        after: Callable[[list[Unit]], None],
    ) -> None:
        self.home = Home()
        self.threads = threads
        self.writer, self.reader = connections
        run = asyncio.get_running_loop().run_in_executor
        self.writes = Lane(lambda group: run(threads[0], self.writer.write_group, group), limit=limit, after=after)
        self.reads = Lane(lambda group: run(threads[1], self.reader.read_group, group), limit=limit, patient=False)

    async def close(self) -> None:
        await self.reads.close()
        await self.writes.close()
        loop = asyncio.get_running_loop()
        for thread, connection in zip(self.threads[::-1], (self.reader, self.writer), strict=True):
            await outlast(loop.run_in_executor(thread, connection.close))
            # Nothing is left for it to do. Two threads that end at once can hang Python 3.11 while it is being traced.
            thread.shutdown(wait=True)
