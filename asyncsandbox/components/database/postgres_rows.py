"""What a run changed on PostgreSQL, table by table: one connection sees the state after it, another the state before.

No statement sees both, so the server adds up the rows' hashes in a fixed number of groups, and only the rows of those
groups are fetched whose sums differ.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .postgres_link import quote
from .rows import TableChange

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_GROUPS = 4096


@dataclass(frozen=True, slots=True)
class Table:
    """A table as one connection sees it."""

    oid: int
    file: int
    is_partitioned: bool
    columns: tuple[str, ...]
    key: tuple[str, ...]


_TABLES = """
SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END AS shown,
       n.nspname AS schema, c.relname AS name, c.oid, c.relfilenode AS file, c.relkind = 'p' AS is_partitioned,
       array(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
             ORDER BY attname) AS columns,
       array(SELECT a.attname::text FROM pg_index AS i CROSS JOIN unnest(i.indkey::int2[]) AS k (number)
             JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number
             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attname) AS key
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
"""
Name = tuple[str, str, str]
"""How a table is shown, its schema, and its name in there."""


async def find_tables(connection: Any) -> dict[Name, Table]:
    """Return the tables of a database but for the system's; a partitioned one counts as a whole."""
    rows = await connection.fetch(_TABLES)
    return {
        (row["shown"], row["schema"], row["name"]): Table(
            row["oid"], row["file"], row["is_partitioned"], tuple(row["columns"]), tuple(row["key"])
        )
        for row in rows
    }


async def compare(
    new_seen_by: Any, old_seen_by: Any, old: Mapping[Name, Table], *, only: Collection[Name] | None = None
) -> tuple[TableChange, ...]:
    """Compare the rows that one connection sees with those that another one sees.

    Args:
        new_seen_by: Sees the state after the run.
        old_seen_by: Sees the state before it.
        old: The tables of the latter.
        only: The tables to look at; None for all.

    Returns:
        The tables with changed rows, by name.
    """
    new = await find_tables(new_seen_by)
    names = sorted(new.keys() | old.keys() if only is None else only)
    changes: list[TableChange] = []
    for name in names:
        if name not in old:
            changes.append(TableChange(table=name[0], inserted=await count(new_seen_by, name, new[name])))
        elif name not in new:
            changes.append(TableChange(table=name[0], deleted=await count(old_seen_by, name, old[name])))
        else:
            changes.append(await _compare_table(new_seen_by, old_seen_by, name, new[name], old[name]))
    return tuple(change for change in changes if change.inserted or change.updated or change.deleted)


async def count(connection: Any, name: Name, table: Table) -> int:
    """Return how many rows a table has."""
    return int(await connection.fetchval(f"SELECT count(*) FROM {_from(name, table)}"))  # noqa: S608 - quoted


async def _compare_table(new_seen_by: Any, old_seen_by: Any, name: Name, new: Table, old: Table) -> TableChange:
    if new.key != old.key:
        inserted, deleted = await count(new_seen_by, name, new), await count(old_seen_by, name, old)
        return TableChange(table=name[0], inserted=inserted, deleted=deleted)
    # What is missing in one of them counts as NULL there.
    columns = sorted({*new.columns, *old.columns})
    seen = (
        (new_seen_by, _rows(name, new, columns)),
        (old_seen_by, _rows(name, old, columns)),
    )
    sums = [set(map(tuple, await connection.fetch(_GROUPED.format(rows=rows)))) for connection, rows in seen]
    groups = [number for number, _, _ in sums[0] ^ sums[1]]
    after, before = [
        Counter(map(tuple, await connection.fetch(_FETCHED.format(rows=rows), groups))) for connection, rows in seen
    ]
    return _net(name[0], after, before, has_key=bool(new.key))


_GROUPED = "SELECT number, count(*), sum(hash) FROM ({rows}) AS r GROUP BY number"
_FETCHED = "SELECT key, row FROM ({rows}) AS r WHERE number = ANY($1::int[])"


def _net(table: str, after: Counter[Any], before: Counter[Any], *, has_key: bool) -> TableChange:
    if not has_key:  # nothing tells that two rows are one
        return TableChange(table=table, inserted=(after - before).total(), deleted=(before - after).total())
    new, old = dict(after.keys()), dict(before.keys())
    updated = sum(new[key] != old[key] for key in new.keys() & old.keys())
    return TableChange(
        table=table, inserted=len(new.keys() - old.keys()), updated=updated, deleted=len(old.keys() - new.keys())
    )


def _rows(name: Name, table: Table, columns: list[str]) -> str:
    """Return a query for each row's group, key, text and hash."""
    row = ", ".join(quote(column) if column in table.columns else "NULL" for column in columns)
    key = ", ".join(map(quote, table.key)) or row
    inner = f"SELECT ROW({key})::text AS key, ROW({row})::text AS row FROM {_from(name, table)}"  # noqa: S608 - quoted
    return (
        f"SELECT key, row, hashtextextended(row, 0)::numeric AS hash, (hashtext(key) & {_GROUPS - 1}) AS number "  # noqa: S608
        f"FROM ({inner}) AS t"
    )


def _from(name: Name, table: Table) -> str:
    # An inherited table's rows are its own; the parts of a partitioned one are not listed.
    only = "" if table.is_partitioned else "ONLY "
    return f"{only}{quote(name[1])}.{quote(name[2])}"
