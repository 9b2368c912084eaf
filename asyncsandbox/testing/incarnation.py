"""One life of a simulated process: what belongs to it stops for good when its power is cut.

Membership is inherited like any ContextVar: whatever is started from inside a life belongs to it.

>>> life = Incarnation(1)
>>> current_incarnation() is None, life.context().run(current_incarnation) is life
(True, True)
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from contextvars import Context, ContextVar, copy_context
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from asyncio import Handle
    from collections.abc import AsyncGenerator, Callable

    from .lanes import SimTask

__all__ = ["Incarnation", "current_incarnation"]

# A task that goes on awaiting while it is being closed gets this many chances to end.
_CLOSING_ATTEMPTS = 10
_WAITING = frozenset({AsyncGeneratorType, CoroutineType, GeneratorType})
_WRAPPINGS = frozenset(
    {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}
)  # CPython shows no more
_MANY = 1_000  # so many references to what is gone are kept

T = TypeVar("T")

_incarnation: ContextVar[Incarnation | None] = ContextVar("asyncsandbox_incarnation", default=None)


def current_incarnation() -> Incarnation | None:
    """Return the life this code belongs to, or None outside every one."""
    return _incarnation.get()


def incarnation_of(context: Context) -> Incarnation | None:
    """Return the life that code in ``context`` belongs to."""
    return context.get(_incarnation)


class Incarnation:
    """One life of a simulated process. `SimLoop.new_incarnation` makes them.

    Attributes:
        number: 1 for the first life on a loop.
        alive: Whether its power is still on.
    """

    __slots__ = ("_on_cut", "alive", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True
        self._on_cut: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<Incarnation {self.number} ({'alive' if self.alive else 'dead'})>"

    def context(self) -> Context:
        """Return a copy of the current context in which what is started belongs to this life."""
        context = copy_context()
        context.run(_incarnation.set, self)
        return context

    def bare_context(self) -> Context:
        """Return an empty context, as a thread starts with, in which what is started belongs to this life."""
        context = Context()
        context.run(_incarnation.set, self)
        return context

    def on_cut(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called when the power is cut: what an operating system would release."""
        self._on_cut.append(callback)

    def cut(self) -> None:
        """Cut the power. The loop calls this; use `SimLoop.power_cut`."""
        self.alive = False
        callbacks, self._on_cut = self._on_cut, []
        for callback in callbacks:
            callback()


class WeakList(Generic[T]):
    """Things that may go away by themselves, in the order they came."""

    __slots__ = ("_limit", "_refs")

    def __init__(self) -> None:
        self._refs: list[weakref.ref[T]] = []
        self._limit = _MANY

    def append(self, thing: T) -> None:
        """Add one."""
        if len(self._refs) >= self._limit:
            self._refs = [ref for ref in self._refs if ref() is not None]
            self._limit = _MANY + 2 * len(self._refs)
        self._refs.append(weakref.ref(thing))

    def living(self) -> list[T]:
        """Return those that are still there."""
        return [thing for ref in self._refs if (thing := ref()) is not None]


class Graveyard:
    """Keeps what was alive at a power cut, so that no ``finally`` runs before the whole run is over."""

    __slots__ = ("_handles", "_tasks")

    def __init__(self) -> None:
        self._tasks: dict[int, SimTask] = {}
        self._handles: list[Handle | AsyncGenerator[Any, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._tasks or self._handles)

    def bury_task(self, task: SimTask) -> None:
        """Keep a task that will not run again."""
        setattr(task, "_log_destroy_pending", False)  # noqa: B010 - in no stub; asyncio would complain of every dead task
        self._tasks[task.number] = task

    def bury(self, dead: Handle | AsyncGenerator[Any, Any]) -> None:
        """Keep a callback that will not be called, or a generator that will not go on."""
        self._handles.append(dead)

    def close(self) -> None:
        """Let go of everything, newest first, each in its own context. The world must refuse what they try."""
        while self._tasks:
            _close(self._tasks.pop(max(self._tasks)))
        self._handles.clear()


def _close(task: SimTask) -> None:
    """Close what a task runs from the inside out: closed from the outside, an inner one would get a single chance."""
    chances = _CLOSING_ATTEMPTS
    while chances and (coroutine := _innermost(task.get_coro())) is not None:
        with contextlib.suppress(BaseException):
            task.context.run(coroutine.close)
        if _is_suspended(coroutine):
            chances -= 1


def _innermost(coroutine: Any) -> Any:
    """Return the innermost suspended coroutine or generator of a chain of those that wait for each other."""
    innermost = None
    while True:
        if _is_suspended(coroutine):
            innermost = coroutine
        kind = type(coroutine)
        if kind is CoroutineType:
            coroutine = coroutine.cr_await
        elif kind is GeneratorType:
            coroutine = coroutine.gi_yieldfrom
        elif kind is AsyncGeneratorType:
            coroutine = coroutine.ag_await
        elif kind.__name__ in _WRAPPINGS:
            coroutine = next((each for each in gc.get_referents(coroutine) if type(each) in _WAITING), None)
        else:
            break
    return innermost


def _is_suspended(coroutine: Any) -> bool:
    frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
    return frame is not None
