"""Results as bytes and back, equal in type and value.

`encode_result` takes plain values, the containers, dates, decimals, enums, exceptions and value classes (dataclasses,
attrs, msgspec, pydantic, named tuples), nested as you like; the bytes are JSON, for people to read. It refuses what
would come back as something else, at once and not when it is needed.

A class is written by its name and looked up again among the modules that are loaded: nothing is imported, only value
classes are made, and of those made here no code runs (msgspec calls ``__post_init__``).

>>> stored = encode_result({"total": Decimal("1.98"), "at": (1, 2)})
>>> stored.data
b'{"total":{"$decimal":"1.98"},"at":{"$tuple":[1,2]}}'
>>> decode_result(stored.data)
{'total': Decimal('1.98'), 'at': (1, 2)}
>>> encode_result(lambda: 1)
Traceback (most recent call last):
    ...
asyncsandbox.errors...ResultCodecError: result: a function cannot be stored; return plain values or ...
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from math import isfinite
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import UUID

import msgspec

from ..errors import ResultCodecError
from .codec import is_writable
from .value_classes import ErrorParts, find_class, make_error, make_value, name_of, take_apart

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Decimal", "StoredResult", "decode_result", "encode_result"]

_MAX_DEPTH: Final = 64
_BIG: Final = 2**63
_PATHS: Final = {kind.__name__: kind for kind in (PosixPath, PurePosixPath, PureWindowsPath, WindowsPath)}
_BUILTIN: Final = (str, bytes, bytearray, int, float, complex, list, tuple, dict, set, frozenset, date, time, timedelta)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result as it is stored.

    Attributes:
        data: The bytes, UTF-8 JSON.
        shareable: Whether it cannot be changed, so that the object itself may be handed to several callers.
    """

    data: bytes
    shareable: bool


def encode_result(result: object) -> StoredResult:
    """Return a result as bytes.

    Raises:
        ResultCodecError: It would not come back equal in type and value.
    """
    try:
        stored = _write(result)
        # What JSON itself can hold, without a tag of ours, comes back as it is.
        comes_back = b'"$' not in stored.data or _write(decode_result(stored.data)) == stored
    except ResultCodecError:
        raise
    except Exception as error:
        raise ResultCodecError("result", f"it cannot be taken apart ({error!r})", _ADVICE) from error
    if not comes_back:
        raise ResultCodecError("result", "it would not come back as it was", _ADVICE)
    return stored


def decode_result(data: bytes) -> Any:
    """Return the result that was stored, made anew.

    Raises:
        ResultCodecError: A class is not there, or is another one now; or the bytes are damaged.
    """
    try:
        tree = msgspec.json.decode(data)
        return _read(tree) if b'"$' in data else tree
    except ResultCodecError:
        raise
    except Exception as error:
        raise ResultCodecError("result", f"what is stored is damaged ({error!r})", _LOOK) from error


def _write(result: object) -> StoredResult:
    writer = _Writer()
    return StoredResult(_to_json(writer.write(result, "result", 0)), writer.shareable)


class _Writer:
    """Turns one result into what JSON can hold, and notes whether anything in it can be changed."""

    __slots__ = ("shareable",)

    def __init__(self) -> None:
        self.shareable = True

    def write(self, value: Any, path: str, depth: int) -> object:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return value if is_writable(value) else {"$text": value.encode("utf-8", "surrogatepass").hex()}
        if kind is int:
            return value if -_BIG <= value < _BIG else {"$int": str(value)}
        if kind is float:
            return value if isfinite(value) else {"$float": repr(value)}
        if kind in _SCALARS:
            tag, write, _ = _SCALARS[kind]
            self.shareable &= kind is not bytearray
            return {tag: write(value, path)}
        if depth >= _MAX_DEPTH:
            _refuse(path, f"it is nested deeper than {_MAX_DEPTH} levels, or in itself", "return something flatter")
        return self._compound(kind, value, path, depth + 1)

    def _compound(self, kind: type, value: Any, path: str, depth: int) -> object:
        if kind is dict:
            return self._mapping(value, path, depth)
        if kind in _SEQUENCES:
            items = self._items(value, path, depth)
            self.shareable &= kind in (tuple, frozenset)
            ordered = sorted(items, key=_to_json) if kind in (set, frozenset) else items
            return ordered if kind is list else {f"${kind.__name__}": ordered}
        if isinstance(value, Enum):
            member = value.value if isinstance(value, Flag) else value.name
            return {"$enum": [name_of(kind, path), member]}
        if isinstance(value, PurePath) and _PATHS.get(kind.__name__) is kind:
            return {"$path": [kind.__name__, self.write(str(value), path, depth)]}
        return self._object(kind, value, path, depth)

    def _object(self, kind: type, value: Any, path: str, depth: int) -> object:
        parts = take_apart(value, path)
        if parts is None:
            for base in _BUILTIN:
                if isinstance(value, base):
                    _refuse(path, f"a {kind.__qualname__} would come back as a plain {base.__name__}", _ADVICE)
            _refuse(path, f"a {kind.__qualname__} cannot be stored", _ADVICE)
        self.shareable &= parts.frozen
        name = name_of(kind, path)
        if isinstance(parts, ErrorParts):
            args = self._items(parts.args, f"{path}.args", depth)
            return {"$error": [name, args, self._fields(parts.attributes, path, depth)]}
        written: list[object] = [name, self._fields(parts.fields, path, depth)]
        if parts.hidden:
            written.append(self._fields(parts.hidden, path, depth))
        return {"$value": written}

    def _items(self, values: Any, path: str, depth: int) -> list[object]:
        return [self.write(item, f"{path}[{index}]", depth) for index, item in enumerate(values)]

    def _fields(self, fields: dict[str, Any], path: str, depth: int) -> dict[str, object]:
        return {name: self.write(value, f"{path}.{name}", depth) for name, value in fields.items()}

    def _mapping(self, value: dict[Any, Any], path: str, depth: int) -> object:
        self.shareable = False
        if all(type(key) is str and key[:1] != "$" and is_writable(key) for key in value):
            return self._fields(value, path, depth)
        return {
            "$dict": [
                [self.write(key, path, depth), self.write(item, f"{path}[{key!r}]", depth)]
                for key, item in value.items()
            ]
        }


def _refuse(path: str, problem: str, remedy: str) -> NoReturn:
    """Say why a result cannot be stored.

    Raises:
        ResultCodecError: Always.
    """
    raise ResultCodecError(path, problem, remedy)


def _to_json(tree: object) -> bytes:
    return msgspec.json.encode(tree)


# ------------------------------------------------------------ back again


def _read(tree: Any) -> Any:
    if type(tree) is list:
        return [_read(item) for item in tree]
    if type(tree) is not dict:
        return tree
    if len(tree) == 1:
        ((tag, inner),) = tree.items()
        if tag[:1] == "$":
            return _READERS[tag](inner)
    return {key: _read(item) for key, item in tree.items()}


def _read_value(written: list[Any]) -> object:
    name, *fields = written
    return make_value(name, *({key: _read(item) for key, item in each.items()} for each in fields))


def _read_error(written: list[Any]) -> object:
    name, args, attributes = written
    return make_error(name, tuple(_read(args)), {key: _read(item) for key, item in attributes.items()})


def _read_enum(written: list[Any]) -> object:
    name, member = written
    kind: Any = find_class(name, Enum)
    return kind[member] if isinstance(member, str) else kind(member)


# ------------------------------------------------------------ dates


def _zone_of(tz: Any, path: str) -> str | None:
    """Return the name of a time zone; None for an offset, which the ISO text has already."""
    if tz is None or (type(tz) is timezone and repr(tz) == repr(timezone(tz.utcoffset(None)))):
        return None
    from zoneinfo import ZoneInfo

    if type(tz) is not ZoneInfo or not tz.key:
        _refuse(path, f"the time zone {tz!r} cannot be stored", "use zoneinfo.ZoneInfo, datetime.UTC or an offset")
    return tz.key


def _write_moment(value: Any, path: str) -> object:
    zone = _zone_of(value.tzinfo, path)
    text = value.isoformat() if zone is None else value.replace(tzinfo=None).isoformat()
    return [text, zone, value.fold] if zone or value.fold else text


def _read_moment(kind: Any) -> Callable[[Any], object]:
    def read(written: Any) -> object:
        if isinstance(written, str):
            return kind.fromisoformat(written)
        from zoneinfo import ZoneInfo

        text, zone, fold = written
        moment = kind.fromisoformat(text)
        return moment.replace(fold=fold, tzinfo=moment.tzinfo if zone is None else ZoneInfo(zone))

    return read


def _plainly(write: Callable[[Any], object]) -> Callable[[Any, str], object]:
    return lambda value, _path: write(value)


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


_SCALARS: Final[dict[type, tuple[str, Callable[[Any, str], object], Callable[[Any], object]]]] = {
    bytes: ("$bytes", _plainly(_base64), base64.b64decode),
    bytearray: ("$bytearray", _plainly(_base64), lambda text: bytearray(base64.b64decode(text))),
    Decimal: ("$decimal", _plainly(str), Decimal),
    UUID: ("$uuid", _plainly(str), UUID),
    date: ("$date", _plainly(date.isoformat), date.fromisoformat),
    datetime: ("$datetime", _write_moment, _read_moment(datetime)),
    time: ("$time", _write_moment, _read_moment(time)),
    timedelta: (
        "$timedelta",
        _plainly(lambda value: [value.days, value.seconds, value.microseconds]),
        lambda parts: timedelta(*parts),
    ),
}
_SEQUENCES: Final = {kind: kind.__name__ for kind in (list, tuple, set, frozenset)}
_READERS: Final[dict[str, Callable[[Any], object]]] = {
    **{tag: read for tag, _, read in _SCALARS.values()},
    "$int": int,
    "$float": float,
    "$text": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "$tuple": lambda items: tuple(map(_read, items)),
    "$set": lambda items: set(map(_read, items)),
    "$frozenset": lambda items: frozenset(map(_read, items)),
    "$dict": lambda pairs: {_read(key): _read(item) for key, item in pairs},
    "$path": lambda written: _PATHS[written[0]](_read(written[1])),
    "$enum": _read_enum,
    "$value": _read_value,
    "$error": _read_error,
}
_ADVICE: Final = "return plain values or a dataclass of them, from a module, and keep live objects out"
_LOOK: Final = "what the call did is to be seen where it acted"
