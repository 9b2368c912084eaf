"""A log call never raises and makes exactly one valid line, with the right id and without the secrets."""

import asyncio
import dataclasses
import enum
import errno
import io
import itertools
import json
import logging
import os
import pickle
import re
import sys
import threading
from collections import OrderedDict, UserDict, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID

import anyio.to_thread
import attrs
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from virtual_time import run_virtual

from asyncsandbox._core.clock import SystemClock
from asyncsandbox._core.component import Services
from asyncsandbox._core.context import carry, correlation, get_correlation_id, set_correlation_id
from asyncsandbox._core.journal import Journal, Level
from asyncsandbox._core.ledger import Ledger
from asyncsandbox._core.tokens import Opaque, Token
from asyncsandbox.components.logs import (
    CorrelationFilter,
    JsonFormatter,
    JsonSink,
    LogSettings,
    LogStatus,
    MemorySink,
    StdlibSink,
    StructuredLogger,
)
from asyncsandbox.components.logs.clean import CYCLE, REDACTED, TOO_DEEP, TOO_MANY, Cleaner
from asyncsandbox.errors import ConfigurationError

SECRET = "hunter2-canary"
HEAD = ["timestamp", "level", "component", "event", "correlation_id"]
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

# A broken variant must fail, not be shrunk and explained.
once_broken = settings(
    max_examples=300,
    phases=[Phase.generate],
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def _no_id() -> Iterator[None]:
    set_correlation_id(None)
    yield
    set_correlation_id(None)


@pytest.fixture
def host() -> Iterator[io.StringIO]:
    """A host that lets every line through to a JSON handler."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("asyncsandbox")
    logger.addHandler(handler)
    logger.setLevel(1)
    logger.propagate = False
    yield stream
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


def make(*sinks: Any, kind: type[StructuredLogger] = StructuredLogger, **options: Any) -> StructuredLogger:
    return kind(settings=LogSettings(sinks=sinks, **options))


def strict(text: str | bytes) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), "a name twice"
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)


# ------------------------------------------------------------------ hostile values


class Raises:
    """Every way of looking at it fails."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __str__(self) -> str:
        raise RuntimeError("str")

    def __iter__(self) -> Any:
        raise RuntimeError("iter")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    @property
    def __class__(self) -> type:
        raise RuntimeError("class")


class RaisingMeta(type):
    @property
    def __name__(cls) -> str:
        raise RuntimeError("name")


class Nameless(metaclass=RaisingMeta):
    def __repr__(self) -> str:
        raise RuntimeError("repr")


class RaisingMapping(UserDict):
    def items(self) -> Any:
        raise RuntimeError("items")


class EndlessMapping(Mapping):
    def __getitem__(self, key: object) -> Any:
        return self

    def __iter__(self) -> Any:
        raise RuntimeError("iter")

    def __len__(self) -> int:
        return 1

    def items(self) -> Any:
        return ((str(number), number) for number in iter(int, 1))


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("str")

    def isascii(self) -> bool:
        raise RuntimeError("isascii")


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Lazy:
    value: int = 1

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            raise OSError("detached")
        return super().__getattribute__(name)


def cycle() -> list[Any]:
    values: list[Any] = [{}]
    values[0]["back"] = values
    return values


def nested(depth: int) -> list[Any]:
    values: list[Any] = []
    for _ in range(depth):
        values = [values]
    return values


def bomb() -> list[Any]:
    values: list[Any] = ["x"]
    for _ in range(4):  # the broken variants follow it all the way
        values = [values] * 10
    return values


def raised() -> Exception:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ExceptionGroup("second", [ValueError("a"), Nameless_error()]) from error
    except ExceptionGroup as error:
        return error


class Nameless_error(Exception):  # noqa: N801, N818 - reads as a value
    def __str__(self) -> str:
        raise RuntimeError("str")


HOSTILE: list[Callable[[], Any]] = [
    Raises,
    lambda: RaisingMapping(a=1),
    EndlessMapping,
    lambda: Text("x\ud800"),
    lambda: Colour.RED,
    lambda: Number.ONE,
    Lazy,
    cycle,
    bomb,
    raised,
    lambda: nested(100_000),
    lambda: {(1, 2): 3, None: 4, Colour.RED: 5, 1: 6, "1": 7, b"\xff": 8},
    lambda: {1: {"x": Raises()}, "\ud800\n": [float("nan"), float("-inf")]},
    lambda: (number for number in range(3)),
    lambda: {1, "a", (2, 3)},
    lambda: frozenset({b"\xff\x00"}),
    lambda: deque([1]),
    lambda: bytearray(b"line\nline"),
    lambda: memoryview(b"x"),
    lambda: 10**5000,
    lambda: -(2**63) - 1,
    lambda: datetime(2026, 1, 2, tzinfo=UTC),
    lambda: date(2026, 1, 2),
    lambda: time(1, 2),
    lambda: timedelta(days=1),
    lambda: Decimal("NaN"),
    lambda: UUID(int=1),
    lambda: PurePosixPath("a/b"),
    lambda: Token("card.charge[k].id"),
    lambda: Opaque("card.charge[k]"),
    lambda: SimpleNamespace(a=1),
    lambda: namedtuple("Point", "x y")(1, 2),  # noqa: PYI024 - the untyped kind is what people have
    lambda: complex(1, 2),
    object,
    lambda: print,
    lambda: int,
    lambda: "a\nb\r\u2028\x00\x1b[31m",
]

any_text = st.text(st.characters(codec=None), max_size=8)
field_names = st.one_of(
    st.sampled_from(
        [*HEAD, *(f"{name}_" for name in HEAD), "name", "message", "msg", "args", "self", "exc_info", "sandbox"]
    ),
    any_text,
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        any_text,
        st.binary(max_size=8),
        st.sampled_from(HOSTILE),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(any_text, st.integers(), st.none(), st.tuples(st.integers())), inner, max_size=4),
    ),
    max_leaves=8,
)
fields_of_a_line = st.dictionaries(field_names, values, max_size=6)


def build(value: Any) -> Any:
    """Make the hostile objects, which Hypothesis itself must not meet."""
    if isinstance(value, dict):
        return {key: build(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(build(inner) for inner in value)
    return value() if value in HOSTILE else value


Write = Callable[[str, dict[str, Any]], list[str]]


def ours(kind: type[StructuredLogger] = StructuredLogger, sink: Callable[[Any], Any] = JsonSink) -> Write:
    """Return what a logger with all sinks writes of one line, as JSON texts."""

    def write(event: str, fields: dict[str, Any]) -> list[str]:
        stream, memory = io.BytesIO(), MemorySink()
        logger = make(sink(stream), memory, StdlibSink(), kind=kind)
        fields = {name: value for name, value in fields.items() if name != "level"}
        logger.log_action(event, **fields)
        assert logger.get_status().sink_errors == 0
        lines = stream.getvalue().decode().split("\n")
        assert lines.pop() == ""
        return [*lines, *(json.dumps(dict(line), allow_nan=False) for line in memory.get_lines())]

    return write


def one_valid_line(write: Write, host: io.StringIO) -> None:
    """Every sink gets exactly one line of strict JSON with event and id, and no field is lost."""

    @(
        settings(parent=once_broken)
        if write is not GOOD
        else settings(max_examples=200, suppress_health_check=list(HealthCheck))
    )
    @given(event=any_text, correlation_id=any_text.filter(bool), fields=fields_of_a_line)
    def check(event: str, correlation_id: str, fields: dict[str, Any]) -> None:
        host.seek(0)
        host.truncate()
        with correlation(correlation_id):
            lines = write(event, build(fields))
        assert host.getvalue().count("\n") == 1
        lines.append(host.getvalue())
        assert len(lines) == 3
        for text in lines:
            line = strict(text)
            assert list(line)[:5] == HEAD
            assert STAMP.fullmatch(line["timestamp"])
            assert line["event"] == event.encode("utf-8", "backslashreplace").decode()
            assert line["correlation_id"] == correlation_id.encode("utf-8", "backslashreplace").decode()
            given = len(fields) - ("level" in fields)
            assert len(line) == 5 + given
        assert strict(lines[0]) == strict(lines[1]) == strict(lines[2])

    check()


GOOD = ours()


def test_every_line_is_valid_whatever_it_holds(host: io.StringIO) -> None:
    one_valid_line(GOOD, host)


class JsonDumps:
    """What most loggers do."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    def __call__(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(dict(line), default=repr).encode() + b"\n")


class NotCleaned(StructuredLogger):
    """Trusts what it is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._cleaner.fill = lambda line, fields: line.update(fields)  # type: ignore[method-assign]


class WithoutContext(StructuredLogger):
    def _emit(self, level: Any, component: Any, event: Any, correlation_id: Any, *rest: Any) -> None:
        super()._emit(level, component, event, None, *rest)


class KeepsFirstOfClashes(Cleaner):
    def fill(self, line: dict[str, Any], fields: Mapping[str, Any]) -> None:
        super().fill(line, {name: value for name, value in fields.items() if name not in line})


class Forgetful(StructuredLogger):
    """Drops a field that is called like one of ours."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._cleaner = KeepsFirstOfClashes(self.settings.redact)


@pytest.mark.parametrize(
    "broken",
    [ours(NotCleaned), ours(NotCleaned, JsonDumps), ours(WithoutContext), ours(Forgetful)],
    ids=["not cleaned", "json.dumps", "without context", "drops clashes"],
)
def test_the_property_catches_loggers_that_break_it(broken: Write, host: io.StringIO) -> None:
    with pytest.raises((AssertionError, TypeError, ValueError, RuntimeError)):
        one_valid_line(broken, host)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**63 - 1, 2**63 - 1),
        (2**63, "9223372036854775808"),
        ("caf\u00e9", "caf\u00e9"),
        ("\ud800", "\\ud800"),
        (b"caf\xc3\xa9\xff", "caf\u00e9\\xff"),
        (Colour.RED, "red"),
        (Number.ONE, 1),
        (Text("x"), "x"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (timedelta(seconds=5), "0:00:05"),
        (Decimal("1.10"), "1.10"),
        ({3, 1, 2}, [1, 2, 3]),
        (OrderedDict(a=1), {"a": 1}),
        (UserDict({"a": 1}), {"a": 1}),
        ({1: "a", "1": "b", b"1": "c"}, {"1": "a", "1_": "b", "1_2": "c"}),
        ({(1, 2): "a"}, {"(1, 2)": "a"}),
        (Lazy(), {"value": "<Lazy that cannot be shown: OSError>"}),
        ([Raises()], ["<Raises that cannot be shown: RuntimeError>"]),
        ({Nameless(): 1}, {"<something that cannot be shown>": 1}),
        (cycle(), [{"back": CYCLE}]),
        (Token("mail.send[k].id"), "(known after apply: mail.send[k].id)"),
        (Opaque("mail.send[k]"), "(known after apply: mail.send[k])"),
    ],
    ids=itertools.count(),
)
def test_values_are_shown_as_plain_data(value: Any, shown: Any) -> None:
    assert Cleaner(()).clean(value) == shown


def test_depth_and_size_are_bounded() -> None:
    assert Cleaner((), max_depth=2).clean([[[1]]]) == [[TOO_DEEP]]
    assert Cleaner((), max_depth=1).clean({"a": {"b": 1}}) == {"a": TOO_DEEP}
    assert Cleaner((), max_items=2).clean([1, 2, 3]) == [1, 2, TOO_MANY]
    assert Cleaner((), max_items=1).clean({"a": 1, "b": 2}) == {"a": 1, "b": TOO_MANY}
    assert len(json.dumps(Cleaner(()).clean(bomb()))) < 20_000


def test_a_generator_is_not_consumed() -> None:
    numbers = iter([1, 2])
    Cleaner(()).clean(numbers)
    assert list(numbers) == [1, 2]


def test_an_exception_shows_where_it_came_from_and_why() -> None:
    shown = Cleaner(()).clean(raised())
    assert (shown["type"], shown["message"]) == ("ExceptionGroup", "second (2 sub-exceptions)")
    assert re.fullmatch(r".*test_logs\.py:\d+ raised", shown["traceback"][0])
    assert shown["cause"]["type"] == "KeyError"
    assert [inner["type"] for inner in shown["exceptions"]] == ["ValueError", "Nameless_error"]
    assert shown["exceptions"][1]["message"] == "<_Message that cannot be shown: RuntimeError>"
    assert Cleaner(()).clean(ValueError("x")) == {"type": "ValueError", "message": "x"}


def test_a_log_call_survives_fields_that_cannot_even_be_listed() -> None:
    class BrokenFields(Mapping):
        def __getitem__(self, key: object) -> Any: ...
        def __len__(self) -> int: ...
        def __iter__(self) -> Any:
            raise RuntimeError("iter")

    memory = MemorySink()
    logger = make(memory)
    logger._emit("info", "app", "event", None, BrokenFields(), datetime.now(UTC))
    assert memory.get_lines()[0]["log_error"] == "RuntimeError"


# ------------------------------------------------------------------ secrets


@dataclasses.dataclass(frozen=True)
class Card:
    owner: str
    card_number: str
    note: str = dataclasses.field(default=SECRET, repr=False)


@dataclasses.dataclass
class Wrapped:
    cards: list[Any]


@attrs.define
class AttrsCard:
    password: str
    hidden: str = attrs.field(default=SECRET, repr=False)


class StructCard(msgspec.Struct):
    api_key: str


class ModelCard(pydantic.BaseModel):
    client_secret: str
    hidden: str = pydantic.Field(default=SECRET, repr=False)


class TupleCard(namedtuple("TupleCard", "user password")):  # noqa: PYI024 - the untyped kind is what people have
    __slots__ = ()


class Shows:
    """An object whose repr holds a secret somewhere."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def with_traceback() -> Exception:
    try:
        raise ValueError(f"login failed for password={SECRET}!")
    except ValueError as error:
        return error


LEAKS: dict[str, Callable[[], Any]] = {
    "dataclass": lambda: Card("ada", SECRET),
    "nested dataclass": lambda: Wrapped([{"x": (Card("ada", SECRET),)}]),
    "in a set": lambda: {Card("ada", SECRET)},
    "as a key": lambda: {Card("ada", SECRET): 1},
    "attrs": lambda: AttrsCard(SECRET),
    "struct": lambda: StructCard(SECRET),
    "model": lambda: ModelCard(client_secret=SECRET),
    "named tuple": lambda: TupleCard("ada", SECRET),
    "mapping": lambda: UserDict({"X-Api-Key": SECRET}),
    "spelt differently": lambda: {"cardNumber": SECRET, "CARD-NUMBER": SECRET, "card number": SECRET},
    "bytes": lambda: {"token": SECRET.encode()},
    "bytes key": lambda: {b"Set-Cookie": SECRET},
    "headers": lambda: [(b"authorization", f"Bearer {SECRET}".encode()), ["Cookie", SECRET]],
    "namespace": lambda: SimpleNamespace(user="ada", refresh_token=SECRET),
    "repr": lambda: Shows(f"<Login user='ada' api-key: {SECRET}>"),
    "repr of a dataclass": lambda: Shows(f"Card(owner='ada', card_number='{SECRET}')"),
    "repr of a dict": lambda: Shows(repr({"access_token": {"value": SECRET}})),
    "exception": with_traceback,
}
nests: list[Callable[[Any], Any]] = [
    lambda value: value,
    lambda value: [value],
    lambda value: {"inner": value},
    lambda value: ("x", [value]),
    lambda value: SimpleNamespace(inner=value),
    ValueError,
    lambda value: Wrapped([value]),
]


def never_shown(
    kind: type[StructuredLogger], leak: Callable[[], Any], nest: Callable[[Any], Any], host: io.StringIO
) -> None:
    """A secret occurs in no sink's output."""
    stream, memory, seen = io.BytesIO(), MemorySink(), []
    logger = make(JsonSink(stream), memory, StdlibSink(), lambda line: seen.append(repr(dict(line))), kind=kind)
    logger.log_action("login", detail=nest(leak()), password=SECRET, **{"X-Auth-Token": [SECRET]})
    outputs = [stream.getvalue().decode(), repr(memory.get_lines()), host.getvalue(), *seen]
    for output in outputs:
        assert "login" in output
        assert SECRET not in output
        assert REDACTED in output
    assert logger.get_status().redacted >= 2


@pytest.mark.parametrize("nest", nests, ids=itertools.count())
@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS)
def test_a_secret_reaches_no_sink(leak: Callable[[], Any], nest: Callable[[Any], Any], host: io.StringIO) -> None:
    never_shown(StructuredLogger, leak, nest, host)


class MasksTopOnly(Cleaner):
    def clean(self, value: object) -> Any:
        return Cleaner(()).clean(value)


class Shallow(StructuredLogger):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._cleaner = MasksTopOnly(self.settings.redact)


class ShowsReprs(StructuredLogger):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._cleaner.scrub = lambda text: text  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("kind", "leak"), [(Shallow, "dataclass"), (Shallow, "headers"), (ShowsReprs, "namespace"), (NotCleaned, "bytes")]
)
def test_the_canary_catches_loggers_that_leak(kind: type[StructuredLogger], leak: str, host: io.StringIO) -> None:
    with pytest.raises(AssertionError):
        never_shown(kind, LEAKS[leak], nests[0], host)


def test_what_is_not_secret_stays_readable() -> None:
    cleaner = Cleaner(LogSettings().redact)
    value = {"tokens": 3, "card": {"card_owner": "ada"}, "pairs": [("a", "b")], "shown": Shows("Point(x=1)")}
    assert cleaner.clean(value) == {
        "tokens": REDACTED,
        "card": {"card_owner": "ada"},
        "pairs": [["a", "b"]],
        "shown": "Point(x=1)",
    }
    assert Cleaner(("pin?",)).clean({"pin": 1, "pin1": 2, "spin1": 3}) == {"pin": 1, "pin1": REDACTED, "spin1": 3}
    assert Cleaner(()).clean({"password": 1, "x": Shows("password=1")}) == {"password": 1, "x": "password=1"}


def test_the_memory_for_names_is_bounded() -> None:
    cleaner = Cleaner(())
    for number in range(3000):
        cleaner.fill({}, {f"n{number}": 1})
    cleaner.fill({}, {"x" * 100: 1})
    assert len(cleaner._harmless) <= 1024


# ------------------------------------------------------------------ correlation

trees = st.recursive(
    st.just([]),
    lambda inner: st.lists(
        st.tuples(st.sampled_from(["task", "gather", "group", "thread", "anyio", "executor", "block"]), inner),
        max_size=3,
    ),
    max_leaves=12,
)


def every_line_has_the_id_of_its_ancestor(tree: list[Any], make_carry: Callable[[Any], Any] = carry) -> None:
    """Every line carries the id of the request it descends from, however it got there."""
    memory = MemorySink(10_000)
    logger = make(memory)
    pool = ThreadPoolExecutor(1)

    async def grow(tree: list[Any], owner: str) -> None:
        logger.log_action("node", owner=owner)
        for how, inner in tree:
            await spread(how, inner, owner)
            logger.log_action("node", owner=owner)

    async def spread(how: str, inner: list[Any], owner: str) -> None:
        def plain() -> None:
            logger.log_action("node", owner=owner)

        async def in_group() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(grow(inner, owner))

        async def in_block() -> None:
            with correlation(f"{owner}.{len(inner)}") as new:
                await grow(inner, new)

        ways: dict[str, Callable[[], Any]] = {
            "task": lambda: asyncio.create_task(grow(inner, owner)),
            "gather": lambda: asyncio.gather(grow(inner, owner), grow(inner, owner)),
            "group": in_group,
            "block": in_block,
            "thread": lambda: asyncio.to_thread(plain),
            "anyio": lambda: anyio.to_thread.run_sync(plain),
            "executor": lambda: asyncio.get_running_loop().run_in_executor(pool, make_carry(plain)),
        }
        await ways[how]()

    async def request() -> None:
        await grow(tree, logger.log_request("/", "GET"))

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(request()) for _ in range(2)))
        assert get_correlation_id() is None

    try:
        run_virtual(main())
    finally:
        pool.shutdown()
    requests = [line["correlation_id"] for line in memory.get_lines() if line["event"] == "request"]
    assert len(set(requests)) == 2
    for line in memory.get_lines():
        assert line["event"] == "request" or line["owner"] == line["correlation_id"]


@settings(max_examples=30)
@given(trees)
def test_ids_follow_every_tree_of_tasks_and_threads(tree: list[Any]) -> None:
    every_line_has_the_id_of_its_ancestor(tree)


def test_an_executor_without_carry_is_caught() -> None:
    with pytest.raises(AssertionError):
        every_line_has_the_id_of_its_ancestor(
            [("executor", [])], make_carry=lambda function: lambda: _fresh_thread(function)
        )


def _fresh_thread(function: Callable[[], Any]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_request_keeps_the_id_it_came_with() -> None:
    logger = make(MemorySink())
    first = logger.log_request("/api/checkout", "POST", user_id=None)
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert logger.get_correlation_id() == first == logger.log_request("/api/pay", "POST", level="a field", event="too")
    logger.set_correlation_id("from-header")
    assert logger.log_request("/api/checkout", "GET") == "from-header"
    logger.set_correlation_id(None)
    assert logger.log_request("/", "GET") not in (first, "from-header")


# ------------------------------------------------------------------ levels


@pytest.mark.parametrize("minimum", list(Level))
@pytest.mark.parametrize("level", list(Level))
def test_lines_below_the_minimum_are_left_out(minimum: Level, level: Level) -> None:
    memory = MemorySink()
    logger = make(memory, level=minimum)
    logger.log_action("a", level=level)
    logger.log_action("b", level=level.value)
    logger.log_action("c", level=level.value.upper())
    logger.log_request("/", "GET")
    journal = Journal(SystemClock())
    journal.subscribe(logger._log_event)
    journal.publish("d", component="x", level=level)
    written = {line["event"]: line["level"] for line in memory.get_lines()}
    expected = dict.fromkeys("abcd", level.value) if level.rank >= minimum.rank else {}
    assert written == expected | ({"request": "info"} if minimum.rank <= Level.INFO.rank else {})


@pytest.mark.parametrize("number", range(5))
def test_an_unknown_level_hides_nothing(number: int) -> None:
    level: Any = ["fatal", 40, None, [], Raises()][number]
    memory = MemorySink()
    make(memory, level=Level.CRITICAL).log_action("odd", level=level, amount=1)
    (line,) = memory.get_lines()
    assert line["level"] == "info"
    assert line["amount"] == 1
    assert line["level_given"] == Cleaner(()).clean(level)


# ------------------------------------------------------------------ sinks


def test_a_sink_that_raises_costs_the_others_nothing() -> None:
    def fails(line: Any) -> None:
        raise OSError("full")

    def meddles(line: Any) -> None:
        line["event"] = "mine"

    memory = MemorySink()
    logger = make(fails, meddles, memory)
    logger.log_action("kept")
    assert [line["event"] for line in memory.get_lines()] == ["kept"]
    assert (logger.get_status().lines, logger.get_status().sink_errors) == (1, 2)


def test_the_host_sees_lines_as_its_own_records(caplog: pytest.LogCaptureFixture) -> None:
    logger = make(StdlibSink(), component="shop", level="debug")
    caplog.set_level(logging.INFO)
    with correlation("req-1"):
        logger.log_action("paid 100%\nlater", level="warning", amount=100, note="a b", quoted='"', plain="x", many=[1])
        logger.log_action("hidden", level="debug")
        logger.log_request("/x", "GET")
    paid, request = caplog.records
    assert (paid.name, paid.levelno) == ("asyncsandbox.shop", logging.WARNING)
    assert paid.getMessage() == r'paid 100%\nlater amount=100 note="a b" quoted="\"" plain=x many=[1]'
    assert paid.sandbox["amount"] == 100
    assert paid.sandbox["correlation_id"] == "req-1"
    assert paid.funcName == request.funcName == "test_the_host_sees_lines_as_its_own_records"
    assert pickle.loads(pickle.dumps(paid)).sandbox == paid.sandbox


def test_a_host_without_configuration_is_left_alone() -> None:
    before = list(logging.getLogger().handlers)
    StructuredLogger().log_action("x", level="critical")
    assert logging.getLogger().handlers == before
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("asyncsandbox").handlers)


def test_memory_is_bounded_and_read_only() -> None:
    memory = MemorySink(max_lines=2)
    logger = make(memory)
    for number in range(3):
        with correlation(f"req-{number % 2}"):
            logger.log_action("n", number=number)
    assert [line["number"] for line in memory.get_lines()] == [1, 2]
    assert [line["number"] for line in memory.get_lines(correlation_id="req-0")] == [2]
    with pytest.raises(TypeError):
        memory.get_lines()[0]["event"] = "x"  # type: ignore[index]


class Pipe:
    """A pipe whose writing end does not block."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        os.set_blocking(self.reader, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        os.close(self.writer)

    def read(self) -> bytes:
        parts = []
        while True:
            try:
                parts.append(os.read(self.reader, 1 << 20))
            except BlockingIOError:
                return b"".join(parts)


def numbers_in(data: bytes) -> list[int]:
    lines = data.decode().split("\n")
    assert lines.pop() == "", "the last line is torn"
    return [strict(line)["number"] for line in lines]


@pytest.mark.parametrize("buffered", [False, True])
def test_a_full_pipe_loses_and_tears_nothing(buffered: bool) -> None:
    with Pipe() as pipe:
        sink = JsonSink(pipe.writer, buffered=buffered)
        sink.hold(on=True)
        logger = make(sink)
        for number in range(1000):
            logger.log_action("n", number=number, padding="x" * 997)
        data = pipe.read()
        assert 0 < len(data) < 1000 * 1000
        while sink._rest or sink._queue:
            sink.flush()
            data += pipe.read()
        assert numbers_in(data) == list(range(1000))
        assert logger.get_status().lost == 0


def test_a_pipe_that_stays_full_costs_the_newest_lines_and_says_so() -> None:
    with Pipe() as pipe:
        sink = JsonSink(pipe.writer, max_pending_lines=5)
        logger = make(sink)
        for number in range(200):
            logger.log_action("n", number=number, padding="x" * 997)
        data = pipe.read()
        sink.flush()
        data += pipe.read()
        numbers = numbers_in(data)
        assert numbers == list(range(len(numbers)))
        assert logger.get_status().lost == 200 - len(numbers) > 0
        logger.log_action("n", number=200)
        assert numbers_in(pipe.read()) == [200]


def test_closing_gives_up_what_a_full_pipe_does_not_take() -> None:
    with Pipe() as pipe:
        sink = JsonSink(pipe.writer)
        logger = make(sink)
        for number in range(200):
            logger.log_action("n", number=number, padding="x" * 997)
        sink.close()
        whole = pipe.read().count(b"\n")
        assert sink.lost == 200 - whole > 0


def test_a_closed_target_raises_nothing_and_is_counted() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    broken_pipe, stream = JsonSink(writer), io.BytesIO()
    closed_stream = JsonSink(stream)
    stream.close()
    logger = make(broken_pipe, closed_stream)
    logger.log_action("x")
    os.close(writer)
    logger.log_action("x", level="error")
    assert (broken_pipe.lost, closed_stream.lost) == (2, 2)
    assert (logger.get_status().lost, logger.get_status().sink_errors) == (4, 0)


class Drips(io.RawIOBase):
    """Takes a few bytes at a time, and now and then refuses as a full disk or a busy descriptor does."""

    def __init__(self, answers: list[Any]) -> None:
        self.data = b""
        self.answers = answers

    def write(self, data: Any) -> int | None:
        answer = self.answers.pop(0) if self.answers else len(data)
        if isinstance(answer, OSError):
            self.data += bytes(data)[: getattr(answer, "characters_written", 0)]
            raise answer
        self.data += bytes(data)[: answer or 0]
        return None if answer is None else min(answer, len(data))


def refusal(code: int, written: int | None = None) -> OSError:
    return BlockingIOError(code, "later", written) if written is not None else OSError(code, "later")


answers = st.lists(
    st.one_of(
        st.none(),
        st.integers(0, 30),
        st.just(errno.ENOSPC).map(refusal),
        st.integers(0, 20).map(lambda n: refusal(errno.EAGAIN, n)),
    ),
    max_size=30,
)


def whole_lines_in_order(kind: type[JsonSink], answers: list[Any]) -> None:
    """However the target drips, it ends up with whole lines, in order, none missing."""
    target = Drips(answers)
    sink = kind(target)
    logger = make(sink)
    for number in range(10):
        logger.log_action("n", number=number)
    while sink._rest or sink._queue:
        sink.flush()
    assert numbers_in(target.data) == list(range(10))
    assert logger.get_status().lost == 0


@given(answers)
def test_partial_writes_are_completed(answers: list[Any]) -> None:
    whole_lines_in_order(JsonSink, answers)


class Careless(JsonSink):
    """Takes every write for a whole one."""

    def flush(self) -> None:
        while self._queue:
            self._write(self._take())


def test_careless_writing_is_caught() -> None:
    with pytest.raises((AssertionError, ValueError)):
        whole_lines_in_order(Careless, [5])


def test_a_sink_that_logs_while_it_writes_deadlocks_nothing() -> None:
    class Chatty(io.RawIOBase):
        data = b""

        def write(self, data: Any) -> int:
            if b'"number":0' in data:
                logger.log_action("n", number=1)
            Chatty.data += bytes(data)
            return len(data)

    logger = make(JsonSink(Chatty()))
    logger.log_action("n", number=0)
    assert numbers_in(Chatty.data) == [0, 1]


def test_threads_never_mix_their_lines() -> None:
    reader, writer = os.pipe()
    received: list[bytes] = []

    def read() -> None:
        while part := os.read(reader, 65536):
            received.append(part)

    sink = JsonSink(writer, buffered=True)
    sink.hold(on=True)
    logger = make(sink)
    collector = threading.Thread(target=read)
    collector.start()
    with ThreadPoolExecutor(4) as pool:
        for worker in range(4):
            pool.submit(lambda worker=worker: [logger.log_action("n", number=worker * 1000 + n) for n in range(500)])
    sink.close()
    os.close(writer)
    collector.join()
    os.close(reader)
    numbers = numbers_in(b"".join(received))
    assert sorted(numbers) == sorted(worker * 1000 + n for worker in range(4) for n in range(500))
    for worker in range(4):
        own = [number for number in numbers if number // 1000 == worker]
        assert own == sorted(own)


def test_a_path_is_appended_to_and_reopened_after_rotation(tmp_path: Any) -> None:
    path = tmp_path / "app.log"
    path.write_text('{"number":0}\n')
    sink = JsonSink(path)
    logger = make(sink)
    logger.log_action("n", number=1)
    path.rename(tmp_path / "app.log.1")
    sink.close()
    sink.close()
    logger.log_action("n", number=2)
    sink.close()
    assert numbers_in((tmp_path / "app.log.1").read_bytes()) == [0, 1]
    assert numbers_in(path.read_bytes()) == [2]
    with pytest.raises(FileNotFoundError):
        JsonSink(tmp_path / "no" / "such.log")


def test_text_streams_get_utf_8_whatever_their_encoding(capsys: pytest.CaptureFixture[str]) -> None:
    raw, text = io.BytesIO(), io.StringIO()
    ascii_only = io.TextIOWrapper(raw, encoding="ascii")
    ascii_only.write("before\n")
    make(JsonSink(ascii_only), JsonSink(text), JsonSink(sys.stdout)).log_action("caf\u00e9")
    assert raw.getvalue().decode().splitlines()[0] == "before"
    assert strict(raw.getvalue().splitlines()[1])["event"] == "caf\u00e9"
    assert strict(text.getvalue())["event"] == "caf\u00e9"
    assert strict(capsys.readouterr().out)["event"] == "caf\u00e9"


# ------------------------------------------------------------------ life


def test_events_of_the_journal_become_lines_while_it_runs() -> None:
    memory = MemorySink()
    journal = Journal(SystemClock())
    logger = make(memory)
    logger.bind(Services(clock=SystemClock(), journal=journal, ledger=Ledger(SystemClock())))

    async def main() -> None:
        journal.publish("before", component="x")
        async with logger:
            with correlation("req-1"):
                journal.publish("action.done", component="actions", level=Level.WARNING, event="mine", token=SECRET)
        journal.publish("after", component="x")

    run_virtual(main())
    (line,) = memory.get_lines()
    event = journal.get_events("action.done")[0]
    assert dict(line) == {
        "timestamp": event.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "level": "warning",
        "component": "actions",
        "event": "action.done",
        "correlation_id": "req-1",
        "event_": "mine",
        "token": REDACTED,
    }


def test_buffered_lines_come_out_in_time_and_grave_ones_at_once() -> None:
    stream = io.BytesIO()
    logger = make(JsonSink(stream, buffered=True), JsonSink(io.BytesIO()), flush_seconds=5)

    def written() -> int:
        return stream.getvalue().count(b"\n")

    async def main() -> None:
        logger.log_action("before start")
        assert written() == 1
        async with logger:
            logger.log_action("waits")
            assert written() == 1
            await asyncio.sleep(5.5)
            assert written() == 2
            logger.log_action("waits")
            logger.log_action("takes it along", level="warning")
            assert written() == 4
            for _ in range(127):
                logger.log_action("many")
            assert written() == 4
            logger.log_action("enough")
            assert written() == 132
            logger.log_action("last")
        assert written() == 133
        logger.log_action("after stop")
        assert written() == 134

    run_virtual(main())


def test_without_buffered_sinks_no_task_ticks() -> None:
    async def main() -> None:
        async with make(JsonSink(io.BytesIO())):
            assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


@given(st.datetimes(timezones=st.sampled_from([UTC, *[]]), min_value=datetime(1900, 1, 1)))  # noqa: DTZ001 - Hypothesis adds the zone
def test_timestamps_have_one_form(moment: datetime) -> None:
    class Still(SystemClock):
        def now(self) -> datetime:
            return moment

    memory = MemorySink()
    logger = make(memory)
    logger.bind(Services(clock=Still(), journal=Journal(Still()), ledger=Ledger(Still())))
    logger.log_action("x")
    stamp = memory.get_lines()[0]["timestamp"]
    assert STAMP.fullmatch(stamp)
    assert datetime.fromisoformat(stamp) == moment


def test_the_status_is_json_able() -> None:
    logger = make(MemorySink(), JsonSink(io.BytesIO()))
    logger.log_action("x", password=1)
    status = logger.get_status()
    assert isinstance(status, LogStatus)
    assert json.loads(json.dumps(dataclasses.asdict(status))) == {
        "name": "logger",
        "state": "new",
        "lines": 1,
        "redacted": 1,
        "sink_errors": 0,
        "lost": 0,
    }
    assert StructuredLogger().settings.sinks[0].__class__ is StdlibSink


@pytest.mark.parametrize(
    ("make_it", "field"),
    [
        (lambda: LogSettings(level="loud"), "LogSettings.level"),
        (lambda: LogSettings(component=" "), "LogSettings.component"),
        (lambda: LogSettings(redact=("*",)), "LogSettings.redact"),
        (lambda: LogSettings(redact="password"), "LogSettings.redact"),
        (lambda: LogSettings(sinks=(1,)), "LogSettings.sinks"),
        (lambda: LogSettings(flush_seconds=0), "LogSettings.flush_seconds"),
        (lambda: LogSettings(max_depth=101), "LogSettings.max_depth"),
        (lambda: LogSettings(max_items=0), "LogSettings.max_items"),
        (lambda: JsonSink(1, max_pending_lines=0), "JsonSink.max_pending_lines"),
        (lambda: MemorySink(0), "MemorySink.max_lines"),
    ],
    ids=itertools.count(),
)
def test_wrong_settings_are_refused_at_once(make_it: Callable[[], Any], field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(field)}="):
        make_it()


def test_settings_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(LogSettings())).redact == LogSettings().redact


# ------------------------------------------------------------------ for a host's own handlers


def formatted(record: logging.LogRecord) -> Any:
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return strict(text)


def test_the_formatter_keeps_what_a_record_holds() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("shop", logging.WARNING, "shop.py", 7, "sold %d", (3,), info)
    record.__dict__.update(
        {"name_": 1, "event": "mine", "password": SECRET, "stack_info": "Stack:\n  x", "sandbox": "a field"}
    )
    with correlation("req-9"):
        line = formatted(record)
    assert (line["level"], line["component"], line["event"], line["correlation_id"]) == (
        "warning",
        "shop",
        "sold 3",
        "req-9",
    )
    assert (line["event_"], line["password"], line["stack"]) == ("mine", REDACTED, "Stack:\n  x")
    assert line["exception"]["type"] == "ValueError"


def test_the_formatter_survives_records_that_do_not_fit() -> None:
    misfit = logging.makeLogRecord(
        {"msg": "sold %d", "args": ("three",), "levelname": "ODD", "exc_text": "Traceback", "x": Raises()}
    )
    line = formatted(misfit)
    assert (line["event"], line["args"], line["level"], line["exception"]) == ("sold %d", ["three"], "odd", "Traceback")
    assert formatted(logging.makeLogRecord({"msg": {"a": 1}, "exc_info": (None, None, None)}))["event"] == "{'a': 1}"


def test_the_filter_puts_the_id_on_every_record() -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep()
    handler.addFilter(CorrelationFilter())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with correlation("req-1\nforged"):
            logging.getLogger("anything").warning("x")
            make(StdlibSink()).log_action("y", level="error")
        logging.getLogger("anything").warning("z")
    finally:
        root.removeHandler(handler)
    assert [record.correlation_id for record in records] == ["req-1\\nforged", "req-1\\nforged", "-"]
