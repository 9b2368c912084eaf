"""The store in memory: SQLite in the loop's own thread, each write and each read one uninterrupted step.

In a simulation a crash strikes before such a step or after it, never within: what was submitted and not yet carried out
dies with its caller, what was carried out stays in this object. So open it outside the app, and hand it to every life.

>>> async def main() -> float:
...     engine = InlineEngine(SystemClock())
...     await engine.open()
...     now = await engine.now()
...     await engine.close()
...     return now
>>> asyncio.run(main()) > 0
True
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ...errors import NotStartedError
from ..clock import SystemClock
from .lane import Unit
from .operations import Dialect
from .schema import creating_marker
from .signals import Signals, channels_of
from .sqlite_connection import SIZE, SqliteConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..clock import Clock
    from .operations import Bound, Operation, Result
    from .schema import Script

__all__ = ["InlineEngine", "SystemClock", "asyncio"]

T = TypeVar("T")


class InlineEngine:
    """SQLite's ``:memory:``.

    Concurrency: any number of tasks, of one loop at a time. Cancellation: a caller cancelled before the step leaves
    nothing undone: the step comes all the same, and then the cancellation goes on.

    Attributes:
        label: Its name in the trace of a simulation.
    """

    kind: ClassVar[str] = "memory"
    dialect: ClassVar[Dialect] = Dialect.SQLITE
    size: ClassVar[Operation] = SIZE
    shown = ":memory:"
    label = "store"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._signals = Signals()
        self._connection: SqliteConnection | None = None

    async def open(self) -> None:
        """Begin with an empty database."""
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection = SqliteConnection(connection)
        self._connection.run(creating_marker())

    async def close(self) -> None:
        """Forget everything."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def check(self, operations: Iterable[Operation]) -> None:
        """Refuse operations that SQLite cannot compile.

        Raises:
            StoreOperationError: It cannot.
        """
        for operation in operations:
            self._opened().check(operation)

    async def run(self, script: Callable[[], Script[T]]) -> T:
        """Run a script in one step.

        Raises:
            StoreError: A step of it failed.
        """
        return self._opened().run(script())

    async def write(self, bounds: tuple[Bound, ...]) -> tuple[Result, ...]:
        """Carry out operations in one step.

        Raises:
            StoreError: They failed.
        """
        return await self._soon(self._write, bounds, patient=True)

    async def read(self, bounds: tuple[Bound, ...]) -> tuple[Result, ...]:
        """Carry out a read in one step.

        Raises:
            StoreError: It failed.
        """
        return await self._soon(self._read, bounds, patient=False)

    async def now(self) -> float:
        """Return the time of the clock this engine was given."""
        return self._clock.now().timestamp()

    async def wait_for(self, channel: str, *, since: int, timeout_seconds: float) -> int:
        """Wait until a channel's count is not ``since``, or time is up; return the count."""
        return await self._signals.wait(channel, since=since, timeout_seconds=timeout_seconds)

    async def _soon(
        self, step: Callable[[Unit], None], bounds: tuple[Bound, ...], *, patient: bool
    ) -> tuple[Result, ...]:
        unit = Unit(bounds)
        asyncio.get_running_loop().call_soon(step, unit)
        return await unit.wait(patient=patient)

    def _write(self, unit: Unit) -> None:
        try:
            self._opened(unit.name).write_group((unit,))
        except NotStartedError as error:
            unit.outcome = error
        self._signals.tell(channels_of((unit,)))
        unit.tell()

    def _read(self, unit: Unit) -> None:
        try:
            self._opened(unit.name).read_group((unit,))
        except NotStartedError as error:
            unit.outcome = error
        unit.tell()

    def _opened(self, used_for: str = "this") -> SqliteConnection:
        if self._connection is None:
            raise NotStartedError("the store", used_for)
        return self._connection
