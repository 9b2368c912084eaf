"""What a run changed, table by table: the isolated database against the state it began with.

The count is net: a row that was inserted and deleted again is not there, a row updated twice counts once. A row is
known by its primary key, or by its rowid where the table has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import aiosqlite


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChange:
    """What a run changed in one table, net.

    Attributes:
        table: Name of the table.
        inserted: Rows that were not there before; all rows of a new table.
        updated: Rows of the same primary key with another value in some column. A column that was added or
            dropped counts as NULL where it is missing.
        deleted: Rows that are gone; all rows of a dropped table.
    """

    table: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


async def compare(connection: aiosqlite.Connection, before: str) -> tuple[TableChange, ...]:
    """Compare schema ``main`` with the attached schema ``before``.

    Returns:
        The tables with changed rows, by name. Views, SQLite's own tables and the inner tables of virtual ones are
        left out.
    """
    new, old = await _tables(connection, "main"), await _tables(connection, before)
    changes: list[TableChange] = []
    for name in sorted(new | old):
        if name not in old:
            change = TableChange(table=name, inserted=await _count(connection, "main", name))
        elif name not in new:
            change = TableChange(table=name, deleted=await _count(connection, before, name))
        else:
            change = await _compare_table(connection, before, name)
        changes.append(change)
    return tuple(change for change in changes if change.inserted or change.updated or change.deleted)


@dataclass(frozen=True, slots=True)
class _Columns:
    names: tuple[str, ...]
    key: tuple[str, ...]


async def _compare_table(connection: aiosqlite.Connection, before: str, table: str) -> TableChange:
    new, old = await _columns(connection, "main", table), await _columns(connection, before, table)
    new_total = await _count(connection, "main", table)
    old_total = await _count(connection, before, table)
    if new.key != old.key:
        return TableChange(table=table, inserted=new_total, deleted=old_total)
    n_table, o_table = f"main.{_quote(table)} AS n", f"{_quote(before)}.{_quote(table)} AS o"
    # IS, unlike =, holds for NULL, which SQLite lets into primary keys. COLLATE BINARY: 'a' and 'A' are two values.
    is_same_key = _all(f"o.{_quote(name)} IS n.{_quote(name)}" for name in new.key)
    both = [name for name in new.names if name in old.names]
    is_same_row = _all(
        [
            is_same_key,
            *(f"n.{_quote(name)} IS o.{_quote(name)} COLLATE BINARY" for name in both),
            *(f"n.{_quote(name)} IS NULL" for name in new.names if name not in old.names),
            *(f"o.{_quote(name)} IS NULL" for name in old.names if name not in new.names),
        ]
    )
    count, exists = "SELECT count(*) FROM", "WHERE EXISTS (SELECT 1 FROM"
    kept = await _number(connection, f"{count} {n_table} {exists} {o_table} WHERE {is_same_key})")
    left = await _number(connection, f"{count} {o_table} {exists} {n_table} WHERE {is_same_key})")
    same = await _number(connection, f"{count} {n_table} {exists} {o_table} WHERE {is_same_row})")
    return TableChange(table=table, inserted=new_total - kept, updated=kept - same, deleted=old_total - left)


async def _tables(connection: aiosqlite.Connection, schema: str) -> set[str]:
    rows = await connection.execute_fetchall(
        "SELECT name FROM pragma_table_list WHERE schema = ? AND type IN ('table', 'virtual')"
        " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        (schema,),
    )
    return {name for (name,) in rows}


async def _columns(connection: aiosqlite.Connection, schema: str, table: str) -> _Columns:
    rows = tuple(
        await connection.execute_fetchall("SELECT name, pk FROM pragma_table_info(?, ?) ORDER BY pk", (table, schema))
    )
    names = tuple(sorted(name for name, _ in rows))
    key = tuple(name for name, pk in rows if pk)
    taken = {name.lower() for name in names}
    rowid = next((alias for alias in ("rowid", "_rowid_", "oid") if alias not in taken), None)
    return _Columns(names, key or ((rowid,) if rowid else names))


async def _count(connection: aiosqlite.Connection, schema: str, table: str) -> int:
    return await _number(connection, f"SELECT count(*) FROM {_quote(schema)}.{_quote(table)}")  # noqa: S608 - quoted


async def _number(connection: aiosqlite.Connection, query: str) -> int:
    ((number,),) = await connection.execute_fetchall(query)
    return int(number)


def _all(conditions: Iterable[str]) -> str:
    return " AND ".join(conditions)


def _quote(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
