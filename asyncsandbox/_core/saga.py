"""Undoing, in reverse order, what reversible actions did before their saga failed."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from .journal import Level
from .ledger import ActionEvent
from .masking import cover, find_masked
from .tasks import outlast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from contextvars import Token
    from types import TracebackType

    from .journal import Journal
    from .ledger import Ledger, Row

Undo: TypeAlias = "Callable[[Mapping[str, Any]], Coroutine[Any, Any, Any]]"

_current: ContextVar[Saga | None] = ContextVar("asyncsandbox_saga", default=None)


class _Books(Protocol):
    ledger: Ledger
    journal: Journal


class Saga:
    """A block whose reversible actions are undone in reverse order when it fails.

    It promises that each finished action's undo is called once, the last action's first, also when the block is
    cancelled. It does not promise that an undo succeeds: one that raises leaves its action UNDO_UNKNOWN, and the others
    are undone all the same. A saga inside a saga hands its actions to the outer one when it ends well.

    Concurrency: actions may run in tasks started inside the block; await them before it ends. Cancellation:
    delivered after the undos have ended.
    """

    def __init__(self, books: _Books, name: str) -> None:
        self._books = books
        self._name = name
        self._done: list[tuple[Undo, Row, Mapping[str, Any], frozenset[str]]] = []
        self._outer: Saga | None = None
        self._token: Token[Saga | None] | None = None

    def __repr__(self) -> str:
        return f"<Saga {self._name!r} with {len(self._done)} to undo>"

    def add(self, undo: Undo, row: Row, bound: Mapping[str, Any], redact: frozenset[str] = frozenset()) -> None:
        """Note a finished action, what undoes it, and which of the arguments are masked."""
        self._done.append((undo, row, bound, redact))

    async def __aenter__(self) -> Self:
        self._outer = _current.get()
        self._token = _current.set(self)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        if exc is None:
            if self._outer is not None:
                self._outer._done.extend(self._done)  # noqa: SLF001 - the same class
            self._done.clear()
            return
        if isinstance(exc, GeneratorExit):
            return
        undoing = asyncio.get_running_loop().create_task(self._undo_all(exc), name=f"undo saga {self._name}")
        cancellation = await outlast(undoing)
        undoing.result()
        if cancellation is not None:
            raise cancellation

    async def _undo_all(self, cause: BaseException) -> None:
        while self._done:
            undo, row, bound, redact = self._done.pop()
            await self._undo(partial(undo, bound), row, find_masked(bound, redact), cause)

    async def _undo(
        self, undo: Callable[[], Awaitable[Any]], row: Row, masked: tuple[str, ...], cause: BaseException
    ) -> None:
        ledger, journal = self._books.ledger, self._books.journal
        await ledger.move_undo(row, ActionEvent.UNDO)
        try:
            await undo()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the other undos must go on
            await ledger.move_undo(row, ActionEvent.UNDO_LOSE, error=cover(repr(error), masked))
            cause.add_note(f"the undo of {row.call.label} raised {error!r}: nobody knows whether it is undone")
            journal.publish(
                "action.undo_unknown", component="actions", level=Level.ERROR, action=row.call.action, key=row.call.key
            )
        else:
            await ledger.move_undo(row, ActionEvent.UNDO_RETURN)
            journal.publish("action.undone", component="actions", action=row.call.action, key=row.call.key)


def current_saga() -> Saga | None:
    """Return the innermost saga around the caller, or None."""
    return _current.get()
