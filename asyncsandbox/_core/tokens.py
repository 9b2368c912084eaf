"""Stand-ins for results that exist only after apply.

A held-back action returns a value shaped like its return annotation, with a `Token` in each text field, and an `Opaque`
where the annotation says too little. Both may be handed on to other actions; a token may also be put into longer
text. To look at one (compare, measure, take apart, branch on) raises `KnownAfterApplyError`, because the answer
would be made up.

>>> charge_id = Token("card.charge[inv-17].id")
>>> labels_in(f"Your receipt: {charge_id}")
['card.charge[inv-17].id']
>>> charge_id == "ch_1"
Traceback (most recent call last):
    ...
asyncsandbox.errors...KnownAfterApplyError: card.charge[inv-17].id is known only after apply, and == ...
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections import deque
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn, Self

import msgspec

from ..errors import KnownAfterApplyError

if TYPE_CHECKING:
    from collections.abc import Callable

_OPEN, _CLOSE = "\u27e6", "\u27e7"
_MARK = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]+){_CLOSE}")
# As `json.dumps` and URL quoting write the two marks.
_ESCAPED = re.compile(r"\\+u27e([67])|%E2%9F%A([67])", re.IGNORECASE)
_PACKAGE = __name__.partition(".")[0]


def mark(label: str) -> str:
    """Return the text by which a reference is recognised inside longer text."""
    return f"{_OPEN}{label}{_CLOSE}"


def plain_text(token: str) -> str:
    """Return the text of a token as a plain string, mark included."""
    return "".join((token,))  # noqa: FLY002 - formatting would go through the token


def labels_in(text: str) -> list[str]:
    """Return the labels of the tokens that were put into ``text``, JSON and quoted URLs included."""
    if "27e6" in text or "%9F%A6" in text:
        text = _ESCAPED.sub(lambda found: _OPEN if "6" in found.groups() else _CLOSE, text)
    return _MARK.findall(text) if _OPEN in text else []


def labels_in_bytes(data: bytes | bytearray) -> list[str]:
    """Return the labels of the tokens that were put into text and then encoded."""
    return labels_in(data.decode("utf-8", "ignore"))


def show_marks(text: str) -> str:
    """Replace the marks of tokens in ``text`` by words for people."""
    return _MARK.sub(r"(known after apply: \1)", text) if _OPEN in text else text


class _Refusing:
    """What tokens and opaque values share: a label, and no answer to anything."""

    asyncsandbox_label: str

    def _refuse(self, use: str) -> NoReturn:
        raise KnownAfterApplyError(self.asyncsandbox_label, use, call_site())


def _refusal(use: str) -> Any:
    def refuse(self: _Refusing, *_args: object) -> NoReturn:
        self._refuse(use)

    return refuse


_QUESTIONS = {
    "__eq__": "==",
    "__ne__": "!=",
    "__lt__": "<",
    "__le__": "<=",
    "__gt__": ">",
    "__ge__": ">=",
    "__bool__": "its truth value",
    "__hash__": "hash()",
    "__len__": "len()",
    "__iter__": "iteration",
    "__contains__": "in",
    "__getitem__": "indexing",
    "__mul__": "*",
    "__rmul__": "*",
    "__mod__": "%",
}
_NUMBER_QUESTIONS = {
    "__int__": "int()",
    "__float__": "float()",
    "__index__": "an index",
    "__add__": "+",
    "__radd__": "+",
    "__sub__": "-",
    "__rsub__": "-",
    "__truediv__": "/",
    "__rtruediv__": "/",
    "__floordiv__": "//",
    "__neg__": "negation",
    "__abs__": "abs()",
    "__round__": "round()",
    "__call__": "a call",
    "__await__": "await",
}
_TEXT_METHODS = tuple(name for name in vars(str) if not name.startswith("_"))


class Token(_Refusing, str):  # noqa: PLW1641 - __hash__ is set below, with all that refuses
    """Text that will be known after apply. It passes wherever text passes, and answers no question.

    Text made from it (``f"{token}"``, ``"..." + token``) carries a mark by which a plan finds the reference again.
    """

    __slots__ = ("asyncsandbox_label",)

    def __new__(cls, label: str, text: str | None = None) -> Self:
        self = super().__new__(cls, mark(label) if text is None else text)
        self.asyncsandbox_label = label
        return self

    def __repr__(self) -> str:
        return show_marks(str.__str__(self))

    def __str__(self) -> str:
        return self

    def __format__(self, how: str) -> str:
        return self if not how else self._refuse(f"formatting with {how!r}")

    def __eq__(self, other: object) -> bool:
        # Two answers are certain: no text is equal to None or a number, and a token is equal to itself.
        if not isinstance(other, str):
            return False
        return plain_text(self) == plain_text(other) or self._refuse("==")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __add__(self, other: str) -> Token:
        return Token(self.asyncsandbox_label, str.__add__(self, other))

    def __radd__(self, other: str) -> Token:
        return Token(self.asyncsandbox_label, str.__add__(other, str.__str__(self)))

    def __reduce__(self) -> tuple[type[Token], tuple[str, str]]:
        return (Token, (self.asyncsandbox_label, plain_text(self)))


class Opaque(_Refusing):
    """A result about which nothing is known; it may only be handed on to actions."""

    __slots__ = ("asyncsandbox_label",)

    def __init__(self, label: str) -> None:
        object.__setattr__(self, "asyncsandbox_label", label)

    def __repr__(self) -> str:
        return f"(known after apply: {self.asyncsandbox_label})"

    def __str__(self) -> str:
        return mark(self.asyncsandbox_label)

    def __format__(self, how: str) -> str:
        return str(self) if not how else self._refuse(f"formatting with {how!r}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # what tools ask of any object: how to copy it, how to print it
            raise AttributeError(name)
        self._refuse(f".{name}")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        self._refuse(f".{name} = ...")

    def __reduce__(self) -> tuple[type[Opaque], tuple[str]]:
        return (Opaque, (self.asyncsandbox_label,))


for _name, _use in {**_QUESTIONS, "__int__": "int()", "__float__": "float()"}.items():
    if _name not in ("__eq__", "__ne__"):
        setattr(Token, _name, _refusal(_use))
for _name, _use in {**_QUESTIONS, **_NUMBER_QUESTIONS}.items():
    setattr(Opaque, _name, _refusal(_use))
for _name in _TEXT_METHODS:
    setattr(Token, _name, _refusal(f".{_name}()"))


def stand_in_maker(annotation: object) -> Callable[[str], Any]:
    """Return what makes the values that held-back calls of one action return.

    Args:
        annotation: The action's return annotation, resolved.

    Returns:
        A function of the call's label (``card.charge[inv-17]``). It gives None, a token, an object with tokens in its
        text fields, or an opaque value; it raises `KnownAfterApplyError` where a required field is not text.
    """
    if annotation in (None, type(None)):
        return lambda _label: None
    if _is_text(annotation):
        return Token
    fields = _declared_fields(annotation)
    if fields is None:
        return Opaque
    hints = _resolved_fields(annotation)
    aliases = {a.name: a.alias for a in getattr(annotation, "__attrs_attrs__", ())}
    parts = [
        (name, aliases.get(name, name), _part_maker(hints.get(name, Any), annotation))
        for name, required in fields.items()
        if required or _is_text(hints.get(name, Any))
    ]
    # Pydantic's validation would turn tokens into plain text, which answers questions silently.
    make: Any = getattr(annotation, "model_construct", annotation)
    return lambda label: make(**{given: part(f"{label}.{name}") for name, given, part in parts})


def tokens_in(value: object, depth: int = 8) -> list[str]:
    """Return the labels of all stand-ins inside a value, as far as its declared structure goes."""
    if isinstance(value, Token | Opaque):
        return [value.asyncsandbox_label]
    if isinstance(value, str):
        return labels_in(str.__str__(value))
    if isinstance(value, PurePath):
        return labels_in(value.as_posix())
    if isinstance(value, bytes | bytearray):
        return labels_in_bytes(value)
    if depth == 0 or value is None or isinstance(value, int | float):
        return []
    parts: typing.Iterable[object] = ()
    if isinstance(value, Mapping):
        parts = (*value.keys(), *value.values())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts = value
    elif (names := _declared_fields(type(value))) is not None:
        parts = (getattr(value, name, None) for name in names)
    return [label for part in parts for label in tokens_in(part, depth - 1)]


def call_site() -> str:
    """Return ``file:line`` of the nearest caller, a library only for want of another; "" where a task hides it."""
    in_library = ""
    frame: types.FrameType | None = sys._getframe(1)  # noqa: SLF001 - the documented way to read one's own stack cheaply
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module in _LOOP:
            break
        # Generated code has no name.
        if module and module.partition(".")[0] not in _PLUMBING:
            site = f"{short_path(frame.f_code.co_filename)}:{frame.f_lineno}"
            if _LIBRARIES not in frame.f_code.co_filename:
                return site
            in_library = in_library or site
        frame = frame.f_back
    return in_library


_PLUMBING = frozenset({_PACKAGE, *sys.stdlib_module_names})
_LIBRARIES = "site-packages"
# Below these frames stands whoever started the loop, not whoever made the call.
_LOOP = frozenset({"asyncio.events", "asyncio.base_events", "asyncio.runners"})


def short_path(filename: str) -> str:
    """Return the name of a source file without its folders, which differ from machine to machine."""
    return filename.replace("\\", "/").rpartition("/")[2]


def resolve(raw: object, namespace: Mapping[str, Any]) -> object:
    """Return an annotation with its names looked up; `typing.Any` where one cannot be found at run time."""
    holder = types.SimpleNamespace(__annotations__={"it": raw})
    try:
        return typing.get_type_hints(holder, globalns=dict(namespace))["it"]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return Any


def _resolved_fields(kind: Any) -> dict[str, object]:
    """Resolve each field by itself, so that one name imported for type checkers only does not hide the others."""
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        pass
    hints: dict[str, object] = {}
    for owner in reversed(kind.__mro__):
        module = sys.modules.get(owner.__module__)
        namespace = {**vars(module or typing), **vars(owner)}
        raw = vars(owner).get("__annotations__", {})
        hints |= {name: resolve(annotation, namespace) for name, annotation in raw.items()}
    return hints


def _part_maker(kind: object, whole: object) -> Callable[[str], Any]:
    if _is_text(kind) or _declared_fields(kind) is not None:
        return stand_in_maker(kind)

    def refuse(label: str) -> NoReturn:
        raise KnownAfterApplyError(label, f"the return type {getattr(whole, '__name__', whole)}", call_site())

    return refuse


def _is_text(kind: object) -> bool:
    if typing.get_origin(kind) is typing.Annotated:
        return _is_text(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return set(typing.get_args(kind)) == {str, type(None)}
    if isinstance(kind, typing.NewType):
        return _is_text(kind.__supertype__)
    return kind is str


def _declared_fields(kind: object) -> dict[str, bool] | None:  # noqa: PLR0911 - one return per kind of class
    """Return the fields of a class that values of it are made from, each with "is it required", or None."""
    if not isinstance(kind, type):
        return None
    if typing.is_typeddict(kind):
        required: frozenset[str] = vars(kind)["__required_keys__"]
        return {name: name in required for name in kind.__annotations__}
    if dataclasses.is_dataclass(kind):
        return {f.name: _no_default(f) for f in dataclasses.fields(kind) if f.init}
    if issubclass(kind, msgspec.Struct):
        defaults = dict(zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False))
        return {name: defaults.get(name, msgspec.NODEFAULT) is msgspec.NODEFAULT for name in kind.__struct_fields__}
    attributes = getattr(kind, "__attrs_attrs__", None)
    if attributes is not None:
        return {a.name: repr(a.default) == "NOTHING" for a in attributes if a.init}
    model = getattr(kind, "model_fields", None)
    if isinstance(model, dict):
        return {name: field.is_required() for name, field in model.items()}
    names = getattr(kind, "_fields", None)
    if isinstance(names, tuple):
        defaults = getattr(kind, "_field_defaults", {})
        return {name: name not in defaults for name in names}
    return None


def _no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
