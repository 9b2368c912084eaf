"""What both SQLite engines do with a connection: groups of writes, reads, scripts, and SQLite's errors in our words.

A statement that fails undoes itself and leaves the group's transaction as it was, so its neighbours never notice.

>>> connection = SqliteConnection(sqlite3.connect(":memory:", isolation_level=None))
>>> def script():
...     yield Operation("bells.create", "CREATE TABLE sandbox_bells (name TEXT PRIMARY KEY)")()
...     yield Operation("bells.ring", "INSERT INTO sandbox_bells VALUES (:name)")(name="ding")
...     return (yield Operation("bells.list", "SELECT name FROM sandbox_bells")())
>>> connection.run(script())
({'name': 'ding'},)
>>> connection.close()
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import (
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreOperationError,
    StoreOutcomeUnknownError,
    StoreUnavailableError,
)
from .operations import Dialect, Operation, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .lane import Unit
    from .operations import Bound, Statement
    from .schema import Script

__all__ = ["SIZE", "Operation", "SqliteConnection", "sqlite3", "translate"]

T = TypeVar("T")

SIZE = Operation(
    "store.size",
    "SELECT sqlite_version() AS version, page_count * page_size AS size FROM pragma_page_count, pragma_page_size",
)
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_OUT_OF_ORDER = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
_COUNTS = {count: Result((), count) for count in (0, 1)}  # made once: there are many of them
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class SqliteConnection:
    """One connection in autocommit mode, and the statements it has met.

    Concurrency: one call at a time, from any thread. Cancellation: nothing here waits on the loop.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._statements: dict[Operation, Statement] = {}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def check(self, operation: Operation) -> None:
        """Have SQLite compile an operation.

        Raises:
            StoreOperationError: It cannot.
        """
        statement = operation.render(Dialect.SQLITE)
        nothing = dict.fromkeys(operation.parameters | operation.supplied)
        try:
            self._connection.execute(f"EXPLAIN {statement.sql}", nothing)
        except sqlite3.Error as error:
            raise StoreOperationError(operation.name, f"SQLite says {error}; mend its SQL") from error
        self._statements[operation] = statement

    def write_group(self, group: Sequence[Unit]) -> None:
        """Carry out a group of units in one transaction, and set the outcome of each."""
        name = group[0].bounds[0].operation.name
        try:
            self._begin(name)
        except StoreError as error:
            for unit in group:
                unit.outcome = type(error)(unit.name, str(error.args[-1]))
            return
        outcomes: list[tuple[Result, ...] | StoreError] = []
        try:
            for unit in group:
                outcome = self._attempt(unit)
                if isinstance(outcome, StoreError) and not self._connection.in_transaction:
                    raise outcome  # SQLite gave up the whole group
                outcomes.append(outcome)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, StoreError) as error:
            self._rollback()
            self._undone(group, error)
        else:
            for unit, outcome in zip(group, outcomes, strict=True):
                unit.outcome = outcome

    def read_group(self, group: Sequence[Unit]) -> None:
        """Carry out reads, and set the outcome of each."""
        for unit in group:
            try:
                unit.outcome = tuple(map(self._execute, unit.bounds))
            except Exception as error:  # noqa: BLE001 - it reaches the caller
                unit.outcome = translate(error, unit.name)

    def run(self, script: Script[T]) -> T:
        """Run a script in a transaction of its own; it may change the tables.

        Raises:
            StoreError: A step failed, or the script gave up; nothing was written.
        """
        name = "store.begin"
        self._begin(name)
        try:
            bound = next(script)
            while True:
                name = bound.operation.name
                bound = script.send(self._execute(bound).rows)
        except StopIteration as end:
            self._connection.execute("COMMIT")
            return end.value  # type: ignore[no-any-return]
        except Exception as error:
            self._rollback()
            failure = translate(error, name)
            raise failure from error
        finally:
            script.close()

    def _begin(self, name: str) -> None:
        try:
            # IMMEDIATE: a transaction that begins by reading cannot wait for the lock when it wants to write.
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            failure = translate(error, name)
            raise failure from error

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _execute(self, bound: Bound) -> Result:
        statement = self._statements.get(bound.operation)
        if statement is None:
            statement = self._statements[bound.operation] = bound.operation.render(Dialect.SQLITE)
        cursor = self._connection.execute(statement.sql, bound.params)
        if not statement.returns_rows:
            return _COUNTS.get(cursor.rowcount) or Result((), cursor.rowcount)
        names = [column[0] for column in cursor.description]
        rows = tuple(dict(zip(names, values, strict=True)) for values in cursor.fetchall())
        return Result(rows, len(rows))

    def _attempt(self, unit: Unit) -> tuple[Result, ...] | StoreError:
        """Carry out one unit within the group's transaction; on failure nothing of it stays."""
        several = len(unit.bounds) > 1
        try:
            if several:
                self._connection.execute("SAVEPOINT unit")
            results = tuple(map(self._execute, unit.bounds))
            if several:
                self._connection.execute("RELEASE unit")
        except Exception as error:  # noqa: BLE001 - it reaches the caller
            if several and self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO unit")
                self._connection.execute("RELEASE unit")
            return translate(error, unit.name)
        return results

    def _undone(self, group: Sequence[Unit], error: sqlite3.Error | StoreError) -> None:
        """Find out whose fault it was that a whole group was undone, by halves, so that nobody else suffers."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
            for unit in group:  # the commit may be in the file all the same
                unit.outcome = StoreOutcomeUnknownError(unit.name, str(error))
        elif len(group) == 1:
            group[0].outcome = error if isinstance(error, StoreError) else translate(error, group[0].name)
        else:
            middle = len(group) // 2
            self.write_group(group[:middle])
            self.write_group(group[middle:])


def translate(error: Exception, operation: str) -> StoreError:
    """Return SQLite's error in our words."""
    if isinstance(error, StoreError):
        return error
    code: Any = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code &= 0xFF
    made: StoreError
    if isinstance(error, sqlite3.IntegrityError):
        made = StoreConflictError(operation, str(error))
    elif code in _BUSY:
        made = StoreBusyError(operation, str(error))
    elif code in _DAMAGED:
        made = StoreUnavailableError(operation, f"{error}, the file is kept as it is: put a backup in its place")
    elif code in _OUT_OF_ORDER:
        made = StoreUnavailableError(operation, str(error))
    else:
        made = StoreOperationError(operation, f"SQLite says {error}; mend its SQL or its parameters")
    made.__cause__ = error
    return made
