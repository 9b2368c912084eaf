"""What a component keeps in the store: its tables, how they came to be, its operations, and how old rows go.

A version is the number of migrations. Each is one step that is never edited once released: a later version adds
another. All steps and the note of the new version are one transaction.

>>> BELLS = Schema(
...     name="bells",
...     tables=("sandbox_bells",),
...     migrations=(
...         Migration("CREATE TABLE sandbox_bells (ns TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (ns, name))"),
...         Migration("ALTER TABLE sandbox_bells ADD COLUMN rung BIGINT NOT NULL DEFAULT 0"),
...     ),
... )
>>> BELLS.version
2
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ...errors import ConfigurationError, StoreVersionError
from .operations import Bound, Dialect, Operation, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T")

Script: TypeAlias = Generator[Bound, "Sequence[Row]", T]
"""Several operations in one transaction, each of which may depend on the rows of those before."""

MARKER = "sandbox_schemas"
NAME = re.compile(r"[a-z_][a-z0-9_]{0,50}")

_CREATE_MARKER = Operation(
    "store.create_marker",
    f"CREATE TABLE IF NOT EXISTS {MARKER} (name TEXT PRIMARY KEY, version BIGINT NOT NULL, tables TEXT NOT NULL)",
)
_LIST = Operation("store.list_schemas", "SELECT name, version, tables FROM sandbox_schemas ORDER BY name")
_NOTE = Operation(
    "store.note_schema",
    "INSERT INTO sandbox_schemas (name, version, tables) VALUES (:name, :version, :tables) "
    "ON CONFLICT (name) DO UPDATE SET version = excluded.version, tables = excluded.tables",
)


class Migration:
    """One step from a version to the next.

    Args:
        statements: SQL in the common subset, one statement each.
        sqlite: Statements for SQLite, where those differ.
        postgres: Statements for PostgreSQL, where those differ.
    """

    __slots__ = ("_own", "_statements")

    def __init__(
        self, *statements: str, sqlite: tuple[str, ...] | None = None, postgres: tuple[str, ...] | None = None
    ) -> None:
        self._statements = statements
        self._own = {Dialect.SQLITE: sqlite, Dialect.POSTGRES: postgres}

    def statements_for(self, dialect: Dialect) -> tuple[str, ...]:
        """Return what an engine of this dialect runs."""
        own = self._own[dialect]
        return self._statements if own is None else own


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """Tables of one component. They carry a prefix of their own, since the database may be shared with an app.

    Attributes:
        name: Unique in the store.
        tables: Names of the tables it has in its newest version.
        migrations: The steps from nothing to the newest version.
        operations: Everything that may be done with the tables; checked against the database when it is attached.
        prune: Deletes at most ``:most`` rows older than ``:before``, seconds since 1970; None keeps rows for ever.

    Raises:
        ConfigurationError: A name is not usable, there is no migration, or ``prune`` takes other parameters.
    """

    name: str
    tables: tuple[str, ...]
    migrations: tuple[Migration, ...]
    operations: tuple[Operation, ...] = ()
    prune: Operation | None = None

    def __post_init__(self) -> None:
        for field, name in (("name", self.name), *(("tables", table) for table in self.tables)):
            if not NAME.fullmatch(name) or name == MARKER:
                raise ConfigurationError(f"Schema.{field}", name, "give a short name in lower case, without dots")
        if not self.migrations:
            raise ConfigurationError("Schema.migrations", self.migrations, "give at least the one that creates tables")
        if self.prune is not None and self.prune.parameters != frozenset({"before", "most"}):
            raise ConfigurationError("Schema.prune", self.prune.name, "let it take :before and :most")

    @property
    def version(self) -> int:
        """The newest version."""
        return len(self.migrations)

    @property
    def all_operations(self) -> tuple[Operation, ...]:
        """The operations, ``prune`` among them."""
        return self.operations if self.prune is None else (*self.operations, self.prune)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaChange:
    """What a migration did.

    Attributes:
        name: Name of the schema.
        before: Version it had, 0 for none.
        after: Version it has.
    """

    name: str
    before: int
    after: int


def reading_versions() -> Script[dict[str, Row]]:
    """Return the schemas a store holds, by name."""
    return {row["name"]: row for row in (yield _LIST())}


def creating_marker() -> Script[None]:
    """Make a store of an empty database."""
    yield _CREATE_MARKER()


def migrating(
    schemas: Iterable[Schema], dialect: Dialect, store: str, *, may_change: bool
) -> Script[tuple[SchemaChange, ...]]:
    """Bring schemas to their newest versions; all of them, or none.

    Args:
        schemas: Which.
        dialect: The engine's.
        store: How messages call the store.
        may_change: Whether to migrate; otherwise an older version is refused.

    Raises:
        StoreVersionError: The store is newer, or older and must not be changed.
    """
    found = yield from reading_versions()
    changes = []
    for schema in schemas:
        before = int(found[schema.name]["version"]) if schema.name in found else 0
        if before > schema.version or (before < schema.version and not may_change):
            raise StoreVersionError(store, schema.name, before, schema.version)
        if before == schema.version:
            continue
        for step, migration in enumerate(schema.migrations[before:], before + 1):
            for statement in migration.statements_for(dialect):
                yield Operation(f"{schema.name}.migration_{step}", statement)()
        yield _NOTE(name=schema.name, version=schema.version, tables=",".join(schema.tables))
        changes.append(SchemaChange(name=schema.name, before=before, after=schema.version))
    return tuple(changes)
