"""One call: what is called with what, its fingerprint, and how it is recognised again without one.

The fingerprint covers the name of the function and its arguments, defaults filled in. The object of a method and what a
closure has captured are no part of it.

>>> def charge(invoice, amount=1): ...
>>> one, two = Subject(charge), Subject(charge)
>>> one.fingerprint({"invoice": "i", "amount": 1}) == two.fingerprint({"invoice": "i", "amount": 1})
True
>>> one.fingerprint({"invoice": "i", "amount": 1}) == two.fingerprint({"invoice": "i", "amount": True})
False
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from datetime import date
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

from ..._core.codec import Canonical, digest, is_writable
from ..._core.decorators import Arguments, as_coroutine_function, bound_object
from ..._core.tasks import complete
from ...errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from .options import Policy

__all__ = ["NOTHING", "Call", "Shape", "Subject", "Subjects", "require_key"]


def require_key(key: object) -> str:
    """Return the key.

    Raises:
        ConfigurationError: It is empty, or no string that can be written.
    """
    if not isinstance(key, str) or not key or not is_writable(key):
        raise ConfigurationError("key", key, "give a string that is not empty")
    return key


class Subject:
    """What is called, prepared once.

    Attributes:
        name: Module and name of the function.
        arguments: Its parameters.
    """

    __slots__ = ("_fields", "_not_facts", "arguments", "name")

    def __init__(self, func: Callable[..., Any]) -> None:
        if not callable(func):
            raise ConfigurationError("func", func, "give a function")
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise ConfigurationError("func", func, "give a function that returns, not one that yields")
        named = func if hasattr(func, "__qualname__") else type(func)
        self.name = f"{named.__module__}.{named.__qualname__}"
        self.arguments = Arguments(func)
        self._not_facts = bound_object(func, self.arguments.names)
        self._fields: dict[type, tuple[str, ...] | None] = {}

    def fingerprint(self, bound: Mapping[str, Any], facts: Callable[[Mapping[str, Any]], object] | None = None) -> str:
        """Return name and digest of a call with these arguments.

        Raises:
            ConfigurationError: An argument says nothing of its own: ``facts=`` has to say what of it counts.
        """
        if facts is None:
            named: Mapping[str, object] = {name: value for name, value in bound.items() if name != self._not_facts}
        else:
            named = {"facts": facts(bound)}
        return f"{self.name}#{digest(Canonical(self.name, fields=self._fields).encode(named))[:32]}"


class Subjects:
    """Remembers the functions that were called, as long as somebody else does."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Callable[..., Any], Subject] = WeakKeyDictionary()

    def get(self, func: Callable[..., Any]) -> Subject:
        """Return the subject of a function.

        Raises:
            ConfigurationError: It is no function, or one that yields.
        """
        if type(func) is not FunctionType:
            return Subject(func)
        known = self._known.get(func)
        if known is None:
            known = self._known[func] = Subject(func)
        return known


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function under a key.

    Attributes:
        key: The key.
        name: Name of the function.
        func, args, kwargs: What is called with what; of a `functools.partial` the parts.
        bound: The arguments by name.
        fingerprint: What another call of the key has to agree in.
        policy: What to do with its outcome.
    """

    key: str
    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    bound: Mapping[str, Any]
    fingerprint: str
    policy: Policy

    @classmethod
    def of(
        cls,
        key: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        policy: Policy,
        subjects: Subjects,
    ) -> Call:
        """Bind the arguments and take the fingerprint.

        Raises:
            ConfigurationError: The key, the function or an argument is not usable.
            TypeError: The arguments do not fit the function.
        """
        while isinstance(func, functools.partial):
            part: functools.partial[Any] = func
            func, args, kwargs = part.func, (*part.args, *args), {**part.keywords, **kwargs}
        subject = subjects.get(func)
        bound = subject.arguments.bind(args, kwargs)
        fingerprint = subject.fingerprint(bound, policy.facts)
        return cls(key, subject.name, func, args, kwargs, bound, fingerprint, policy)

    @property
    def label(self) -> str:
        """How people call this call: ``shop.charge[inv-17]``."""
        return f"{self.name}[{self.key}]"

    async def run(self) -> tuple[Any, asyncio.CancelledError | None]:
        """Call the function.

        Returns:
            What it returned; and the cancellation that came while it ran in a thread, where nothing interrupts it.
        """
        body = as_coroutine_function(self.func)
        if body is self.func:
            return await body(*self.args, **self.kwargs), None
        return await complete(body(*self.args, **self.kwargs))


class Shape:
    """How a call was written, where that is enough to recognise it: all arguments are immutable, of builtin types.

    Attributes:
        func: What was called; another object where that is not enough.
        args: The arguments, those by keyword behind the others.
        kinds: Their types: 1 == True == 1.0.
        names: The keywords.
    """

    __slots__ = ("args", "func", "kinds", "names")

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        values = (*args, *kwargs.values())
        kinds = tuple(map(type, values))
        # A closure, or the object of a method, would be kept alive; and 0.0 == -0.0.
        plain = type(func) is FunctionType and func.__closure__ is None
        enough = plain and _ATOMS.issuperset(kinds) and not any(type(each) is float and each == 0 for each in values)
        self.func: object = func if enough else NOTHING
        self.args, self.kinds, self.names = (values, kinds, tuple(kwargs)) if enough else ((), (), ())

    def fits(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Tell whether a call is certainly the same; False says nothing."""
        values = (*args, *kwargs.values())
        return (
            func is self.func
            and tuple(kwargs) == self.names
            # Types first: what == does with a type of the user's is not ours to find out.
            and tuple(map(type, values)) == self.kinds
            and values == self.args
        )


NOTHING: Final = object()
_ATOMS: Final = frozenset({str, int, float, bool, bytes, UUID, date, type(None)})
