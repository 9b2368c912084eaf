"""The canonical form: equal exactly when the values are, the same in every process, and with no secret in it."""

import dataclasses
import enum
import json
import os
import subprocess
import sys
from collections import UserDict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import must_catch
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asyncsandbox._core.codec import Canonical, digest, show, show_value
from asyncsandbox._core.tokens import Opaque, Token
from asyncsandbox.errors import ConfigurationError


class Color(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Day(date):
    pass


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object = 0


@dataclasses.dataclass(frozen=True)
class Vector:
    x: object
    y: object = 0


@attrs.frozen
class Pair:
    x: object


class Struct(msgspec.Struct, frozen=True):
    x: object


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    x: Any = None


class Named(NamedTuple):
    x: object


def encode(value: object, **options: Any) -> Any:
    return Canonical("card.charge", **options).encode({"v": value})["v"]


# ------------------------------------------------------------------ equal iff equal

ATOMS_LISTED = (
    *(None, True, False, 0, 1, -1, 2**63, -(2**63), 2**64, 0.0, -0.0, 1.0, 1.5, float("inf"), float("nan")),
    *("", "1", "none", "true", "$decimal", "é", "\u27e6x[1]\u27e7", "\ud800", "\udfff", "'\\ud800'"),
    *(Decimal(1), Decimal("1.0"), Decimal("NaN"), b"", b"1", bytearray(b"1"), Color.RED, Size.ONE),
    *(date(2026, 1, 1), Day(2026, 1, 1), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),  # noqa: DTZ001
    *(time(1), time(1, tzinfo=UTC), timedelta(1), timedelta(days=999_999_999), UUID(int=1)),
    *(timedelta(days=999_999_999, microseconds=1), PurePosixPath("a/b"), PureWindowsPath("a\\b")),
    *(Text("1"), Number(1), Token("x[1]"), Opaque("x[2]")),
)
# By number, because Hypothesis hashes and compares what it samples from.
ATOMS = st.integers(0, len(ATOMS_LISTED) - 1).map(lambda number: ATOMS_LISTED[number])
KEYS = st.sampled_from(["x", "1", "$decimal", "$type", "$dict", "\ud800", 1, 1.5, None, b"x", (1, 2)])
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(KEYS, inner, max_size=2),
        st.builds(Point, inner),
        st.builds(Vector, inner),
        st.builds(Pair, inner),
        st.builds(Struct, inner),
        st.builds(Named, inner),
        st.builds(lambda item: Model(x=item), inner),
        st.sets(st.sampled_from([1, "1", Decimal(1), None, b"1"]), max_size=3),
    ),
    max_leaves=4,
)


def spell(value: object) -> object:  # noqa: C901, PLR0911, PLR0912 - an oracle written case by case
    """Spell out type and text of a value, independently of the codec."""
    if isinstance(value, Token | Opaque):
        return ("after", value.asyncsandbox_label)
    if isinstance(value, enum.Enum):
        return ("enum", type(value).__name__, value.name)
    if value is None or isinstance(value, bool | float | Decimal | timedelta | UUID | time):
        return (type(value).__name__, repr(value))
    if isinstance(value, datetime):
        return ("datetime", repr(value))
    if isinstance(value, date):
        return ("date", value.toordinal())
    if isinstance(value, PurePosixPath | PureWindowsPath):
        return ("path", value.as_posix())
    if isinstance(value, bytes | bytearray):
        return ("bytes", bytes(value))
    if isinstance(value, str):
        return ("str", "".join(value))
    if isinstance(value, int):
        return ("int", int(value))
    if isinstance(value, Point | Vector):
        return (type(value).__name__, spell(value.x), spell(value.y))
    if isinstance(value, Pair | Struct | Named | Model):
        return (type(value).__name__, spell(value.x))
    if isinstance(value, dict):
        return ("dict", frozenset((spell(key), spell(item)) for key, item in value.items()))
    if isinstance(value, set):
        return ("set", frozenset(map(spell, value)))
    assert isinstance(value, list | tuple)
    return ("list", tuple(map(spell, value)))


def check_equal_iff_equal(pair: tuple[object, object], canonical: type[Canonical] = Canonical) -> None:
    first, second = (canonical("card.charge").encode({"v": value}) for value in pair)
    assert (digest(first) == digest(second)) == (spell(pair[0]) == spell(pair[1]))


SMALL = st.dictionaries(KEYS, st.just("1"), min_size=1, max_size=1)
CLOSE = st.sampled_from(["1", 1, 1.0, True, Decimal(1), Decimal("1.0"), b"1", Point("1"), Vector("1")])
PAIRS = st.one_of(
    st.tuples(VALUES, VALUES),
    VALUES.map(lambda value: (value, value)),
    st.tuples(ATOMS, ATOMS),
    st.tuples(SMALL, SMALL),
    st.tuples(CLOSE, CLOSE),
)


@settings(max_examples=500)
@given(PAIRS)
def test_canonical_forms_are_equal_exactly_when_type_and_text_are(pair: tuple[object, object]) -> None:
    check_equal_iff_equal(pair)


class Loose(Canonical):
    """A broken variant: numbers are compared as text."""

    __slots__ = ()

    def _value(self, value: object, path: str, depth: int) -> object:
        return str(value) if type(value) in (int, float) else super()._value(value, path, depth)


class Ambiguous(Canonical):
    """A broken variant: a dictionary may look like one of our marks."""

    __slots__ = ()

    def _mapping(self, value: Any, path: str, depth: int) -> object:
        return {f"{key}".strip("\ud800"): self._field(str(key), item, path, depth) for key, item in value.items()}


class Untyped(Canonical):
    """A broken variant: objects are compared by their fields alone."""

    __slots__ = ()

    def _compound(self, value: object, path: str, depth: int) -> object:
        encoded = super()._compound(value, path, depth)
        if isinstance(encoded, dict):
            encoded.pop("$type", None)
        return encoded


@pytest.mark.parametrize("broken", [Loose, Ambiguous, Untyped])
def test_the_property_catches_a_broken_form(broken: type[Canonical]) -> None:
    must_catch(lambda pair: check_equal_iff_equal(pair, broken), PAIRS, examples=1500)


@given(VALUES)
def test_the_form_can_be_written_and_shown(value: object) -> None:
    tree = Canonical("card.charge").encode({"v": value})
    assert msgspec.json.decode(msgspec.json.encode(tree)) == tree or "nan" in repr(tree)
    assert isinstance(show(tree), str)
    json.dumps(tree)


PROGRAM = """
import datetime, decimal
from asyncsandbox._core.codec import Canonical, digest
value = {"b": {"x", "y", "z", 1, None}, "a": frozenset("qwertz")}
value["c"] = {("k", 1): [decimal.Decimal("1.50"), datetime.date(2026, 1, 1)]}
print(digest(Canonical("a").encode({"v": value})))
"""


def test_the_digest_is_the_same_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(digests) == 1


# ------------------------------------------------------------------ secrets

CANARY = "4242-canary-4242"


@attrs.define
class Card:
    card_token: object
    owner: str = "ada"


class Row(DeclarativeBase):
    pass


class Customer(Row):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)

    def __repr__(self) -> str:
        return f"Customer({CANARY})"


def holders(secret: object) -> list[object]:
    return [
        {"card_token": secret},
        [{"deep": [{"card_token": secret}]}],
        Card(secret),
        {1: Card([secret])},
        MappingProxyType({"card_token": {"x": secret}}),
        Model(card_token=secret),
        {b"card_token": secret},
        {"$x": 1, "card_token": secret},
    ]


@pytest.mark.parametrize("number", range(len(holders(""))))
@pytest.mark.parametrize("secret", [None, b"0123456789abcdef"], ids=["no key", "key"])
def test_a_masked_value_is_nowhere_in_the_output(number: int, secret: bytes | None) -> None:
    encoder = Canonical("card.charge", frozenset({"card_token"}), secret)
    tree = encoder.encode({"v": holders(CANARY)[number], "card_token": CANARY})
    assert CANARY not in repr(tree)
    assert CANARY not in show(tree)
    assert "******" in show(tree)
    assert encoder.unmatched == (secret is None)
    other = Canonical("card.charge", frozenset({"card_token"}), secret).encode(
        {"v": holders("other")[number], "card_token": CANARY}
    )
    assert (digest(tree) == digest(other)) == (secret is None)


def test_a_masked_digest_depends_on_the_key() -> None:
    trees = [Canonical("a", frozenset({"t"}), key).encode({"t": CANARY}) for key in (b"1" * 16, b"2" * 16)]
    assert trees[0] != trees[1]


def test_a_reference_in_a_masked_value_is_still_found() -> None:
    encoder = Canonical("a", frozenset({"t"}), b"1" * 16)
    encoder.encode({"t": ["Bearer " + Token("x[1]")]})
    assert encoder.references == ["x[1]"]


def test_an_error_shows_no_value() -> None:
    for options in ({}, {"redact": frozenset({"v"}), "secret": b"1" * 16}):
        with pytest.raises(ConfigurationError) as caught:
            encode(Customer(id=1), **options)
        assert CANARY not in str(caught.value)
        assert CANARY not in repr(caught.value)


# ------------------------------------------------------------------ what is refused


class Plain:
    pass


def cycle() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"deeper": value}
    return value


@pytest.mark.parametrize(
    "make",
    [Plain, lambda: Customer(id=1), cycle, lambda: nested(40), lambda: len, lambda: Plain, lambda: (n for n in "a"),
     lambda: 1j, lambda: range(3), lambda: Point, lambda: memoryview(b"a"), lambda: ValueError("x")],
    ids=["object", "ORM row", "cycle", "deep", "function", "class", "generator", "complex", "range", "dataclass type",
         "memoryview", "exception"],
)  # fmt: skip
def test_what_says_nothing_of_its_own_is_refused_with_the_remedy(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match=r"card.charge: argument v.*facts=lambda v: \{...\}"):
        encode({"list": [make()]})


def test_the_refusal_names_the_place() -> None:
    with pytest.raises(ConfigurationError, match=r"argument v\.x\[1\]"):
        encode(Point([1, Plain()]))


# ------------------------------------------------------------------ what is taken


def test_a_row_of_a_query_is_taken() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        row = connection.execute(sa.text("select 1 as id, 'ada' as name")).one()
        twice = connection.execute(sa.text("select 1 as id, 2 as id")).one()
    engine.dispose()
    assert encode(row) == {"id": 1, "name": "ada"}
    assert encode(row._mapping) == {"id": 1, "name": "ada"}
    assert encode(twice) == [1, 2]
    assert encode(row, redact=frozenset({"name"})) == {"id": 1, "name": {"$masked": None}}


def test_undeclared_fields_of_a_model_count() -> None:
    assert encode(Model(x=1, y=2)) == {"$type": "Model", "x": 1, "y": 2}


def test_subclasses_compare_by_what_they_hold() -> None:
    moment = type("Moment", (datetime,), {})(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert encode(moment) == {"$datetime": "2026-01-01T00:00:00+01:00"}
    for base, value in [
        (time, time(1, 2)), (timedelta, timedelta(1)), (UUID, UUID(int=3)), (Decimal, Decimal("1.0")), (bytes, b"a"),
        (float, 1.5), (str, "a"), (bytearray, bytearray(b"a")),
    ]:  # fmt: skip
        kind = type("Sub", (base,), {})
        made = {
            time: lambda k: k(1, 2), timedelta: lambda k: k(1), UUID: lambda k: k(int=3),
        }.get(base, lambda k, v=value: k(v))(kind)  # fmt: skip
        assert type(made) is kind
        assert encode(made) == encode(value)


def test_collections_are_taken_by_what_they_are() -> None:
    assert encode(UserDict(a=1)) == {"a": 1}
    assert encode(namedtuple("Old", "x")(1)) == {"$type": "Old", "x": 1}  # noqa: PYI024
    assert encode({"b": 1, "a": 2}.keys()) == {"$set": ["a", "b"]}
    assert encode(frozenset({2, 1})) == {"$set": [1, 2]}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "none"), (True, "true"), (1.5, "1.5"), (Decimal("9.90"), "9.90"), ([1, "a"], "[1, a]"), ({1}, "{1}"),
        ({1: 2}, "{1: 2}"), (Point(1, "a"), "Point(x=1, y=a)"), ({"a": 1}, "(a=1)"), (b"\x01", "01"), ({}, "()"),
        (timedelta(hours=36), "1 day, 12:00:00"), (Color.RED, "Color.RED"), (date(2026, 1, 1), "2026-01-01"),
        (Token("x[1].id"), "(known after apply: x[1].id)"), (f"to {Token('x[1]')}", "to (known after apply: x[1])"),
    ],
    ids=repr,
)  # fmt: skip
def test_values_are_shown_for_people(value: object, shown: str) -> None:
    assert show_value(encode(value)) == shown
