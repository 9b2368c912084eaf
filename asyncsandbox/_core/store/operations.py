"""Named operations: SQL as data, so that engines can batch it, send it to a thread, and do it again.

The SQL is the common subset of SQLite and PostgreSQL, with ``:name`` parameters; where the two differ, one of them gets
a text of its own. Columns are BIGINT, DOUBLE PRECISION, TEXT or BYTEA, the four types that mean the same in both.

>>> CLAIM = Operation(
...     "jobs.claim",
...     "UPDATE jobs SET owner = :owner, until = :now + :lease WHERE ns = :ns AND until < :now RETURNING id",
... )
>>> sorted(CLAIM.parameters)  # :ns and :now are filled in by the store
['lease', 'owner']
>>> CLAIM(owner="me", lease=30.0).params
{'owner': 'me', 'lease': 30.0}
>>> CLAIM(owner="me")
Traceback (most recent call last):
    ...
asyncsandbox.errors...StoreOperationError: operation 'jobs.claim' cannot be carried out: it takes lease, owner; ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

from ...errors import ConfigurationError, StoreOperationError
from ..settings import require_name

Value: TypeAlias = "str | int | float | bytes | None"
"""What a parameter can be; True and False are stored as 1 and 0."""

Row: TypeAlias = Mapping[str, Any]
"""One row, by column name."""

SUPPLIED = frozenset({"ns", "now"})
"""Parameters the store fills in: its namespace, and its time in seconds since 1970."""

_PARTS = re.compile(
    r"'(?:[^']|'')*'"  # text
    r'|"(?:[^"]|"")*"'  # a quoted name
    r"|--[^\n]*|/\*.*?\*/"  # comments
    r"|::"  # PostgreSQL's cast
    r"|:(?P<parameter>[A-Za-z_]\w*)",
    re.DOTALL,
)
_FIRST_WORD = re.compile(r"\s*(\w+)")
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE|MERGE)\b", re.IGNORECASE)
_RETURNING = re.compile(r"\bRETURNING\b", re.IGNORECASE)
_POSTGRES_NOW = "extract(epoch FROM statement_timestamp())::double precision"
_INT64 = 2**63


class Dialect(StrEnum):
    """Whose SQL an engine speaks."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


@dataclass(frozen=True, slots=True)
class Result:
    """What a write did.

    Attributes:
        rows: What RETURNING (or SELECT) gave.
        count: How many rows were written (or selected).
    """

    rows: tuple[Row, ...]
    count: int


class Statement(NamedTuple):
    """An operation as one dialect runs it.

    Attributes:
        sql: The text, with the driver's placeholders.
        names: The parameters in the order of the placeholders; those of SQLite go by name.
        returns_rows: Whether it gives rows.
        numbered: The same for many calls at once: takes a number after the parameters, and gives it as the last column
            of each row that it wrote or selected, so that rows find back to their call. PostgreSQL only.
    """

    sql: str
    names: tuple[str, ...]
    returns_rows: bool
    numbered: str


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One thing a component does with its tables. Call it with parameters to get a `Bound`.

    Attributes:
        name: Unique in the store: ``"jobs.claim"``.
        sql: One statement in the common subset.
        sqlite: The text for SQLite, where that differs.
        postgres: The text for PostgreSQL, where that differs.
        notify: Channel that is told when this has been written; see `Store.wait_for`.
        parameters: Names that callers give. Found in the SQL.
        supplied: Which of `SUPPLIED` it mentions. Found in the SQL.
        reads: Whether it changes nothing. Found in the SQL.

    Raises:
        ConfigurationError: Name or SQL is empty, or the texts take different parameters.
    """

    name: str
    sql: str
    sqlite: str | None = field(default=None, kw_only=True)
    postgres: str | None = field(default=None, kw_only=True)
    notify: str | None = field(default=None, kw_only=True)
    parameters: frozenset[str] = field(init=False)
    supplied: frozenset[str] = field(init=False)
    reads: bool = field(init=False)

    def __post_init__(self) -> None:
        require_name("Operation.name", self.name)
        require_name("Operation.sql", self.sql)
        if self.notify is not None and not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", self.notify):
            raise ConfigurationError("Operation.notify", self.notify, "give a short name in lower case, without dots")
        found = [frozenset(find_parameters(text)) for text in (self.sql, self.sqlite, self.postgres) if text]
        for names in found:
            if names - SUPPLIED != found[0] - SUPPLIED:
                odd = ", ".join(sorted((names ^ found[0]) - SUPPLIED))
                raise ConfigurationError(
                    "Operation.sql", self.name, f"use the same parameters in every text, not {odd}"
                )
        object.__setattr__(self, "parameters", found[0] - SUPPLIED)
        object.__setattr__(self, "supplied", frozenset().union(*found) & SUPPLIED)
        object.__setattr__(self, "reads", _is_read(_strip(self.sql)))

    def __call__(self, /, **params: Value) -> Bound:
        """Return this operation with its parameters.

        Raises:
            StoreOperationError: A parameter is missing, unknown, or of a kind that not every engine can store.
        """
        if params.keys() != self.parameters:
            wanted = ", ".join(sorted(self.parameters)) or "no parameters"
            raise StoreOperationError(self.name, f"it takes {wanted}; give these and no others")
        for name, value in params.items():
            if value is None:
                continue
            test = _TESTS.get(type(value))
            if test is None or not test(value):
                params[name] = _plain(self.name, name, value)
        return Bound(self, params)

    def text_for(self, dialect: Dialect) -> str:
        """Return the SQL that an engine of this dialect uses."""
        own = self.sqlite if dialect is Dialect.SQLITE else self.postgres
        return (own or self.sql).strip().rstrip(";").rstrip()

    def render(self, dialect: Dialect) -> Statement:
        """Return the operation as one dialect runs it."""
        text = self.text_for(dialect)
        bare = _strip(text)
        returns_rows = _is_read(bare) or _RETURNING.search(bare) is not None
        if dialect is Dialect.SQLITE:
            return Statement(text, (), returns_rows, "")
        return _render_postgres(text, bare, returns_rows=returns_rows)


class Bound(NamedTuple):
    """An operation with its parameters, ready to be written or read."""

    operation: Operation
    params: Mapping[str, Value]


def find_parameters(text: str) -> list[str]:
    """Return the names of the ``:name`` parameters outside of texts, quoted names and comments, as they come."""
    return [part["parameter"] for part in _PARTS.finditer(text) if part["parameter"]]


def number_parameters(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the text with PostgreSQL's ``$1`` placeholders, and the names they stand for."""
    names: list[str] = []

    def number(part: re.Match[str]) -> str:
        name = part["parameter"]
        if name is None:
            return part[0]
        if name == "now":
            return _POSTGRES_NOW
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _PARTS.sub(number, text), tuple(names)


def fill_in_now(text: str) -> str:
    """Return the text for PostgreSQL with the server's time instead of ``:now``, and all other parameters by name."""
    return _PARTS.sub(lambda part: _POSTGRES_NOW if part["parameter"] == "now" else part[0], text)


def _strip(text: str) -> str:
    """Return the text without what is quoted and without comments."""
    return _PARTS.sub(lambda part: part[0] if part["parameter"] else " ", text)


def _first_word(bare: str) -> str:
    first = _FIRST_WORD.match(bare)
    return first[1].upper() if first else ""


def _is_read(bare: str) -> bool:
    word = _first_word(bare)
    return word in {"SELECT", "VALUES"} or (word == "WITH" and not _WRITES.search(bare))


def _render_postgres(text: str, bare: str, *, returns_rows: bool) -> Statement:
    sql, names = number_parameters(text)
    number = f"${len(names) + 1}::bigint"
    if _first_word(bare) in {"INSERT", "UPDATE", "DELETE"}:  # whose RETURNING comes last
        numbered = f"{sql}\n{',' if returns_rows else 'RETURNING'} {number}"
    else:
        inner = sql if returns_rows else f"{sql}\nRETURNING 1"
        wanted = f"each.*, {number}" if returns_rows else number
        numbered = f"WITH each AS (\n{inner}\n) SELECT {wanted} FROM each"  # noqa: S608 - the operation's own text
    return Statement(sql, names, returns_rows, numbered)


def _is_storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


_TESTS: dict[type, Callable[[Any], bool]] = {
    str: _is_storable,
    int: lambda value: -_INT64 <= value < _INT64,
    float: lambda value: value == value,  # noqa: PLR0124 - false for not-a-number alone
    bytes: lambda value: True,  # noqa: ARG005 - any bytes
    type(None): lambda value: True,  # noqa: ARG005 - NULL
}

_MAKES: dict[type, Callable[[Any], Value]] = {str: str, int: int, float: float, bytes: bytes}


def _plain(operation: str, name: str, value: object) -> Value:
    """Return True as 1 and a StrEnum as its text; refuse what not every engine would store alike.

    Raises:
        StoreOperationError: It is such a value.
    """
    for kind, make in _MAKES.items():
        if isinstance(value, kind) and _TESTS[kind](value):
            return make(value)
    raise StoreOperationError(
        operation,
        f"parameter {name!r} holds a {type(value).__name__} that not every engine can store; give text without NUL "
        f"characters or lone surrogates, a whole number of 64 bits, a float but not NaN, bytes or None",
    )
