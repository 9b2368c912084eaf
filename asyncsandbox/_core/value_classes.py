"""Value classes and exceptions, taken apart into named values and made again from them.

A class is known by ``module:qualified name`` and found among the modules that are loaded; nothing is imported. An
object comes back without its constructor being called: as it was, not as its class would make it of the parts.

>>> take_apart(ValueError("no"), "result")
ErrorParts(args=('no',), attributes={}, frozen=False)
>>> make_error("builtins:ValueError", ("no",), {})
ValueError('no')
>>> find_class("os.path:join")
Traceback (most recent call last):
    ...
asyncsandbox.errors...ResultCodecError: os.path:join: there is no such class here; import its module ...
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..errors import ResultCodecError
from .codec import declared_fields

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEEP_SIMPLE: Final = "keep what is returned simple"
# Where pydantic keeps what a model holds beside its fields, and what we call it.
_MODEL_STATE: Final = {
    "extra": "__pydantic_extra__",
    "private": "__pydantic_private__",
    "set": "__pydantic_fields_set__",
}


@dataclass(frozen=True, slots=True)
class ValueParts:
    """An object of a value class.

    Attributes:
        fields: Its declared fields.
        hidden: What a pydantic model holds beside them; empty for any other class.
        frozen: Whether its class forbids to change it.
    """

    fields: dict[str, Any]
    hidden: dict[str, Any]
    frozen: bool


@dataclass(frozen=True, slots=True)
class ErrorParts:
    """An exception, without its traceback and cause.

    Attributes:
        args: What it was made from.
        attributes: What was set on it, its notes included.
        frozen: False: anybody may add a note.
    """

    args: tuple[Any, ...]
    attributes: dict[str, Any]
    frozen: bool = False


def take_apart(value: object, path: str) -> ValueParts | ErrorParts | None:
    """Return what an object is made of; None where its class is no value class.

    Raises:
        ResultCodecError: It holds something that its fields do not tell.
    """
    kind: Any = type(value)
    if isinstance(value, BaseException):
        return _take_error_apart(value, path)
    if issubclass(kind, tuple):
        names = getattr(kind, "_fields", None)
        if not isinstance(names, tuple) or len(names) != len(value):  # type: ignore[arg-type]
            return None
        _require_no_more(value, names, path)
        return ValueParts(dict(zip(names, value, strict=True)), {}, frozen=True)  # type: ignore[call-overload]
    names = _fields_of(kind)
    if names is None:
        return None
    _require_no_more(value, names, path)
    fields = {name: getattr(value, name) for name in names}
    model = _model_base(kind)
    if model is not None:
        state = model.__getstate__(value)
        return ValueParts(fields, {ours: state[theirs] for ours, theirs in _MODEL_STATE.items()}, frozen=False)
    parameters = getattr(kind, "__dataclass_params__", None) or getattr(kind, "__struct_config__", None)
    return ValueParts(fields, {}, frozen=getattr(parameters, "frozen", False))


def make_value(name: str, fields: dict[str, Any], hidden: dict[str, Any] | None = None) -> object:
    """Make an object of a value class from its parts.

    Raises:
        ResultCodecError: There is no such class, it is no value class, or its fields are others now.
    """
    kind: Any = find_class(name)
    names = _fields_of(kind)
    if names is None:
        raise ResultCodecError(name, "this is no class of values", "restore the class that was stored")
    if set(names) != set(fields):
        return _make_from_others(kind, name, fields, hidden or {})
    if issubclass(kind, tuple):
        return tuple.__new__(kind, [fields[each] for each in names])
    if issubclass(kind, msgspec.Struct):
        made = kind(**fields)
        for each, value in fields.items():
            msgspec.structs.force_setattr(made, each, value)
        return made
    model = _model_base(kind)
    if model is not None:
        made = kind.__new__(kind)
        beside = {_MODEL_STATE[ours]: held for ours, held in (hidden or {}).items()}
        model.__setstate__(made, {"__dict__": fields, **beside})
        return made
    made = object.__new__(kind)
    for each, value in fields.items():
        object.__setattr__(made, each, value)
    return made


def make_error(name: str, args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    """Make an exception from its parts.

    Raises:
        ResultCodecError: There is no such exception.
    """
    kind: Any = find_class(name, Exception)
    made: Exception = kind.__new__(kind, *args)
    # Those in C read their arguments into fields of their own; the class's constructor may take others.
    next(base for base in kind.__mro__ if base.__module__ == "builtins").__init__(made, *args)
    vars(made).update(attributes)
    return made


def find_class(name: str, base: type = object) -> type:
    """Return the class that ``module:qualified name`` stands for in the modules that are loaded.

    Raises:
        ResultCodecError: It is not there, or not derived from ``base``.
    """
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        # Not getattr: a module's own __getattr__ could import what was asked for.
        found = getattr(found, "__dict__", {}).get(part)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ResultCodecError(name, "there is no such class here", "import its module before, or put it back")
    return found


def name_of(kind: type, path: str) -> str:
    """Return the name under which `find_class` finds a class again.

    Raises:
        ResultCodecError: It would not find it, or another one.
    """
    name = f"{kind.__module__}:{kind.__qualname__}"
    try:
        found = find_class(name)
    except ResultCodecError:
        found = None
    if found is not kind:
        raise ResultCodecError(
            path, f"the class {name} is not found under its name", "define it at the top level of a module"
        )
    return name


def _take_error_apart(error: BaseException, path: str) -> ErrorParts:
    if not isinstance(error, Exception):
        raise ResultCodecError(path, f"a {type(error).__name__} is no result", "return plain values")
    args: Any = error.args
    if isinstance(error, OSError) and error.filename is not None:
        args = OSError.__reduce__(error)[1]  # the file names are not among its args
    parts = ErrorParts(tuple(args), dict(vars(error)))
    again = make_error(name_of(type(error), path), parts.args, parts.attributes)
    if str(again) != str(error):
        raise ResultCodecError(path, f"a {type(error).__qualname__} says more than its arguments tell", _KEEP_SIMPLE)
    return parts


def _fields_of(kind: Any) -> tuple[str, ...] | None:
    names = declared_fields(kind)
    made_in_c = issubclass(kind, (str, int, float, complex, bytes, bytearray, list, dict, set, frozenset))
    return None if made_in_c or issubclass(kind, BaseException) else names


def _model_base(kind: type) -> Any:
    return next((base for base in kind.__mro__ if base.__module__ == "pydantic.main"), None)


def _require_no_more(value: object, names: Iterable[str], path: str) -> None:
    known = set(names)
    for name in getattr(value, "__dict__", ()):
        cached = isinstance(inspect.getattr_static(type(value), name, None), cached_property)
        if name not in known and not cached and not name.startswith("__"):
            raise ResultCodecError(
                f"{path}.{name}", f"it is no field of {type(value).__qualname__}", "declare it, or leave it out"
            )


def _make_from_others(kind: Any, name: str, fields: dict[str, Any], hidden: dict[str, Any]) -> object:
    """Let the class fill in what it has got since, by its constructor.

    Raises:
        ResultCodecError: It wants fields that were not stored, or not these.
    """
    try:
        made = kind(**fields, **(hidden.get("extra") or {}))
        for each, value in (hidden.get("private") or {}).items():
            setattr(made, each, value)
    except Exception as error:
        raise ResultCodecError(
            name, f"its fields are others now ({error!r})", "give new fields a default and keep the old ones"
        ) from error
    return made
