"""What is in a store, for people: ``asyncsandbox store info URL``.

>>> table = TableInfo(name="sandbox_jobs", rows=3)
>>> SchemaInfo(name="jobs", version=1, tables=(table,)).rows
3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .operations import Operation
from .schema import NAME, reading_versions

if TYPE_CHECKING:
    from .schema import Script


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInfo:
    """One table.

    Attributes:
        name: Its name.
        rows: How many rows it has, those of every namespace.
    """

    name: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaInfo:
    """One schema.

    Attributes:
        name: Its name.
        version: The version it is in.
        tables: Its tables.
    """

    name: str
    version: int
    tables: tuple[TableInfo, ...]

    @property
    def rows(self) -> int:
        """How many rows all its tables have."""
        return sum(table.rows for table in self.tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreInfo:
    """A whole store; JSON-able by `dataclasses.asdict`.

    Attributes:
        engine: ``"memory"``, ``"sqlite"`` or ``"postgres"``.
        version: Of SQLite, or of the PostgreSQL server.
        location: Path or URL, without a password.
        schemas: What it holds, by name, whether attached or not.
        size_bytes: What it takes on disk, or in memory.
    """

    engine: str
    version: str
    location: str
    schemas: tuple[SchemaInfo, ...]
    size_bytes: int


def describing(size: Operation) -> Script[tuple[tuple[SchemaInfo, ...], str, int]]:
    """Return the schemas, the version of the database and its size.

    Args:
        size: Gives ``version`` and ``size``; PostgreSQL's counts the tables that begin with ``sandbox_``.
    """
    schemas = []
    for name, row in (yield from reading_versions()).items():
        tables = [table for table in row["tables"].split(",") if NAME.fullmatch(table)]
        counted = []
        for table in tables:
            (found,) = yield Operation(f"store.count_{table}", f"SELECT count(*) AS n FROM {table}")()  # noqa: S608 - the names were checked
            counted.append(TableInfo(name=table, rows=found["n"]))
        schemas.append(SchemaInfo(name=name, version=row["version"], tables=tuple(counted)))
    (said,) = yield size()
    return tuple(schemas), str(said["version"]), int(said["size"])
