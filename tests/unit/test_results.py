"""Stored results: they come back equal in type and value, or they are refused when they are stored."""

import dataclasses
import enum
import io
import struct
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from runtimes import must_catch
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asyncsandbox._core import results
from asyncsandbox._core.results import decode_result, encode_result
from asyncsandbox._core.tokens import Opaque, Token
from asyncsandbox.errors import IdempotencyConflictError, ResultCodecError, SandboxError

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    NOTHING = None


class Size(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    YES = "yes"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object = 0


@dataclasses.dataclass(slots=True)
class Purse:
    coins: object
    counted: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.counted += 1


@dataclasses.dataclass
class Box(Generic[T]):
    item: T

    @cached_property
    def label(self) -> str:
        return f"a box of {self.item}"

    @dataclasses.dataclass
    class Lid:
        color: object


@attrs.define
class Pair:
    x: object
    _y: object = attrs.field(default=None)


@attrs.frozen
class Frozen:
    x: object


class Struct(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    x: object
    y: object = 0


class Counting(msgspec.Struct):
    x: object
    calls: int = 0

    def __post_init__(self) -> None:
        self.calls += 1


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    x: Any = None
    _secret: Any = pydantic.PrivateAttr(default=7)


class Wrapped(pydantic.RootModel[list[int]]):
    pass


class Typed(pydantic.BaseModel, Generic[T]):
    x: T


class Named(NamedTuple):
    x: object
    y: object = None


class PlainError(Exception):
    pass


class CodedError(Exception):
    def __init__(self, code: int, *, hint: object = None) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class LostFileError(FileNotFoundError):
    pass


def spell(value: object) -> object:  # noqa: PLR0911 - an oracle written case by case
    """Spell out type and content of a value, independently of the codec."""
    kind: Any = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, enum.Enum):
        return (name, value.value)
    if isinstance(value, BaseException):
        said = str(value) if isinstance(value, OSError | UnicodeError | SandboxError) else ""
        return (name, spell(value.args), said, spell(vars(value)))
    if isinstance(value, list | tuple):
        return (name, [spell(item) for item in value])
    if isinstance(value, dict):
        return (name, [(spell(key), spell(item)) for key, item in value.items()])
    if isinstance(value, set | frozenset):
        return (name, sorted(repr(spell(item)) for item in value))
    if isinstance(value, datetime | time):
        return (name, repr(value), value.fold, spell(value.tzinfo))
    if isinstance(value, pydantic.BaseModel):
        hidden = (value.__pydantic_extra__, value.__pydantic_private__, value.model_fields_set)
        return (name, spell({each: getattr(value, each) for each in kind.model_fields}), spell(hidden))
    for marker in ("__dataclass_fields__", "__attrs_attrs__", "__struct_fields__"):
        if hasattr(kind, marker):
            fields = [getattr(each, "name", each) for each in getattr(kind, marker)]
            return (name, spell({each: getattr(value, each) for each in fields}))
    return (name, repr(value))


def is_changeable(value: object) -> bool:
    """Tell whether anything in a value can be changed, independently of the codec."""
    if isinstance(value, list | dict | set | bytearray | BaseException | pydantic.BaseModel):
        return True
    if isinstance(value, Purse | Box | Box.Lid | Pair | Counting):
        return True
    if isinstance(value, tuple | frozenset):
        return any(map(is_changeable, value))
    return isinstance(value, Point | Frozen | Struct) and is_changeable((value.x, getattr(value, "y", None)))


BERLIN = ZoneInfo("Europe/Berlin")
ATOMS = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=8),
    st.text(st.characters(), max_size=5),  # halves of surrogate pairs as well
    st.sampled_from(["", "$int", "\ud800", 2**63, -(2**63) - 1, 2**64, -0.0, bytearray(b"x"), b"$"]),
    st.decimals() | st.uuids() | st.dates() | st.timedeltas(),
    st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC), allow_imaginary=True),
    st.datetimes().map(lambda moment: moment.replace(fold=1)),
    st.times(timezones=st.none() | st.just(timezone(timedelta(hours=-3, seconds=7)))),
    st.sampled_from([*Color, *Size, *Word, *Right, Right.READ | Right.WRITE, Right(0)]),
    st.sampled_from([Path("a/b"), PurePosixPath("/"), PureWindowsPath("c:\\x"), Path("\udcff")]),
)
KEYS = st.sampled_from(["x", "", "$", "$int", "$value", "é", "\ud800", 1, True, None, b"x", (1, "2"), Color.RED, 1.5])


def note(error: Exception) -> Exception:
    error.add_note("so it goes")
    return error


def compounds(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Purse, inner),
        st.builds(Box, inner),
        st.builds(Box.Lid, inner),
        st.builds(Pair, inner, inner),
        st.builds(Frozen, inner),
        st.builds(Struct, x=inner),
        st.builds(Counting, inner),
        st.tuples(inner, inner).map(Named._make),
        st.builds(lambda x, more: Model(x=x, more=more), inner, inner),
        st.builds(Model.model_construct),
        st.builds(Wrapped, st.lists(st.integers(0, 9))),
        st.builds(
            lambda kind, args: kind(*args), st.sampled_from([ValueError, PlainError, LookupError]), st.lists(inner)
        ),
        st.builds(CodedError, st.integers(0, 9), hint=inner).map(note),
        st.sets(st.sampled_from([1, "1", Decimal(1), None, b"1", (1,)]), max_size=3),
        st.frozensets(st.sampled_from([1, "1", Decimal(1), None, b"1", (1,)]), max_size=3),
    )


VALUES = st.recursive(ATOMS, compounds, max_leaves=5)


def check_round_trip(value: object) -> None:
    before = spell(value)
    try:
        data = encode_result(value).data
    except ResultCodecError as error:
        raise AssertionError("refused") from error
    assert spell(decode_result(data)) == before
    assert spell(value) == before


def check_sharing(value: object) -> None:
    assert not (encode_result(value).shareable and is_changeable(value))


@settings(max_examples=600)
@given(VALUES)
@example(datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN))
@example(time(2, 30, fold=1, tzinfo=BERLIN))
@example(OSError(2, "No such file", "a", None, "b"))
@example(LostFileError(2, "No such file", "a"))
@example(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
@example(ExceptionGroup("both", [ValueError(1), PlainError()]))
@example({"$error": ["builtins:ValueError", [], {}]})
@example(IdempotencyConflictError("a", "k", "1", "2"))
def test_a_result_comes_back_equal_in_type_and_value(value: object) -> None:
    check_round_trip(value)


@pytest.mark.parametrize(
    ("tag", "wrong"),
    [
        ("$tuple", list),
        ("$frozenset", set),
        ("$decimal", float),
        ("$bytes", str),
        ("$uuid", str),
        ("$value", lambda written: written[1]),
        ("$enum", lambda written: written[1]),
        ("$error", lambda written: ValueError(*results._read(written[1]))),
        ("$timedelta", lambda parts: timedelta(*parts[:2])),
        ("$datetime", lambda written: datetime.fromisoformat(written if isinstance(written, str) else written[0])),
        ("$dict", lambda pairs: {results._read(key): None for key, _ in pairs}),
        ("$path", lambda written: PurePosixPath(written[1])),
    ],
)
def test_a_codec_that_loses_type_or_value_is_caught(
    tag: str, wrong: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(results._READERS, tag, wrong)
    must_catch(check_round_trip, VALUES, examples=1500)


@given(VALUES)
def test_only_what_nobody_can_change_is_shared(value: object) -> None:
    check_sharing(value)


def test_a_codec_that_shares_what_can_be_changed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results._Writer, "shareable", property(lambda _: True, lambda *_: None))
    must_catch(check_sharing, VALUES)


def test_what_comes_back_is_made_anew() -> None:
    data = encode_result({"items": [1]}).data
    decode_result(data)["items"].append(2)
    assert decode_result(data) == {"items": [1]}


# ------------------------------------------------------------------ what is refused


class Text(str):
    __slots__ = ()


class Listed(list):  # type: ignore[type-arg]
    pass


class Tupled(tuple):  # type: ignore[type-arg]
    __slots__ = ()


@dataclasses.dataclass
class Table(dict):  # type: ignore[type-arg]
    x: int = 0


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "row"
    id: Mapped[int] = mapped_column(sa.Integer, primary_key=True)


class Zone(tzinfo):
    pass


# A time zone of a file, with one type and no transition.
NAMELESS = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb", 0, 0, 0) + b"UTC\0"


class TalkativeError(Exception):
    def __init__(self, secret: object) -> None:
        super().__init__()
        self.told = lambda: secret

    def __str__(self) -> str:
        return "talk"


class SilentError(Exception):
    count = 0

    def __str__(self) -> str:
        SilentError.count += 1
        return str(SilentError.count)


class PickyError(Exception):
    def __new__(cls, *, code: int) -> Self:
        return super().__new__(cls, code)

    def __init__(self, *, code: int) -> None:
        super().__init__(code)


class Raising:
    @property
    def x(self) -> int:
        raise RuntimeError("no")


class Once(msgspec.Struct):
    made: ClassVar[int] = 0

    def __post_init__(self) -> None:
        Once.made += 1
        if Once.made > 1:
            raise RuntimeError("only once")


def with_more() -> Point:
    box: Any = Box(1)
    box.found_later = 1
    return box


def in_itself() -> list[object]:
    knot: list[object] = []
    knot.append(knot)
    return knot


def unset() -> Pair:
    return Pair.__new__(Pair)


def typed() -> Any:
    return Typed[str](x="1")  # made inside a function it has no name in the module


def local_class() -> object:
    @dataclasses.dataclass
    class Local:
        x: int = 0

    return Local()


REFUSED = [
    *(object(), len, lambda: 1, int, Ellipsis, 1j, Raising(), (item for item in ()), Row(id=1)),
    *(Text("x"), Listed(), Tupled(), Table(), OrderedDict(), defaultdict(int), Counter(), deque(), memoryview(b"")),
    *(with_more(), in_itself(), unset(), local_class(), typed(), Token("a"), Opaque("b")),
    *(datetime(2026, 1, 1, tzinfo=Zone()), datetime(2026, 1, 1, tzinfo=ZoneInfo.from_file(io.BytesIO(NAMELESS)))),
    *(time(1, tzinfo=timezone(timedelta(0), "there")), {"deep": [{"down": object()}]}),
    *(KeyboardInterrupt(), TalkativeError(1), SilentError(), PickyError(code=1), [PlainError(object())]),
]


@pytest.mark.parametrize("value", REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_would_come_back_otherwise_is_refused(value: object) -> None:
    with pytest.raises(ResultCodecError) as caught:
        encode_result(value)
    assert caught.value.path.startswith("result")
    assert caught.value.remedy


def test_the_refusal_says_where() -> None:
    with pytest.raises(ResultCodecError, match=r"^result\.deep\[1\]\.x: a function cannot be stored; return plain"):
        encode_result({"deep": [0, Point(lambda: 1)]})
    with pytest.raises(ResultCodecError, match=r"Local is not found under its name; define it at the top level"):
        encode_result(local_class())
    with pytest.raises(ResultCodecError, match="a Text would come back as a plain str"):
        encode_result([Text("x")])
    with pytest.raises(ResultCodecError, match="found_later: it is no field of Box"):
        encode_result(with_more())


def test_a_cached_property_and_a_type_argument_are_no_part_of_a_value() -> None:
    box = Box[str]("socks")
    assert box.label == "a box of socks"
    back = decode_result(encode_result(box).data)
    assert back == box
    assert vars(back) == {"item": "socks"}


# ------------------------------------------------------------------ what is read back is judged


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"$value": ["os:system", {}]}, "no such class"),
        ({"$value": ["subprocess:Popen", {}]}, "no class of values"),
        ({"$value": ["builtins:type", {}]}, "no class of values"),
        ({"$value": ["builtins:ValueError", {}]}, "no class of values"),
        ({"$value": ["antigravity:Flight", {}]}, "no such class"),
        ({"$value": ["shop_with_a_door:Door", {}]}, "no such class"),
        ({"$value": ["", {}]}, "no such class"),
        ({"$enum": ["builtins:int", 3]}, "no such class"),
        ({"$error": ["builtins:SystemExit", [3], {}]}, "no such class"),
        ({"$error": ["builtins:print", [3], {}]}, "no such class"),
        ({"$nothing": 1}, "damaged"),
        ({"$tuple": 1}, "damaged"),
        ({"$value": 1}, "damaged"),
        ({"$datetime": "yesterday"}, "damaged"),
    ],
)
def test_nothing_is_imported_or_called_that_is_no_value(
    tree: object, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("shop_with_a_door")
    module.__getattr__ = pytest.fail
    monkeypatch.setitem(sys.modules, "shop_with_a_door", module)
    with pytest.raises(ResultCodecError, match=problem):
        decode_result(msgspec.json.encode(tree))
    assert "antigravity" not in sys.modules


def test_damaged_bytes_are_refused() -> None:
    with pytest.raises(ResultCodecError, match="damaged"):
        decode_result(b'{"a": ')


def left_behind(value: object, drop: str, **fields: object) -> bytes:
    """Return what a former version of a class, with other fields, would have stored."""
    name, now, *hidden = msgspec.json.decode(encode_result(value).data)["$value"]
    now.pop(drop)
    return msgspec.json.encode({"$value": [name, {**now, **fields}, *hidden]})


def model() -> Model:
    made = Model(more=[1])
    made._secret = "told"
    return made


@pytest.mark.parametrize(
    ("now", "new"), [(Point(1), "y"), (Struct(x=1), "y"), (Pair(1), "_y"), (Named(1), "y"), (model(), "x")]
)
def test_a_class_that_got_a_field_since_fills_in_its_default(now: Any, new: str) -> None:
    back = decode_result(left_behind(now, new))
    assert spell(back) == spell(now)
    with pytest.raises(ResultCodecError, match="its fields are others now"):
        decode_result(left_behind(Point(1), "y", was_dropped=2))


def test_the_constructor_of_a_stored_value_is_not_called() -> None:
    assert decode_result(encode_result(Purse(1)).data).counted == 1
    assert decode_result(encode_result(Counting(1)).data).calls == 1
    with pytest.raises(ResultCodecError, match="only once"):
        encode_result(Once())


def test_a_plain_result_is_read_without_a_second_look() -> None:
    value = {"id": 17, "ok": True, "of": [None, 1.5, date.min.isoformat(), str(UUID(int=1))]}
    assert decode_result(encode_result(value).data) == value
