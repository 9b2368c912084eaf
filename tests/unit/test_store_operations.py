"""Operations and schemas: what is found in the SQL, and what is refused where it is declared."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsandbox._core.store import Migration, Operation, Schema
from asyncsandbox._core.store.operations import Dialect, find_parameters, number_parameters
from asyncsandbox.errors import ConfigurationError, StoreOperationError

SQL = """
SELECT 'it''s :not', ":nor", a::text, :first, :second_2, :first -- :neither
/* :nothing
   :here */ FROM t WHERE b = :third AND c < :now
"""


def test_parameters_are_found_where_they_are_and_nowhere_else() -> None:
    assert find_parameters(SQL) == ["first", "second_2", "first", "third", "now"]
    text, names = number_parameters(SQL)
    assert names == ("first", "second_2", "third")
    assert text.count("$1") == 2
    assert "statement_timestamp" in text
    assert all(kept in text for kept in ("'it''s :not'", '":nor"', "a::text", "-- :neither", ":nothing\n"))
    operation = Operation("t.look", SQL)
    assert (operation.parameters, operation.supplied) == ({"first", "second_2", "third"}, {"now"})


PIECES = st.sampled_from(["a", "'x:y'", "::", ":one", ":two", " ", "--:c\n", "/*:d*/", '":e"', "''", "= "])


@given(st.lists(PIECES, max_size=12))
def test_numbering_changes_parameters_only(pieces: list[str]) -> None:
    text = " ".join(pieces)
    numbered, names = number_parameters(text)
    back = re.sub(r"\$(\d+)", lambda number: f":{names[int(number[1]) - 1]}", numbered)
    assert back == text
    assert set(names) == {piece[1:] for piece in pieces if re.fullmatch(r":\w+", piece)}


@pytest.mark.parametrize(
    ("sql", "reads", "gives_rows"),
    [
        ("SELECT 1", True, True),
        ("  -- a comment\n select 1;", True, True),
        ("VALUES (1)", True, True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True, True),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", False, False),
        ("INSERT INTO t VALUES ('RETURNING')", False, False),
        ("INSERT INTO t VALUES (1) RETURNING a", False, True),
        ("UPDATE t SET a = 1", False, False),
        ("-- nothing", False, False),
    ],
)
def test_what_an_operation_does_is_found_in_its_sql(sql: str, reads: bool, gives_rows: bool) -> None:
    operation = Operation("t.it", sql)
    assert operation.reads is reads
    for dialect in Dialect:
        assert operation.render(dialect).returns_rows is gives_rows


def test_each_dialect_may_have_a_text_of_its_own() -> None:
    operation = Operation("t.it", "SELECT :a", postgres="SELECT :a::text, :now;")
    assert operation.text_for(Dialect.SQLITE) == "SELECT :a"
    assert operation.text_for(Dialect.POSTGRES) == "SELECT :a::text, :now"
    assert operation.supplied == {"now"}
    migration = Migration("one", "two", sqlite=("three",))
    assert [migration.statements_for(dialect) for dialect in Dialect] == [("three",), ("one", "two")]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": " "}, "name"),
        ({"sql": ""}, "sql"),
        ({"notify": "Big.Channel"}, "notify"),
        ({"postgres": "SELECT :b"}, "sql"),
    ],
)
def test_a_wrong_operation_is_refused_where_it_is_declared(wrong: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Operation.{field}"):
        Operation(**{"name": "t.it", "sql": "SELECT :a", **wrong})


@pytest.mark.parametrize("params", [{}, {"a": 1, "b": 2}, {"b": 1}, {"a": 1, "now": 2}])
def test_wrong_parameters_are_refused(params: dict[str, int]) -> None:
    with pytest.raises(StoreOperationError, match="it takes a; give these and no others"):
        Operation("t.it", "SELECT :a, :now")(**params)
    with pytest.raises(StoreOperationError, match="no parameters"):
        Operation("t.it", "SELECT 1")(a=1)


CREATE = Migration("CREATE TABLE t (a TEXT)")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "Big"}, "name"),
        ({"tables": ("t; DROP TABLE x",)}, "tables"),
        ({"tables": ("sandbox_schemas",)}, "tables"),
        ({"migrations": ()}, "migrations"),
        ({"prune": Operation("t.prune", "DELETE FROM t WHERE a < :before")}, "prune"),
    ],
)
def test_a_wrong_schema_is_refused_where_it_is_declared(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Schema.{field}"):
        Schema(**{"name": "t", "tables": ("t",), "migrations": (CREATE,), **wrong})
