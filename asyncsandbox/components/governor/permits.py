"""The permit a caller holds, and what holds one for the length of a block or of a call.

>>> from collections import Counter
>>> wanted = Counter({"api": 1})
>>> permit = HeldPermit(DryLine(wanted, "api"), 0.0, 1, 2.5)
>>> permit.give_back()
>>> permit.waited_seconds, wanted
(2.5, Counter({'api': 0}))
"""

from __future__ import annotations

import functools
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from ..._core.decorators import Arguments, as_coroutine_function, by_name

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Coroutine, Hashable
    from types import TracebackType

    from ..._core.ports import Permit
    from .lease import Lease
    from .line import Line

P = ParamSpec("P")
R = TypeVar("R")


class DryLine:
    """Stands in for a line in a dry run: counts what would have been asked of it.

    Args:
        wanted: What was asked for so far.
        key: Under what to count.
    """

    __slots__ = ("_key", "_wanted")

    def __init__(self, wanted: Counter[tuple[str, Hashable]], key: tuple[str, Hashable]) -> None:
        self._wanted = wanted
        self._key = key

    def take(self, cost: int) -> None:
        """Count a permit."""
        self._wanted[self._key] += cost

    def release(self) -> None:
        """Do nothing."""

    def give_back(self, _stamp: float, cost: int) -> None:
        """Count it no longer."""
        self._wanted[self._key] -= cost


class HeldPermit:
    """A `Permit`.

    Attributes:
        waited_seconds: How long it was waited for.
    """

    __slots__ = ("_cost", "_line", "_stamp", "waited_seconds")

    def __init__(self, line: Line | DryLine | Lease, stamp: float, cost: int, waited_seconds: float) -> None:
        self._line: Line | DryLine | Lease | None = line
        self._stamp = stamp
        self._cost = cost
        self.waited_seconds = waited_seconds

    def release(self) -> None:
        """Say that the call has ended: its slot is free again. Calling it again does nothing."""
        line, self._line = self._line, None
        if line is not None:
            line.release()

    def give_back(self) -> None:
        """Say that the call was never made: it counts no longer. Does nothing after `release`."""
        line, self._line = self._line, None
        if line is not None:
            line.give_back(self._stamp, self._cost)


class PermitBlock(AbstractAsyncContextManager["Permit"]):
    """Holds a permit for the length of an ``async with`` block; may be entered again, also at the same time."""

    __slots__ = ("_held", "_take", "_what")

    def __init__(self, take: Callable[..., Awaitable[Permit]], *what: object) -> None:
        self._take = take
        self._what = what
        self._held: list[Permit] = []

    async def __aenter__(self) -> Permit:
        permit = await self._take(*self._what)
        self._held.append(permit)
        return permit

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.pop().release()  # whoever's it is: they are all alike


class PermitDecorator(Protocol):
    """Lets each call of a function wait for a permit; same parameters and result, always a coroutine function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


def limit_calls(
    take: Callable[[Hashable, int], Awaitable[HeldPermit]],
    per: Callable[..., Hashable] | None,
    cost: int | Callable[..., int],
) -> PermitDecorator:
    """Return a decorator whose functions hold a permit while they run.

    Args:
        take: Waits for a permit, given whose it is and what it costs.
        per: Called with those arguments it names; gives whose it is.
        cost: What a call costs, or what gives it, called likewise.
    """
    give_per = _always(None) if per is None else per
    give_cost = cost if callable(cost) else _always(cost)

    def decorate(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        call, arguments = as_coroutine_function(function), Arguments(function)
        get_per = by_name(give_per, arguments.names, "per")
        get_cost = by_name(give_cost, arguments.names, "cost")

        @functools.wraps(function)
        async def limited(*args: Any, **kwargs: Any) -> Any:
            bound = arguments.bind(args, kwargs)
            permit = await take(get_per(bound), get_cost(bound))
            try:
                return await call(*args, **kwargs)
            finally:
                permit.release()

        return limited

    return decorate


def _always(value: R) -> Callable[[], R]:
    return lambda: value
