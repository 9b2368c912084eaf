"""The durable memory of a sandbox: named operations on SQLite in memory, an SQLite file, or PostgreSQL.

It promises that a write which returned is durable (but for ``:memory:``), that reads see it, that operations written
together happen together or not at all, and that one write's failure harms no other.

>>> BELLS = Schema(
...     name="bells",
...     tables=("sandbox_bells",),
...     migrations=(
...         Migration("CREATE TABLE sandbox_bells (ns TEXT, name TEXT, rung DOUBLE PRECISION, PRIMARY KEY (ns, name))"),
...     ),
...     operations=(
...         RING := Operation("bells.ring", "INSERT INTO sandbox_bells VALUES (:ns, :name, :now)"),
...         LIST := Operation("bells.list", "SELECT name FROM sandbox_bells WHERE ns = :ns ORDER BY name"),
...     ),
... )
>>> async def main() -> list[str]:
...     async with open_store(":memory:") as store:
...         await store.attach(BELLS)
...         await store.write(RING, name="ding")
...         await store.write_all(RING(name="dang"), RING(name="dong"))
...         return [row["name"] for row in await store.read(LIST)]
>>> asyncio.run(main())
['dang', 'ding', 'dong']
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from ...errors import StoreOperationError
from ..clock import SystemClock
from ..settings import require_name, require_number
from .engine import Engine, StoreSettings
from .info import SchemaInfo, StoreInfo, TableInfo, describing
from .location import parse_location
from .operations import Bound, Dialect, Operation, Result, Row, Value
from .schema import Migration, Schema, SchemaChange, migrating

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable
    from types import TracebackType

    from ..clock import Clock

__all__ = [
    "Bound",
    "Dialect",
    "Migration",
    "Operation",
    "Result",
    "Row",
    "Schema",
    "SchemaChange",
    "SchemaInfo",
    "Store",
    "StoreInfo",
    "StoreSettings",
    "TableInfo",
    "Value",
    "asyncio",
    "open_store",
]

_PRUNE_AT_ONCE = 1_000


def open_store(
    url_or_path: str | os.PathLike[str],
    *,
    namespace: str = "default",
    settings: StoreSettings | None = None,
    clock: Clock | None = None,
) -> Store:
    """Return a store, to be opened with ``async with``; touches nothing yet.

    Args:
        url_or_path: Path of an SQLite file, ``sqlite:///path``, ``postgresql://...``, or ``:memory:``.
        namespace: What ``:ns`` stands for; keeps the rows of different sandboxes apart.
        settings: How patient it is, and how much it takes.
        clock: Time, but for PostgreSQL, which has its own.

    Raises:
        ConfigurationError: The place is neither path nor URL, or the namespace is empty.
        StoreOpenError: The driver of PostgreSQL is not installed.
    """
    place = parse_location(url_or_path)
    settings = settings or StoreSettings()
    clock = clock or SystemClock()
    engine: Engine
    if place.url is not None:
        from .postgres import PostgresEngine

        engine = PostgresEngine(place.url, place.shown, settings, clock)
    elif place.path is not None:
        from .sqlite import SqliteEngine

        engine = SqliteEngine(place.path, place.shown, settings, clock)
    else:
        from .inline import InlineEngine

        engine = InlineEngine(clock)
    return Store(engine, namespace=namespace, settings=settings, clock=clock)


class Store:
    """Named operations on one database, within one namespace. `open_store` makes them.

    A write that returned is durable. A write is cut off by nothing: whoever is cancelled while waiting for it gets the
    cancellation once its outcome is known, at the latest after ``busy_seconds`` or ``reconnect_seconds``. A store with
    ``max_pending`` writes under way lets callers wait for room; cancelled there, nothing was written.

    Concurrency: any number of tasks of the loop it was opened on. Cancellation: as above; reads end at once.

    Args:
        engine: The database.
        namespace: What ``:ns`` stands for.
        settings: Of the store.
        clock: What ``:now`` stands for where the database has no time of its own.
    """

    def __init__(self, engine: Engine, *, namespace: str, settings: StoreSettings, clock: Clock) -> None:
        require_name("namespace", namespace)
        self.namespace = namespace
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._schemas: dict[str, Schema] = {}
        self._operations: set[Operation] = set()

    def __repr__(self) -> str:
        return f"<Store {self.location} namespace={self.namespace!r}>"

    @property
    def location(self) -> str:
        """Path or URL, without a password."""
        return self._engine.shown

    @property
    def place(self) -> Hashable:
        """What its rows are in: equal for stores of this process that share them."""
        return self.location if self.is_durable else id(self._engine), self.namespace

    @property
    def is_durable(self) -> bool:
        """Whether it outlives the process."""
        return self._engine.kind != "memory"

    @property
    def dialect(self) -> Dialect:
        """Whose SQL it speaks."""
        return self._engine.dialect

    def within(self, namespace: str) -> Store:
        """Return this store for another namespace: the same database, connections and schemas.

        Raises:
            ConfigurationError: The namespace is empty.
        """
        other = Store(self._engine, namespace=namespace, settings=self._settings, clock=self._clock)
        other._schemas, other._operations = self._schemas, self._operations
        return other

    async def open(self) -> None:
        """Open the database; use ``async with`` instead.

        Raises:
            StoreOpenError: It cannot be used; it was left as it is.
            StoreBusyError: Another process holds it locked.
        """
        await self._engine.open()

    async def close(self) -> None:
        """Write what was submitted, and close the database. Does nothing where it is closed."""
        await self._engine.close()

    async def attach(self, *schemas: Schema) -> None:
        """Make tables and operations of components usable: migrate what is older, compile each operation once.

        Raises:
            StoreVersionError: The store is newer than the program, or must be migrated by hand.
            StoreOperationError: The database cannot compile an operation.
        """
        await self._migrate(schemas, may_change=self._settings.auto_migrate)
        declared = [operation for schema in schemas for operation in schema.all_operations]
        operations = [operation for operation in declared if operation not in self._operations]
        await self._engine.check(operations)
        self._operations.update(operations)
        self._schemas.update((schema.name, schema) for schema in schemas)

    async def migrate(self, *schemas: Schema) -> tuple[SchemaChange, ...]:
        """Bring schemas to their newest versions, all of them or none, whatever the settings say.

        Returns:
            What was changed.

        Raises:
            StoreVersionError: The store is newer than the program.
        """
        return await self._migrate(schemas, may_change=True)

    async def write(self, operation: Operation, /, **params: Value) -> Result:
        """Carry out one operation.

        Returns:
            Its rows, where it says RETURNING, and how many there were.

        Raises:
            StoreError: It was not carried out; `StoreOutcomeUnknownError` where that is not known.
            NotStartedError: The store is not open.
        """
        (result,) = await self._engine.write((self._fill_in(operation(**params)),))
        return result

    async def write_all(self, *bounds: Bound) -> tuple[Result, ...]:
        """Carry out several operations, in this order, together or not at all.

        Returns:
            The result of each.

        Raises:
            StoreError: None of them was carried out; `StoreOutcomeUnknownError` where that is not known.
            NotStartedError: The store is not open.
        """
        return await self._engine.write(tuple(map(self._fill_in, bounds))) if bounds else ()

    async def read(self, operation: Operation, /, **params: Value) -> tuple[Row, ...]:
        """Return the rows of an operation that changes nothing.

        Raises:
            StoreOperationError: It would change something, or is wrong in itself.
            StoreError: It failed.
            NotStartedError: The store is not open.
        """
        if not operation.reads:
            raise StoreOperationError(operation.name, "it writes; use store.write for it")
        (result,) = await self._engine.read((self._fill_in(operation(**params)),))
        return result.rows

    async def now(self) -> float:
        """Return the store's time, the same that ``:now`` stands for: seconds since 1970.

        On PostgreSQL it is the server's, so that several machines agree.
        """
        return await self._engine.now()

    async def wait_for(self, channel: str, *, since: int = 0, timeout_seconds: float) -> int:
        """Wait until something was written that notifies a channel, or time is up.

        Call it again with what it returned, after having looked: then nothing that comes in between is missed. News may
        fail to come from other processes, so always look when time is up as well.

        Args:
            channel: As in `Operation.notify`.
            since: What the call before returned.
            timeout_seconds: How long to wait at most (> 0).

        Returns:
            A number that differs from ``since`` if there is news.
        """
        require_number("wait_for: timeout_seconds", timeout_seconds, above=0)
        return await self._engine.wait_for(channel, since=since, timeout_seconds=timeout_seconds)

    async def info(self) -> StoreInfo:
        """Return what the store holds; counts every row, so it takes a while on large ones."""
        engine = self._engine
        schemas, version, size = await engine.run(lambda: describing(engine.size))
        return StoreInfo(engine=engine.kind, version=version, location=self.location, schemas=schemas, size_bytes=size)

    async def prune(self, *, older_than_seconds: float) -> dict[str, int]:
        """Delete old rows of this namespace, as each attached schema says, a thousand at a time.

        Returns:
            How many rows went, by schema.

        Raises:
            StoreError: It failed; what was deleted so far stays deleted.
        """
        require_number("prune: older_than_seconds", older_than_seconds, at_least=0)
        before = await self.now() - older_than_seconds
        gone = {}
        for schema in self._schemas.values():
            if schema.prune is None:
                continue
            gone[schema.name] = 0
            while count := (await self.write(schema.prune, before=before, most=_PRUNE_AT_ONCE)).count:
                gone[schema.name] += count
        return gone

    async def _migrate(self, schemas: tuple[Schema, ...], *, may_change: bool) -> tuple[SchemaChange, ...]:
        dialect, shown = self._engine.dialect, self.location
        return await self._engine.run(lambda: migrating(schemas, dialect, shown, may_change=may_change))

    def _fill_in(self, bound: Bound) -> Bound:
        operation = bound.operation
        if operation not in self._operations:
            raise StoreOperationError(operation.name, "it was not declared; attach the schema that lists it first")
        if not operation.supplied:
            return bound
        params = dict(bound.params)
        if "ns" in operation.supplied:
            params["ns"] = self.namespace
        if "now" in operation.supplied:
            params["now"] = self._clock.now().timestamp()
        return Bound(operation, params)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
