"""Turn any value into plain JSON data, with what is secret masked on the way.

Whatever comes in, `Cleaner.clean` returns only str, int, float, bool, None, lists and dicts with text keys: bounded in
depth and size, free of cycles, NaN and lone surrogates. It runs the given objects' own code only behind a guard, and
consumes no generator.

>>> Cleaner(("*secret*",)).clean({"n": float("nan"), "ids": {2, 1}, "client-secret": "hunter2"})
{'n': 'nan', 'ids': [1, 2], 'client-secret': '******'}
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections import deque
from collections.abc import Callable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..._core.tokens import show_marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HEAD = ("timestamp", "level", "component", "event", "correlation_id")
REDACTED = "******"
CYCLE = "<cycle>"
TOO_DEEP = "<too deep>"
TOO_MANY = "<too many>"

_INT_LIMIT = 2**63  # what every JSON reader with 64-bit integers can take
_NAMES_REMEMBERED = 1024
_NAME_LENGTH_REMEMBERED = 64
_SEQUENCES: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_PAIRS = (tuple, list)  # as headers travel
_NAMES = (str, bytes)
_type: Callable[[object], Any] = type  # checkers must not narrow what the hot path looks at
_BYTES = (bytes, bytearray, memoryview)
_MOMENTS = (date, time)
_SHOWN_BY_STR = (*_MOMENTS, timedelta, Decimal, UUID, PurePath)


class Cleaner:
    """Makes values fit for a log line and masks what stands under a secret name.

    It promises never to raise and never to show a value whose name matches a glob, whether the name is a key of a
    mapping, a field of a dataclass (or named tuple, msgspec, attrs or pydantic object), the first half of a pair in a
    list, or ``name=`` in the repr of anything else. It does not search text that somebody wrote.

    Args:
        globs: Names to mask. ``*`` is any text, ``?`` one character; upper and lower case, and whatever is neither
            letter nor digit, make no difference.
        max_depth: How many containers deep a value is followed.
        max_items: How many values one field may hold.

    Concurrency: may be shared by threads. Cancellation: nothing here waits.
    """

    def __init__(self, globs: Iterable[str], *, max_depth: int = 8, max_items: int = 1000) -> None:
        self.redacted = 0
        self._max_depth = max_depth
        self._max_items = max_items
        self._secret_names, self._secret_text = _patterns(tuple(globs))
        self._harmless: set[str] = set()

    def fill(self, line: dict[str, Any], fields: Mapping[str, Any]) -> None:
        """Add cleaned ``fields`` to ``line``; one whose name is taken gets an underscore behind it."""
        late: list[tuple[object, object]] = []
        if not self._harmless.issuperset(fields):
            late = [(name, value) for name, value in fields.items() if not self._is_harmless(name)]
            fields = {name: value for name, value in fields.items() if self._is_harmless(name)}
        line.update(fields)
        for name, value in fields.items():
            kind = _type(value)
            if kind is str:
                is_plain = value.isascii()
            elif kind is int:
                is_plain = -_INT_LIMIT <= value < _INT_LIMIT
            elif kind is float:
                is_plain = value - value == 0
            else:
                is_plain = kind is bool or value is None
            if not is_plain:
                line[name] = self.clean(value)
        for pair in late:
            _Walk(self, self._max_depth, self._max_items).add(line, (pair,), 0)

    def clean(self, value: object) -> Any:
        """Return ``value`` as plain JSON data."""
        return _Walk(self, self._max_depth, self._max_items).visit(value, 0)

    def text(self, value: object) -> str:
        """Return ``value`` as text that can be encoded."""
        if type(value) is str and value.isascii():
            return value
        cleaned = self.clean(value)
        return cleaned if isinstance(cleaned, str) else str(cleaned)

    def is_secret(self, name: str) -> bool:
        """Say whether a value of this name is to be masked."""
        return self._secret_names.fullmatch(_essence(name)) is not None

    def scrub(self, text: str) -> str:
        """Cut a repr off behind the first secret name in it: where its value ends, only its author knows."""
        found = self._secret_text.search(text)
        if found is None:
            return text
        self.redacted += 1
        return text[: found.end()] + REDACTED

    def _is_harmless(self, name: str) -> bool:
        """Say whether a field's name can stand in a line as it is, with its value in the open."""
        if type(name) is not str or name in HEAD or not name.isascii() or self.is_secret(name):
            return False
        if len(name) <= _NAME_LENGTH_REMEMBERED:
            if len(self._harmless) >= _NAMES_REMEMBERED:
                self._harmless.clear()
            self._harmless.add(name)
        return True


class _Walk:
    """One pass over one value."""

    __slots__ = ("_cleaner", "_left", "_max_depth", "_open")

    def __init__(self, cleaner: Cleaner, max_depth: int, max_items: int) -> None:
        self._cleaner = cleaner
        self._max_depth = max_depth
        self._left = max_items
        self._open: set[int] = set()

    def visit(self, value: object, depth: int) -> Any:
        """Return ``value`` as plain JSON data, whatever it does."""
        try:
            simple = _simple(value)
            if simple is not Ellipsis:
                return simple
            if id(value) in self._open:
                return CYCLE
            self._open.add(id(value))
            try:
                return self._open_up(value, depth)
            finally:
                self._open.discard(id(value))
        except Exception as error:  # noqa: BLE001 - the value's own code failed, and a log call never raises
            return _unshowable(value, error)

    def add(self, out: dict[str, Any], pairs: Iterable[tuple[object, object]], depth: int) -> None:
        """Add cleaned pairs to ``out``, each under a name of its own."""
        for key, value in pairs:
            name = self._name(key)
            secret = self._cleaner.is_secret(name)
            if name in out:
                name += "_"
            while name in out:
                name += str(len(out))
            if self._left <= 0:
                out[name] = TOO_MANY
                return
            self._left -= 1
            if secret:
                self._cleaner.redacted += 1
            out[name] = REDACTED if secret else self.visit(value, depth)

    def _open_up(self, value: Any, depth: int) -> Any:
        kind = _type(value)
        pairs = _pairs(value, kind)
        if pairs is not None:
            if depth >= self._max_depth:
                return TOO_DEEP
            out: dict[str, Any] = {}
            self.add(out, pairs, depth + 1)
            return out
        for base in _SEQUENCES:
            if issubclass(kind, base):
                return self._sequence(base.__iter__(value), depth, in_order=base not in (set, frozenset))
        if isinstance(value, Enum):
            return self.visit(value.value, depth)
        return _text(self._cleaner.scrub(repr(value)))

    def _sequence(self, items: Iterator[object], depth: int, *, in_order: bool) -> Any:
        if depth >= self._max_depth:
            return TOO_DEEP
        out: list[Any] = []
        for item in items:
            if self._left <= 0:
                out.append(TOO_MANY)
                break
            self._left -= 1
            out.append(self._item(item, depth + 1))
        return out if in_order else sorted(out, key=repr)

    def _item(self, item: Any, depth: int) -> Any:
        if type(item) in _PAIRS and len(item) == 2 and type(item[0]) in _NAMES:  # noqa: PLR2004 - a pair
            name = self._name(item[0])
            if self._cleaner.is_secret(name):
                self._cleaner.redacted += 1
                return [name, REDACTED]
        return self.visit(item, depth)

    def _name(self, key: object) -> str:
        try:
            simple = _simple(key)
            return _text(self._cleaner.scrub(repr(key))) if simple is Ellipsis else str(simple)
        except Exception as error:  # noqa: BLE001 - the key's own code failed
            return _unshowable(key, error)


def _simple(value: Any) -> Any:  # noqa: PLR0911 - one return per kind of scalar
    """Return scalars as plain data, and Ellipsis for everything that has to be opened up."""
    kind = _type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return _text(str.__str__(value))
    if issubclass(kind, int):
        return _whole(int.__add__(value, 0))
    if issubclass(kind, float):
        number = float.__add__(value, 0.0)
        return number if number - number == 0 else repr(number)
    if issubclass(kind, _BYTES):
        return bytes(value).decode("utf-8", "backslashreplace")
    if issubclass(kind, _SHOWN_BY_STR):
        return _text(value.isoformat() if issubclass(kind, _MOMENTS) else str(value))
    return Ellipsis


def _whole(number: int) -> int | str:
    if -_INT_LIMIT <= number < _INT_LIMIT:
        return number
    try:
        return str(number)
    except ValueError:  # more digits than Python turns into decimals
        return hex(number)


def _text(text: str) -> str:
    if text.isascii():
        return text
    return show_marks(text).encode("utf-8", "backslashreplace").decode()


def _unshowable(value: object, error: Exception) -> str:
    try:
        return _text(f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>")
    except Exception:  # noqa: BLE001 - even the class's name fails
        return "<something that cannot be shown>"


def _pairs(value: Any, kind: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return names and values of what has some, as far as its author wants them shown."""
    if issubclass(kind, BaseException):
        return _exception_pairs(value)
    names = _field_names(kind)
    if names is not None:
        return ((name, _attribute(value, name)) for name in names)
    if issubclass(kind, dict):
        return dict[Any, Any].items(value)
    return typing.cast("Mapping[Any, Any]", value).items() if issubclass(kind, Mapping) else None


def _field_names(kind: Any) -> Iterable[str] | None:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind) if field.repr]
    if hasattr(kind, "__attrs_attrs__"):
        return [field.name for field in kind.__attrs_attrs__ if field.repr]
    if hasattr(kind, "__pydantic_fields__"):
        return [name for name, field in kind.__pydantic_fields__.items() if field.repr]
    return getattr(kind, "__struct_fields__", None) or (_tuple_names(kind) if issubclass(kind, tuple) else None)


def _tuple_names(kind: Any) -> Iterable[str] | None:
    return getattr(kind, "_fields", None)


def _attribute(value: object, name: str) -> object:
    try:
        return getattr(value, name, None)
    except Exception as error:  # noqa: BLE001 - the value's own code failed
        return _unshowable(value, error)


def _exception_pairs(error: Any) -> Iterator[tuple[object, object]]:
    yield "type", type(error).__qualname__
    yield "message", _Message(error)
    frames: list[str] = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_qualname}")
        traceback = traceback.tb_next
    if frames:
        yield "traceback", frames
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield "cause", cause
    if issubclass(_type(error), BaseExceptionGroup):
        yield "exceptions", error.exceptions


class _Message:
    """Shows an exception's message the way a repr is shown: guarded and scrubbed."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __repr__(self) -> str:
        return str(self._error)


def _essence(name: str) -> str:
    return re.sub(r"[_\W]", "", name).casefold()


@lru_cache(maxsize=32)  # each sandbox makes a logger, mostly of the same names
def _patterns(globs: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Compile what a secret name's essence matches, and what finds one in front of a value in a repr."""
    never = r"(?!)"
    wild = {"*": ".*", "?": "."}
    exact = [_translate(glob, wild, "") for glob in globs]
    loose_wild = {"*": r"[\w.-]*", "?": r"\w"}
    loose = [_translate(glob, loose_wild, "[_.-]?") for glob in globs]
    names = re.compile("|".join(exact) or never, re.DOTALL)
    text = re.compile(
        rf"(?<!\w)[_.-]?(?:{'|'.join(loose)})(?:['\"]\s*[,=:]|\s*[=:])\s*" if loose else never, re.IGNORECASE
    )
    return names, text


def _translate(glob: str, wild: dict[str, str], between: str) -> str:
    parts = [wild.get(char) or re.escape(char) for char in re.sub(r"[^\w*?]|_", "", glob).casefold()]
    return between.join(parts)
