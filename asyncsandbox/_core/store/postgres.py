"""The store on PostgreSQL, for several machines: groups of writes on one connection, reads on another.

A third connection takes writes that a lock holds up, so that nobody else waits for them, and a fourth listens for news;
both are made when they are first needed. Connect to the server itself: a pooler between breaks prepared statements and
LISTEN.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ...errors import NotStartedError, StoreOpenError, StoreOperationError
from .lane import Home, Lane, Unit
from .operations import Bound, Dialect, Operation, Result
from .postgres_calls import Caller
from .postgres_link import Link, driver, translate
from .postgres_listener import Listener
from .postgres_reader import Reader
from .postgres_writer import CREATE_WRITERS, FORGET_WRITERS, Writer, milliseconds
from .schema import MARKER, creating_marker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from ..clock import Clock
    from .engine import StoreSettings
    from .schema import Script

T = TypeVar("T")

_LOCK_SECONDS = 0.1  # longer, and a write is put aside
_SCRIPT_LOCK = 0x53_42_4F_58  # "SBOX", the advisory lock of scripts
_FIND_MARKER = Operation("store.find", f"SELECT 1 AS found WHERE to_regclass('{MARKER}') IS NOT NULL")
_NOW = Operation("store.now", "SELECT :now AS now")


class PostgresEngine:
    """One PostgreSQL database; the first schema of its search path has the tables.

    Concurrency: any number of tasks of the loop that opened it. Cancellation: a write that was submitted is carried
    out, and the caller's cancellation goes on once its outcome is known; reads are abandoned.
    """

    kind: ClassVar[str] = "postgres"
    dialect: ClassVar[Dialect] = Dialect.POSTGRES
    size: ClassVar[Operation] = Operation(
        "store.size",
        "SELECT current_setting('server_version') AS version, "
        "coalesce(sum(pg_total_relation_size(oid)), 0)::bigint AS size FROM pg_class "
        "WHERE relkind = 'r' AND relname LIKE 'sandbox\\_%' AND pg_table_is_visible(oid)",
    )

    def __init__(self, url: str, shown: str, settings: StoreSettings, clock: Clock) -> None:
        driver()
        self.shown = shown
        self._url = url
        self._settings = settings
        self._clock = clock
        self._opened: _Opened | None = None

    async def open(self) -> None:
        """Connect, and make a store of the database where it is none.

        Raises:
            StoreOpenError: The server cannot be reached, does not let us in, or holds no store and is to get none.
        """
        _refuse_simulation()
        opened = _Opened(self._link, self._settings, self._clock)
        await opened.open()
        self._opened = opened
        try:
            await self.run(self._preparing)
        except StoreOperationError as error:
            await self.close()
            remedy = "let its user make tables in the first schema of its search path"
            raise StoreOpenError(self.shown, f"its tables cannot be made ({error.__cause__})", remedy) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Write what was submitted, and disconnect; in a forked child, leave the parent's connections alone."""
        opened = self._opened
        if opened is not None and opened.home.is_here():
            self._opened = None  # not in a child: asyncpg would hang up, and deafen the parent's event loop
            await opened.close()

    async def check(self, operations: Iterable[Operation]) -> None:
        """Refuse operations that PostgreSQL cannot compile.

        Raises:
            StoreError: It cannot.
        """
        caller = self._get("checking operations").caller
        link = self._link()
        try:
            connection = await link.open()
            for operation in operations:
                try:
                    await connection.prepare(caller.statement(operation).numbered)
                except driver().PostgresError as error:
                    failure = translate(error, operation.name)
                    raise failure from error
        finally:
            await link.close()

    async def run(self, script: Callable[[], Script[T]]) -> T:
        """Run a script in a transaction; scripts take turns.

        Raises:
            StoreError: A step of it failed.
        """
        self._get("running a script")
        link = self._link(lock_timeout=str(milliseconds(self._settings.busy_seconds)))
        try:
            connection = await link.open()
            return await _run(connection, script())
        finally:
            await link.close()

    def write(self, bounds: tuple[Bound, ...]) -> Coroutine[Any, Any, tuple[Result, ...]]:
        """Carry out operations together; they are on the server's disk when what this returns has been awaited.

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
        """Return the server's time."""
        (result,) = await self.read((_NOW(),))
        return float(result.rows[0]["now"])

    async def wait_for(self, channel: str, *, since: int, timeout_seconds: float) -> int:
        """Wait until a channel's count is not ``since``, or time is up; return the count."""
        listener = self._get("waiting").listener
        return await listener.wait_for(channel, since=since, timeout_seconds=timeout_seconds)

    def _preparing(self) -> Script[None]:
        if not self._settings.create and not (yield _FIND_MARKER()):
            raise StoreOpenError(
                self.shown, "there is no store", "check the URL (a program that uses a store makes it)"
            )
        yield from creating_marker()
        yield CREATE_WRITERS()
        yield FORGET_WRITERS()

    def _link(self, **settings: str) -> Link:
        return Link(self._url, self.shown, self._clock, **settings)

    def _get(self, used_for: str) -> _Opened:
        if self._opened is None:
            raise NotStartedError("the store", used_for)
        self._opened.home.check(used_for)
        return self._opened


class _Opened:
    """What there is while the database is open."""

    def __init__(self, link: Callable[..., Link], settings: StoreSettings, clock: Clock) -> None:
        self.home = Home()
        self.caller = Caller()
        self.listener = Listener(link(), clock)
        busy, patience = settings.busy_seconds, settings.reconnect_seconds
        self._main = link(lock_timeout=str(milliseconds(min(_LOCK_SECONDS, busy))))
        slow = link(lock_timeout=str(milliseconds(busy)))
        self._slow_writer = Writer(slow, clock, busy_seconds=busy, reconnect_seconds=patience)
        self._slow = Lane(_tasks(self._slow_writer.write_group), limit=1)
        self._writer = Writer(self._main, clock, busy_seconds=busy, reconnect_seconds=patience, aside=self._slow.add)
        self._reader = Reader(link(default_transaction_read_only="on"), clock, patience)
        self.writes = Lane(_tasks(self._writer.write_group), limit=settings.max_pending)
        self.reads = Lane(_tasks(self._reader.read_group), limit=settings.max_pending, patient=False)

    async def open(self) -> None:
        await self._main.open()

    async def close(self) -> None:
        await self.reads.close()
        await self.writes.close()
        await self._slow.close()
        await self._writer.close()
        await self._slow_writer.close()
        await self._reader.close()
        await self.listener.close()


async def _run(connection: Any, script: Script[T]) -> T:
    name = "store.begin"
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _SCRIPT_LOCK)
            rows: list[dict[str, Any]] | None = None
            while True:
                try:
                    bound = next(script) if rows is None else script.send(rows)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                name = bound.operation.name
                statement = bound.operation.render(Dialect.POSTGRES)
                values = [bound.params[parameter] for parameter in statement.names]
                rows = [dict(record) for record in await connection.fetch(statement.sql, *values)]
    except (OSError, driver().PostgresError, driver().InterfaceError) as error:
        failure = translate(error, name)
        raise failure from error
    finally:
        script.close()


def _tasks(write: Callable[[list[Unit]], Any]) -> Callable[[list[Unit]], asyncio.Future[None]]:
    def start(group: list[Unit]) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_task(write(group), name="store:group")

    return start


def _refuse_simulation() -> None:
    escape = getattr(asyncio.get_running_loop(), "escape", None)
    if escape is not None:
        escape("a store on PostgreSQL", "give the app a store in memory or in a file")
