"""What all settings share: range checks that say what is allowed, and reading them from the environment.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True, slots=True, kw_only=True)
... class PumpSettings:
...     litres: float = 1.0
...     def __post_init__(self) -> None:
...         require_number("PumpSettings.litres", self.litres, above=0)
>>> PumpSettings(litres=-1)
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: PumpSettings.litres=-1 is not allowed: give a finite number > 0
>>> settings_from_environ(PumpSettings, "SHOP_PUMP__", {"SHOP_PUMP__LITRES": "2.5"})
PumpSettings(litres=2.5)
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

S = TypeVar("S")


def require_number(
    field: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
) -> None:
    """Check that a setting is a finite number within its range.

    Raises:
        ConfigurationError: It is not; the message names field, value and range.
    """
    kinds = (int,) if whole else (int, float)
    infinite = isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, kinds) and not isinstance(value, bool) and not infinite:
        too_low = (above is not None and value <= above) or (at_least is not None and value < at_least)
        if not too_low and (at_most is None or value <= at_most):
            return
    bounds = [
        f"{sign} {bound:g}" for sign, bound in ((">", above), (">=", at_least), ("<=", at_most)) if bound is not None
    ]
    allowed = f"give a {'whole' if whole else 'finite'} number {' and '.join(bounds)}".rstrip()
    raise ConfigurationError(field, value, allowed)


def require_name(field: str, value: object) -> None:
    """Check that a setting is text with something in it.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(field, value, "give a string that is not empty")


def settings_from_environ(kind: type[S], prefix: str, environ: Mapping[str, str]) -> S | None:
    """Build a settings object from the variables that start with ``prefix``.

    Returns:
        The settings, or None where no such variable is set.

    Raises:
        ConfigurationError: A variable names no field, or its text does not fit the field's type or range.
    """
    given = {name: text for name, text in environ.items() if name.startswith(prefix)}
    if not given:
        return None
    hints = typing.get_type_hints(kind)
    fields = {field.name.upper(): field.name for field in dataclasses.fields(typing.cast("Any", kind)) if field.init}
    values: dict[str, object] = {}
    for name, text in given.items():
        field = fields.get(name.removeprefix(prefix))
        if field is None:
            raise ConfigurationError(
                name, text, f"no such setting; known: {', '.join(prefix + f for f in sorted(fields))}"
            )
        values[field] = parse_text(name, text, hints[field])
    return kind(**values)


def parse_text(name: str, text: str, kind: Any) -> object:
    """Turn the text of an environment variable into a value of the annotated type.

    Raises:
        ConfigurationError: The text does not fit.
    """
    import msgspec

    if kind is bool or bool in typing.get_args(kind):
        text = {"1": "true", "0": "false", "yes": "true", "no": "false"}.get(text.strip().lower(), text.strip().lower())
    is_tuple = typing.get_origin(kind) is tuple
    raw: object = tuple(part.strip() for part in text.split(",") if part.strip()) if is_tuple else text
    try:
        return msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(name, text, f"{error}") from None
    except TypeError:  # of a type that msgspec does not know
        raise ConfigurationError(name, text, "no text can say this: set it in the program") from None


def keywords_from_environ(
    environ: Mapping[str, str], prefix: str, *, options: Mapping[str, Any], settings: Mapping[str, type[Any]]
) -> dict[str, Any]:
    """Return the keywords that the environment sets: ``PREFIX_OPTION`` and ``PREFIXsettings__FIELD``.

    Args:
        environ: Where to read from.
        prefix: What every variable of ours starts with.
        options: Type of each plain keyword.
        settings: Settings class of each keyword that takes one.

    Raises:
        ConfigurationError: A variable names nothing, or its text is not usable.
    """
    keywords: dict[str, Any] = {}
    prefixes = {f"{prefix}{name.upper()}__": name for name in settings}
    for start, name in prefixes.items():
        given = settings_from_environ(settings[name], start, environ)
        if given is not None:
            keywords[name] = given
    for variable, text in environ.items():
        if not variable.startswith(prefix) or variable.startswith(tuple(prefixes)):
            continue
        option = variable.removeprefix(prefix).lower()
        if option not in options:
            known = sorted([*(prefix + name.upper() for name in options), *(start + "..." for start in prefixes)])
            raise ConfigurationError(variable, text, f"no such setting; known: {', '.join(known)}")
        keywords[option] = parse_text(variable, text, options[option])
    return keywords
