"""What decorators need: bind arguments fast, call callbacks by parameter name, make any function a coroutine function.

>>> def charge(invoice, *, card="visa"): ...
>>> arguments = Arguments(charge)
>>> arguments.bind(("inv-1",), {})
{'invoice': 'inv-1', 'card': 'visa'}
>>> by_name(lambda card: card.upper(), arguments.names, "key")(arguments.bind(("inv-1",), {}))
'VISA'
>>> by_name(lambda cart: cart, arguments.names, "key")
Traceback (most recent call last):
    ...
asyncsandbox.errors...ConfigurationError: key='cart' is not allowed: name parameters of the function: invoice, card
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

P = ParamSpec("P")
R = TypeVar("R")

_Kind = inspect.Parameter
_MISSING: Final = object()


class Arguments:
    """The parameters of one function, prepared so that binding a call costs little.

    Args:
        function: Any callable; one without a readable signature is taken as ``(*args, **kwargs)``.
        defaults: Values for parameters that have no default of their own.
    """

    __slots__ = ("_keywords", "_positional", "_signature", "_simple", "_unset", "names")

    def __init__(self, function: Callable[..., object], defaults: Mapping[str, object] | None = None) -> None:
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError):
            self._signature = inspect.signature(lambda *args, **kwargs: (args, kwargs))
        if defaults:
            self._signature = self._signature.replace(
                parameters=[
                    p.replace(default=defaults[p.name]) if p.name in defaults and p.default is _Kind.empty else p
                    for p in self._signature.parameters.values()
                ]
            )
        parameters = self._signature.parameters.values()
        self.names: tuple[str, ...] = tuple(p.name for p in parameters)
        self._simple = not any(
            p.kind in (_Kind.VAR_POSITIONAL, _Kind.VAR_KEYWORD, _Kind.POSITIONAL_ONLY) for p in parameters
        )
        self._positional = tuple(p.name for p in parameters if p.kind is _Kind.POSITIONAL_OR_KEYWORD)
        self._unset = {p.name: _MISSING if p.default is _Kind.empty else p.default for p in parameters}
        # What a call that gives every positional argument and nothing else leaves to the defaults.
        keywords = {name: value for name, value in self._unset.items() if name not in self._positional}
        needs_keywords = any(value is _MISSING for value in keywords.values())
        self._keywords = keywords if self._simple and not needs_keywords else None

    @property
    def return_annotation(self) -> Any:
        """The return annotation as written, or `inspect.Signature.empty`."""
        return self._signature.return_annotation

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Any]:
        """Return every argument by name, defaults filled in, in the order of the parameters.

        Raises:
            TypeError: The arguments do not fit, worded as Python words it.
        """
        if not kwargs and self._keywords is not None and len(args) == len(self._positional):
            return {**dict(zip(self._positional, args, strict=True)), **self._keywords}
        if self._simple and len(args) <= len(self._positional):
            given = {**self._unset, **dict(zip(self._positional, args, strict=False)), **kwargs}
            # As many as there are parameters and none missing: none unknown, and none given twice.
            complete = len(given) == len(self.names) and not any(value is _MISSING for value in given.values())
            if complete and not any(name in kwargs for name in self._positional[: len(args)]):
                return given
        bound_arguments = self._signature.bind(*args, **kwargs)
        bound_arguments.apply_defaults()
        return dict(bound_arguments.arguments)


def by_name(callback: Callable[..., R], names: Iterable[str], field: str) -> Callable[[Mapping[str, Any]], R]:
    """Let a callback be called with just the arguments whose names it lists.

    Args:
        callback: Takes some of ``names``, in any order.
        names: What it may ask for.
        field: How error messages call it.

    Returns:
        A function of the bound arguments.

    Raises:
        ConfigurationError: It asks for a name that does not exist, or cannot be called.
    """
    if not callable(callback):
        raise ConfigurationError(field, callback, "give a function")
    known = tuple(names)
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):
        raise ConfigurationError(
            field, callback, "give a function that names its parameters, such as a lambda"
        ) from None
    if any(p.kind is _Kind.VAR_KEYWORD for p in parameters):
        return lambda bound: callback(**{name: bound[name] for name in known if name in bound})
    wanted = [p for p in parameters if p.name in known and p.kind is not _Kind.POSITIONAL_ONLY]
    for parameter in parameters:
        optional = parameter.default is not _Kind.empty or parameter.kind is _Kind.VAR_POSITIONAL
        by_position = parameter.kind is _Kind.POSITIONAL_ONLY
        if not optional and (by_position or parameter.name not in known):
            remedy = (
                "take it by name, without a /"
                if by_position
                else f"name parameters of the function: {', '.join(known)}"
            )
            raise ConfigurationError(field, parameter.name, remedy)
    if all(p.kind is _Kind.POSITIONAL_OR_KEYWORD for p in wanted):
        listed = tuple(p.name for p in wanted)
        if len(listed) == 1:
            only = listed[0]
            return lambda bound: callback(bound[only])
    keywords = tuple(p.name for p in wanted)
    return lambda bound: callback(**{name: bound[name] for name in keywords})


def bound_object(function: Callable[..., Any], names: tuple[str, ...]) -> str | None:
    """Return the name of the parameter that holds a method's object, if any; a plain function may book a ``cls``."""
    in_class = "." in getattr(function, "__qualname__", "").rpartition("<locals>.")[2]
    return names[0] if in_class and names[:1] in (("self",), ("cls",)) else None


def as_coroutine_function(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return a coroutine function that does the same; a plain function runs in a thread, with the context copied.

    Concurrency: threads come from anyio's limiter. Cancellation: a thread cannot be interrupted; the await ends with
        it.
    """
    if inspect.iscoroutinefunction(function):
        return function
    call = getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is a coroutine function
    if any(map(inspect.iscoroutinefunction, (inspect.unwrap(function), call))):
        return function

    @functools.wraps(function)
    async def in_thread(*args: Any, **kwargs: Any) -> Any:
        from anyio import to_thread

        result = await to_thread.run_sync(functools.partial(function, *args, **kwargs))
        return await result if inspect.isawaitable(result) else result

    return in_thread
