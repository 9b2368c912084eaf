r"""Copies of whatever an alert is given: plain, bounded, frozen, and made without trusting the original.

>>> frozen = freeze({"amount": 10, "ids": [1, 2], "rate": float("inf")})
>>> thaw(frozen)
{'amount': 10, 'ids': [1, 2], 'rate': 'inf'}
>>> to_text("known\ud800")
'known\\ud800'
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from ..._core.tokens import show_marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LONGEST_TEXT = 2000
MOST_VALUES = 200
DEEPEST = 6
CUT = "<cut>"
NOTHING: Mapping[str, object] = MappingProxyType({})

_INT_LIMIT = 2**63  # what every JSON reader with 64-bit integers can take
_SEQUENCES: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_SHOWN_BY_STR = (date, time, timedelta, Decimal, UUID)
_type: Callable[[object], Any] = type  # what it is, whatever its __class__ says


def to_text(value: object) -> str:
    """Return ``value`` as text that can be encoded, at most `LONGEST_TEXT` characters of it and a mark."""
    if type(value) is str and len(value) <= LONGEST_TEXT and value.isascii():
        return value
    try:
        text = str.__str__(cast("str", value)) if issubclass(_type(value), str) else _show(value)
        if len(text) > LONGEST_TEXT:
            text = text[:LONGEST_TEXT] + CUT
        return text if text.isascii() else show_marks(text).encode("utf-8", "backslashreplace").decode()
    except Exception as error:  # noqa: BLE001 - the value's own code failed
        return f"<{_type(value).__name__} that cannot be shown: {type(error).__name__}>"


def freeze(values: object) -> Mapping[str, object]:
    """Return a read-only copy of named values as plain JSON data; anything but a mapping gets the name ``value``."""
    copied = _Copy().visit(values, 0)
    if isinstance(copied, Mapping):
        return copied
    return NOTHING if copied is None else MappingProxyType({"value": copied})


def thaw(value: Any) -> Any:
    """Return what `freeze` made as dictionaries and lists of the caller's own."""
    if isinstance(value, Mapping):
        return {name: thaw(each) for name, each in value.items()}
    return [thaw(each) for each in value] if isinstance(value, tuple) else value


class _Copy:
    """One copy: what bounds it in depth and number bounds cycles and endless iterators too."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def visit(self, value: object, depth: int) -> object:
        try:
            return self._copy(value, depth)
        except Exception as error:  # noqa: BLE001 - the value's own code failed
            return f"<{_type(value).__name__} that cannot be shown: {type(error).__name__}>"

    def _copy(self, value: Any, depth: int) -> object:
        kind = _type(value)
        if value is None or kind is bool:
            return value
        if issubclass(kind, (int, float)):
            return _copy_number(value, kind)
        if issubclass(kind, Mapping):
            return self._copy_mapping(value, depth)
        if issubclass(kind, _SEQUENCES):
            return self._copy_sequence(value, depth)
        return to_text(value)

    def _copy_mapping(self, value: Mapping[object, object], depth: int) -> object:
        if depth >= DEEPEST:
            return CUT
        copied: dict[str, object] = {}
        for key, each in value.items():
            self._left -= 1
            if self._left < 0:
                copied[CUT] = CUT
                break
            name = to_text(key)
            while name in copied:
                name += "_"
            copied[name] = self.visit(each, depth + 1)
        return MappingProxyType(copied)

    def _copy_sequence(self, value: Iterable[object], depth: int) -> object:
        if depth >= DEEPEST:
            return CUT
        copied: list[object] = []
        for each in value:
            self._left -= 1
            if self._left < 0:
                copied.append(CUT)
                break
            copied.append(self.visit(each, depth + 1))
        return tuple(copied)


def _copy_number(value: Any, kind: Any) -> int | float | str:
    if issubclass(kind, int):
        whole = int.__add__(value, 0)
        return whole if -_INT_LIMIT <= whole < _INT_LIMIT else hex(whole)[:LONGEST_TEXT]
    number = float.__add__(value, 0.0)
    return number if number - number == 0 else repr(number)


def _show(value: object) -> str:
    kind = _type(value)
    if issubclass(kind, BaseException):
        return f"{kind.__name__}: {value}"
    return str(value) if issubclass(kind, _SHOWN_BY_STR) else repr(value)
