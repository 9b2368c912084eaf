"""Looks into SQLite without a step of the loop, as promises that are asked at every step must."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from asyncsandbox._core.store import Store

T = TypeVar("T")


class Glass(Generic[T]):
    """What a query gives, in some shape; once the connection is closed, what it gave last.

    The query is only made where something was written since, or a transaction has ended.

    Args:
        seen_by: The connection to look through: a store in memory, through the only one there is.
        query: What to look at.
        shape: Makes of the rows what is wanted.
    """

    def __init__(self, seen_by: sqlite3.Connection | Store, query: str, shape: Callable[[list[Any]], T]) -> None:
        self._is_shared = not isinstance(seen_by, Store)
        self._connection: Any = seen_by if self._is_shared else seen_by._engine._connection._connection
        self._query = query
        self._shape = shape
        self._state: object = None
        self._last = shape([])

    def look(self) -> T:
        """Return what is there."""
        connection = self._connection
        with suppress(sqlite3.Error):
            others = connection.execute("PRAGMA data_version").fetchone() if self._is_shared else None
            state = connection.total_changes, connection.in_transaction, others
            if state != self._state:
                self._last, self._state = self._shape(connection.execute(self._query).fetchall()), state
        return self._last
