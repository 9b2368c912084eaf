"""An executor job as one step of the loop: what it sleeps is added to when it answers.

>>> import asyncio, time
>>> from asyncsandbox.testing.loop import SimLoop
>>> SimLoop().run(asyncio.to_thread(sum, (1, 2)))
3
"""

# ruff: noqa: SLF001 - a thread has no running loop

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .incarnation import Incarnation
    from .loop import SimLoop

__all__ = ["Job"]


class Job:
    """One call that would run in a thread.

    Attributes:
        future: Its outcome.
        label: Its name in the trace.
        slept: Virtual seconds it has slept so far; the loop answers its awaiter that much later.
    """

    __slots__ = ("_args", "_func", "_incarnation", "_loop", "future", "label", "slept")

    def __init__(
        self, loop: SimLoop, func: Callable[..., Any], args: tuple[Any, ...], incarnation: Incarnation | None
    ) -> None:
        self._loop = loop
        self._func = func
        self._args = args
        self._incarnation = incarnation
        self.future: asyncio.Future[Any] = loop.create_future()
        self.label = f"thread:{_name(func)}"
        self.slept = 0.0

    def run(self) -> None:
        """Run it, as a thread would: without a running loop and in a context of its own.

        Raises:
            KeyboardInterrupt: It was interrupted.
            SystemExit: It wants the process to end.
        """
        if self.future.cancelled():
            return
        context = Context() if self._incarnation is None else self._incarnation.bare_context()
        self._loop.job = self
        asyncio._set_running_loop(None)
        try:
            self._answer(self.future.set_result, context.run(self._func, *self._args))
        except (KeyboardInterrupt, SystemExit):
            raise
        except StopIteration as error:  # a future cannot hold it
            self._answer(self.future.set_exception, RuntimeError(f"a job raised {error!r}"))
        except BaseException as error:  # noqa: BLE001 - it reaches whoever awaits the job
            self._answer(self.future.set_exception, error)
        finally:
            asyncio._set_running_loop(self._loop)
            self._loop.job = None

    def _answer(self, settle: Callable[[Any], object], outcome: object) -> None:
        if self.slept:
            self._loop.call_at(self._loop.time(), self._settle, settle, outcome)
        else:
            settle(outcome)

    def _settle(self, settle: Callable[[Any], object], outcome: object) -> None:
        if not self.future.done():
            settle(outcome)


def _name(func: Callable[..., Any]) -> str:
    """Return the name of the function inside `asyncio.to_thread`'s and others' wrappings."""
    inner: Any = getattr(func, "args", (func,))
    named = inner[0] if inner else func
    return str(getattr(named, "__qualname__", type(named).__qualname__))
