"""Canonical form: how values are compared, hashed and shown.

Facts of an action must mean the same tomorrow, in another process, so only values with a meaning of their own are
taken; a database row or an object with the default repr is refused. Secrets are masked here, before anything else
sees them.

>>> encoder = Canonical("card.charge")
>>> encoder.encode({"total": Decimal("1.98"), "to": ("a", "b")})
{'total': {'$decimal': '1.98'}, 'to': ['a', 'b']}
>>> show({'total': {'$decimal': '1.98'}, 'to': ['a', 'b']})
'total=1.98 to=[a, b]'
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec

from ..errors import ConfigurationError
from .tokens import Opaque, Token, labels_in, labels_in_bytes, mark, plain_text, show_marks

__all__ = ["MASKED_TEXT", "Canonical", "Decimal", "digest", "show", "show_value"]

MASKED_TEXT = "******"
_MAX_DEPTH = 32
_BIG = 2**63

_TAGGED: dict[type, tuple[str, Callable[[Any], object]]] = {
    Decimal: ("$decimal", str),
    datetime: ("$datetime", datetime.isoformat),
    date: ("$date", date.isoformat),
    time: ("$time", time.isoformat),
    timedelta: ("$timedelta", str),
    UUID: ("$uuid", str),
    bytes: ("$bytes", bytes.hex),
    bytearray: ("$bytes", bytearray.hex),
}


class Canonical:
    """Turns the facts of one call into JSON-able values and collects the references it meets.

    Args:
        action: Name of the action, for error messages.
        redact: Names of fields, at any depth, whose values are masked.
        secret: Key of the HMAC by which masked values are compared; without it they are not compared.
        fields: Remembers the declared fields of each class, for the next call.

    Attributes:
        references: Labels of values known only after apply, in the order they were met.
        unmatched: Whether a masked value was left out of the comparison for want of a key.
    """

    __slots__ = ("_action", "_fields", "_redact", "_secret", "references", "unmatched")

    def __init__(
        self,
        action: str,
        redact: AbstractSet[str] = frozenset(),
        secret: bytes | None = None,
        *,
        fields: dict[type, tuple[str, ...] | None] | None = None,
    ) -> None:
        self._action = action
        self._redact = redact
        self._secret = secret
        self._fields = {} if fields is None else fields
        self.references: list[str] = []
        self.unmatched = False

    def encode(self, facts: Mapping[str, object]) -> dict[str, Any]:
        """Return the canonical form of named facts.

        Raises:
            ConfigurationError: A value has no meaning of its own; the message says how to name what counts of it.
        """
        return {name: self._field(name, value, name, 0) for name, value in facts.items()}

    def _field(self, name: str, value: object, path: str, depth: int) -> object:
        if name not in self._redact:
            return self._value(value, path, depth)
        if self._secret is None:
            self.unmatched = True
            return {"$masked": None}
        plain = Canonical(self._action, fields=self._fields)
        text = msgspec.json.encode(plain.encode({"value": value}), order="sorted")
        self.references.extend(plain.references)
        return {"$masked": hmac.new(self._secret, text, hashlib.sha256).hexdigest()}

    def _value(self, value: object, path: str, depth: int) -> object:
        kind = type(value)
        if kind is str:
            return self._text(value)  # type: ignore[arg-type]
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -_BIG <= value < _BIG else {"$int": str(value)}  # type: ignore[operator]
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}  # type: ignore[arg-type]
        if kind in _TAGGED:
            tag, write = _TAGGED[kind]
            if tag == "$bytes":
                self.references.extend(labels_in_bytes(value))  # type: ignore[arg-type]
            return {tag: write(value)}
        if depth >= _MAX_DEPTH:
            raise self._refusal(path, value, f"it is nested deeper than {_MAX_DEPTH} levels")
        return self._compound(value, path, depth + 1)

    def _text(self, value: str) -> object:
        if not value.isascii():
            self.references.extend(labels_in(value))
            if not is_writable(value):
                return {"$text": ascii(value)}
        elif "27e6" in value or "%9F" in value:
            self.references.extend(labels_in(value))
        return value

    def _compound(self, value: object, path: str, depth: int) -> object:
        if isinstance(value, Token | Opaque):
            return self._after_apply(value)
        if isinstance(value, Enum):
            return {"$enum": f"{type(value).__qualname__}.{value.name}"}
        if isinstance(value, PurePath):
            return {"$path": self._text(value.as_posix())}
        kind = type(value)
        if kind not in self._fields:
            self._fields[kind] = declared_fields(kind)
        fields = self._fields[kind]
        if fields is None:
            return self._collection(value, path, depth)
        return {
            "$type": kind.__qualname__,
            **{name: self._field(name, getattr(value, name), f"{path}.{name}", depth) for name in fields},
            **{
                name: self._field(name, item, f"{path}.{name}", depth)
                for name, item in (getattr(value, "__pydantic_extra__", None) or {}).items()
            },
        }

    def _collection(self, value: object, path: str, depth: int) -> object:
        if isinstance(value, Sequence) and isinstance(names := getattr(value, "_fields", None), tuple):
            # A row of a query; where two columns share a name, only their order tells them apart.
            value = dict(zip(names, value, strict=True)) if len(set(names)) == len(names) else tuple(value)
        if isinstance(value, Mapping):
            return self._mapping(value, path, depth)
        if isinstance(value, list | tuple):
            return [self._value(item, f"{path}[{index}]", depth) for index, item in enumerate(value)]
        if isinstance(value, AbstractSet):
            return {"$set": sorted((self._value(item, path, depth) for item in value), key=_sort_key)}
        for base in (str, int, float, *_TAGGED):
            if isinstance(value, base):
                return self._value(_plain(base, value), path, depth)
        raise self._refusal(path, value, f"a {type(value).__name__} says nothing of its own")

    def _after_apply(self, value: Token | Opaque) -> object:
        if isinstance(value, Token):
            text = plain_text(value)
            if text != mark(value.asyncsandbox_label):
                return self._text(text)
        self.references.append(value.asyncsandbox_label)
        return {"$after_apply": value.asyncsandbox_label}

    def _mapping(self, value: Mapping[Any, object], path: str, depth: int) -> object:
        if all(type(key) is str and key[:1] != "$" and is_writable(key) for key in value):
            return {key: self._field(key, item, f"{path}.{key}", depth) for key, item in value.items()}
        pairs = [
            [self._value(key, path, depth), self._field(_name_of(key), item, f"{path}[{key!r}]", depth)]
            for key, item in value.items()
        ]
        return {"$dict": sorted(pairs, key=_sort_key)}

    def _refusal(self, path: str, value: object, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self._action}: argument {path}",
            type(value),  # its repr might hold what is to be masked
            f"{why}; say what of it counts with facts=lambda {path.partition('.')[0].partition('[')[0]}: {{...}}",
        )


def digest(tree: object) -> str:
    """Return the SHA-256 of a canonical value, as hexadecimal digits; the order of fields does not matter."""
    return hashlib.sha256(msgspec.json.encode(tree, order="sorted")).hexdigest()


def show(tree: Mapping[str, Any]) -> str:
    """Return named canonical values as one line for people: ``total=1.98 to=[a, b]``."""
    return " ".join(f"{name}={show_value(value)}" for name, value in tree.items())


def show_value(value: Any) -> str:
    """Return one canonical value as text for people."""
    if isinstance(value, dict):
        return _show_mapping(value)
    if isinstance(value, list):
        return f"[{', '.join(map(show_value, value))}]"
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "none"
    return show_marks(str(value))


def _show_mapping(value: dict[str, Any]) -> str:
    if len(value) == 1:
        ((tag, inner),) = value.items()
        if tag == "$masked":
            return MASKED_TEXT
        if tag == "$after_apply":
            return f"(known after apply: {inner})"
        if tag == "$set":
            return f"{{{', '.join(map(show_value, inner))}}}"
        if tag == "$dict":
            return f"{{{', '.join(f'{show_value(key)}: {show_value(item)}' for key, item in inner)}}}"
        if tag.startswith("$"):
            return str(inner)
    name = value.get("$type", "")
    return f"{name}({', '.join(f'{key}={show_value(item)}' for key, item in value.items() if key != '$type')})"


def declared_fields(kind: type) -> tuple[str, ...] | None:
    """Return the names of a value class's fields, or None for any other class, mapped database rows included."""
    if hasattr(kind, "__mapper__") or issubclass(kind, type):
        return None
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    attributes = getattr(kind, "__attrs_attrs__", None)
    if attributes is not None:
        return tuple(attribute.name for attribute in attributes)
    for marker in ("__struct_fields__", "model_fields", "_fields"):
        names = getattr(kind, marker, None)
        if isinstance(names, Mapping | tuple):
            return tuple(map(str, names))
    return None


def _name_of(key: object) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _plain(base: type, value: Any) -> object:
    """Return the value of a subclass as its base type, so that a subclass compares by what it holds."""
    if base is str:
        return str.__str__(value)
    if base in (int, float, Decimal, bytes, bytearray):
        return base(value)
    return _REBUILD[base](value)


_REBUILD: dict[type, Callable[[Any], object]] = {
    datetime: lambda v: datetime.combine(date(v.year, v.month, v.day), v.timetz()),
    date: lambda v: date(v.year, v.month, v.day),
    time: lambda v: time.fromisoformat(time.isoformat(v)),
    timedelta: lambda v: timedelta(days=v.days, seconds=v.seconds, microseconds=v.microseconds),
    UUID: lambda v: UUID(int=v.int),
}


def _sort_key(tree: object) -> bytes:
    return msgspec.json.encode(tree, order="sorted")


def is_writable(text: str) -> bool:
    """Tell whether text can be written as UTF-8: half a surrogate pair, as in some file names, cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
